/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * CHIMERA_TRACE=1: a line on standard error for each move, by home:
 *
 *   chimera: 71: x86 -> arm in solve
 *   chimera: 71: arm -> x86 returned
 *
 * with the thread's id and the function that goes on there.  Its name comes from
 * the program's symbols; in a stripped program it is the address of its clone.
 */

#include "elf.h"
#include "thread.h"

#define NR_WRITE    1
#define NR_OPENAT   257
#define NR_CLOSE    3
#define NR_LSEEK    8
#define NR_MMAP     9

#define AT_FDCWD    -100
#define O_CLOEXEC   02000000
#define SEEK_END    2
#define SHT_SYMTAB  2

extern const struct table_row __chimera_table[];

bool chimera_tracing;

struct sym {
    uint32_t name;
    unsigned char info, other;
    uint16_t shndx;
    uint64_t value, size;
};

static const struct sym *symbols;
static uint64_t nr_symbols, strings_bytes;
static const char *strings;

/* The program runs, so its headers are right; it may have no symbols. */
void chimera_trace_start(void)
{
    const struct ehdr *eh;
    const struct shdr *sh;
    long fd, len, p;

    fd = chimera_native_syscall(NR_OPENAT, AT_FDCWD, (long)"/proc/self/exe",
                                O_CLOEXEC, 0, 0, 0);
    if (fd < 0) {
        return;
    }
    len = chimera_native_syscall(NR_LSEEK, fd, 0, SEEK_END, 0, 0, 0);
    /* PROT_READ, MAP_PRIVATE */
    p = chimera_native_syscall(NR_MMAP, 0, len, 1, 2, fd, 0);
    chimera_native_syscall(NR_CLOSE, fd, 0, 0, 0, 0, 0);
    if (p < 0 && p > -4096) {
        return;
    }
    eh = (const struct ehdr *)p;
    sh = (const struct shdr *)(p + eh->shoff);
    for (unsigned i = 1; i < eh->shnum; i++) {
        if (sh[i].type == SHT_SYMTAB && sh[i].link < eh->shnum) {
            strings = (const char *)p + sh[sh[i].link].offset;
            strings_bytes = sh[sh[i].link].size;
            nr_symbols = sh[i].size / sizeof(*symbols);
            symbols = (const struct sym *)(p + sh[i].offset);
        }
    }
}

/* The function whose clone is at @address, without "$resume" */
static char *put_name(char *to, char *end, uint64_t address)
{
    const struct sym *s = symbols;

    for (uint64_t i = 0; s && i < nr_symbols; i++) {
        const char *name = strings + s[i].name;

        if (s[i].value != address || s[i].name >= strings_bytes || !*name ||
            *name == '$') {
            continue;
        }
        while (*name && *name != '$' && to < end) {
            *to++ = *name++;
        }
        return to;
    }
    return chimera_put_hex(chimera_put_text(to, "0x"), address);
}

/* @how: NULL: the frames in the buffer move */
void chimera_trace(struct thread *t, int from, int to, const char *how)
{
    const struct record *inner = (const struct record *)t->buffer;
    char text[256], *end = text + sizeof(text) - 32, *p;

    p = chimera_put_text(text, "chimera: ");
    p = chimera_put_number(p, t->tid);
    p = chimera_put_text(p, ": ");
    p = chimera_put_text(p, chimera_node_name(from));
    p = chimera_put_text(p, " -> ");
    p = chimera_put_text(p, chimera_node_name(to));
    if (how) {
        p = chimera_put_text(chimera_put_text(p, " "), how);
    } else {
        p = chimera_put_text(p, " in ");
        p = put_name(p, end, (uint64_t)__chimera_table[inner->fn].resume);
    }
    *p++ = '\n';
    chimera_native_syscall(NR_WRITE, 2, (long)text, p - text, 0, 0, 0);
}
