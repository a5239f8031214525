/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * chimera-image: starts a program of the other ISA that carries an image for
 * this one, as chimera-cc makes them: in the section .chimera.ISA.
 *
 * The kernel calls it (binfmt_misc, see init.c) as
 *
 *   chimera-image FILE ARGV[0] ARGV[1]...
 *
 * The image goes to a memory file, which is executed. The program finds FILE in
 * its environment (CHIMERA_FILE) and takes it out of there.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define OWN_ISA "x86_64"
#elif defined(__aarch64__)
#define OWN_ISA "aarch64"
#else
#error "an ISA without nodes"
#endif

/* As env(1): found, but cannot be started. */
enum { STATUS_CANNOT = 126 };
#define MAX_SECTIONS 65535

static const char *file;

static _Noreturn void __attribute__((format(printf, 1, 2)))
fail(const char *fmt, ...)
{
    va_list ap;

    fprintf(stderr, "%s: ", file);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, "\n");
    exit(STATUS_CANNOT);
}

static void read_at(int fd, void *to, size_t len, off_t at)
{
    ssize_t n = pread(fd, to, len, at);

    if (n != (ssize_t)len) {
        fail("%s", n < 0 ? strerror(errno) : "the file is truncated");
    }
}

static const char *isa_of(const Elf64_Ehdr *eh)
{
    return eh->e_machine == EM_X86_64    ? "an x86_64"
           : eh->e_machine == EM_AARCH64 ? "an aarch64"
                                         : "another ISA's";
}

/* The section with our image, or fails. */
static Elf64_Shdr find_image(int fd, uint64_t file_bytes)
{
    static const char name[] = ".chimera." OWN_ISA;
    Elf64_Ehdr eh;
    Elf64_Shdr *sh, strings, found;
    char text[sizeof(name)];

    read_at(fd, &eh, sizeof(eh), 0);
    if (!eh.e_shnum || eh.e_shentsize != sizeof(Elf64_Shdr) ||
        eh.e_shstrndx >= eh.e_shnum || eh.e_shoff > file_bytes ||
        eh.e_shnum > (file_bytes - eh.e_shoff) / sizeof(Elf64_Shdr)) {
        fail("%s program on an " OWN_ISA " node", isa_of(&eh));
    }
    sh = malloc(eh.e_shnum * sizeof(*sh));
    if (!sh) {
        fail("no memory");
    }
    read_at(fd, sh, eh.e_shnum * sizeof(*sh), eh.e_shoff);
    strings = sh[eh.e_shstrndx];
    for (unsigned i = 1; i < eh.e_shnum; i++) {
        if (sh[i].sh_name < strings.sh_size &&
            pread(fd, text, sizeof(text), strings.sh_offset + sh[i].sh_name) ==
                sizeof(text) &&
            !memcmp(text, name, sizeof(name))) {
            found = sh[i];
            free(sh);
            if (found.sh_offset > file_bytes ||
                found.sh_size > file_bytes - found.sh_offset) {
                fail("the file is truncated");
            }
            return found;
        }
    }
    fail("%s program on an " OWN_ISA " node", isa_of(&eh));
}

int main(int argc, char **argv)
{
    char path[PATH_MAX];
    const char *slash;
    Elf64_Shdr image;
    struct stat st;
    off_t at;
    int fd, to;

    if (argc < 3) {
        fprintf(stderr, "usage: chimera-image FILE ARGV0 [ARGUMENT...]\n"
                        "Starts the image for " OWN_ISA " that FILE carries; the "
                        "kernel calls this.\n");
        return 2;
    }
    file = argv[1];
    fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0 || !realpath(file, path)) {
        fail("%s", strerror(errno));
    }
    image = find_image(fd, st.st_size);
    slash = strrchr(file, '/');
    to = memfd_create(slash ? slash + 1 : file, MFD_CLOEXEC);
    if (to < 0) {
        fail("%s", strerror(errno));
    }
    at = image.sh_offset;
    for (uint64_t left = image.sh_size; left;) {
        ssize_t n = sendfile(to, fd, &at, left);

        if (n <= 0) {
            fail("copy: %s", n ? strerror(errno) : "the file is truncated");
        }
        left -= n;
    }
    if (fchmod(to, 0555) < 0 || setenv("CHIMERA_FILE", path, 1) < 0) {
        fail("%s", strerror(errno));
    }
    syscall(SYS_execveat, to, "", argv + 2, environ, AT_EMPTY_PATH);
    fail("image: %s", strerror(errno));
}
