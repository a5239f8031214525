/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * chimera-pages PAGE...: who on this node has these pages of this node's
 * memory mapped, a line for each that somebody has, and then who has which
 * segment mapped. PAGE counts from the beginning of the node's memory.
 *
 *   31337 segment counters: ping[203]
 *   4711 relay[97]
 *   12 kernel: slab
 *   segment counters: ping[203], log[207]
 *
 * It asks /proc/PID/pagemap, which knows nothing of pages in a window on
 * another node: those are asked for at their home. It takes root.
 */
#define _GNU_SOURCE
#include <chimera/guest.h>

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGE_BYTES 4096
#define MAX_PAGES 256
#define MAX_SEGMENTS 64 /* those that come later are left out */
#define MAX_NAMED 3 /* processes by name; of others only how many */
#define CHUNK 4096  /* entries of pagemap in one read */
/* Entries in all: 64 GiB of mappings. What comes later is not looked at. */
#define MAX_ENTRIES (UINT64_C(1) << 24)

#define PAGEMAP_PRESENT (UINT64_C(1) << 63)
#define PAGEMAP_PFN ((UINT64_C(1) << 55) - 1)

struct processes {
    unsigned nr;
    char name[MAX_NAMED][48];
    int last_pid;
};

struct wanted {
    const char *name; /* as it was given */
    uint64_t pfn;     /* 0: there is no such page */
    char label[CHIMERA_SEG_NAME_BYTES + 16];
    struct processes who;
};

struct segment {
    char label[CHIMERA_SEG_NAME_BYTES + 16];
    struct processes who;
};

static struct wanted wanted[MAX_PAGES];
static int nr_wanted;
static struct segment segments[MAX_SEGMENTS];
static int nr_segments;
static uint64_t entries;

static bool read_text(const char *path, char *ret, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, ret, size - 1);

    if (fd >= 0) {
        close(fd);
    }
    if (n < 0) {
        return false;
    }
    ret[n] = '\0';
    for (char *p = ret; *p; p++) {
        if (*p != '\n' && !isprint((unsigned char)*p)) {
            *p = '?';
        }
    }
    return true;
}

/* ---- which page frame ---- */

static uint64_t own_pfn(uint64_t page)
{
    uint64_t at = page * PAGE_BYTES, gpa, offset, len;
    char text[512], *line = text;
    int n;

    if (!read_text(CHIMERA_SYSFS "/ram_extents", text, sizeof(text))) {
        return 0;
    }
    while (sscanf(line, "%" SCNx64 " %" SCNx64 " %" SCNx64 "%n", &gpa, &offset,
                  &len, &n) == 3) {
        if (at >= offset && at - offset < len) {
            return (gpa + at - offset) / PAGE_BYTES;
        }
        line += n;
    }
    return 0;
}

/* false: it is not a number. */
static bool want(const char *arg)
{
    struct wanted *w = &wanted[nr_wanted++];
    uint64_t page;
    char *end;

    errno = 0;
    page = strtoull(arg, &end, 10);
    if (!isdigit((unsigned char)*arg) || *end || errno) {
        return false;
    }
    w->name = arg;
    w->pfn = page > UINT64_MAX / PAGE_BYTES ? 0 : own_pfn(page);
    return true;
}

static int by_pfn(const void *a, const void *b)
{
    const struct wanted *x = a, *y = b;

    return (x->pfn > y->pfn) - (x->pfn < y->pfn);
}

/* ---- who has it ---- */

/* What a mapping says about a page: a segment's name, else nothing. */
static void label_of(const char *path, char *ret, size_t size)
{
    static const char segment[] = "chimera:";
    const char *name = strstr(path, segment);

    *ret = '\0';
    if (name && (name == path || name[-1] == '/')) {
        name += strlen(segment);
        snprintf(ret, size, "segment %.*s", (int)strcspn(name, "\n "), name);
    }
}

static void add_process(struct processes *who, int pid, const char *comm)
{
    if (who->last_pid == pid) {
        return;
    }
    who->last_pid = pid;
    if (who->nr < MAX_NAMED) {
        snprintf(who->name[who->nr], sizeof(who->name[0]), "%s[%d]", comm, pid);
    }
    who->nr++;
}

static void add_segment(const char *label, int pid, const char *comm)
{
    int i;

    for (i = 0; i < nr_segments && strcmp(segments[i].label, label); i++) {
    }
    if (i == nr_segments) {
        if (nr_segments == MAX_SEGMENTS) {
            return;
        }
        snprintf(segments[nr_segments++].label, sizeof(segments[i].label), "%s",
                 label);
    }
    add_process(&segments[i].who, pid, comm);
}

static void look_at(int fd, int pid, const char *comm, uint64_t start,
                    uint64_t end, const char *label)
{
    static uint64_t entry[CHUNK];

    while (start < end && entries < MAX_ENTRIES) {
        uint64_t nr = (end - start) / PAGE_BYTES;
        ssize_t got;

        nr = nr < CHUNK ? nr : CHUNK;
        got = pread(fd, entry, nr * sizeof(*entry),
                    start / PAGE_BYTES * sizeof(*entry));
        if (got <= 0) {
            return; /* it has ended, or has no memory of its own */
        }
        nr = got / sizeof(*entry);
        for (uint64_t i = 0; i < nr; i++) {
            struct wanted key = { .pfn = entry[i] & PAGEMAP_PFN }, *w;

            if (!(entry[i] & PAGEMAP_PRESENT) || !key.pfn) {
                continue;
            }
            w = bsearch(&key, wanted, nr_wanted, sizeof(*wanted), by_pfn);
            if (w) {
                snprintf(w->label, sizeof(w->label), "%s", label);
                add_process(&w->who, pid, comm);
            }
        }
        entries += nr;
        start += nr * PAGE_BYTES;
    }
}

static void look_at_process(int pid)
{
    char path[64], comm[32], line[512], label[sizeof(wanted->label)];
    FILE *maps;
    int fd;

    snprintf(path, sizeof(path), "/proc/%d/comm", pid);
    if (!read_text(path, comm, sizeof(comm))) {
        return;
    }
    comm[strcspn(comm, "\n")] = '\0';
    snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    snprintf(path, sizeof(path), "/proc/%d/maps", pid);
    maps = fopen(path, "re");
    while (fd >= 0 && maps && fgets(line, sizeof(line), maps)) {
        uint64_t start, end;
        int at = 0;

        if (!strchr(line, '\n')) { /* a very long path: skip its rest */
            for (int c; (c = getc(maps)) != EOF && c != '\n';) {
            }
        }
        /* above: x86's vsyscall page, in the kernel's half */
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %*s %*s %*s %*s %n", &start,
                   &end, &at) >= 2 &&
            end <= UINT64_C(1) << 56) {
            label_of(at ? line + at : "", label, sizeof(label));
            if (*label) {
                add_segment(label, pid, comm);
            }
            if (nr_wanted) {
                look_at(fd, pid, comm, start, end, label);
            }
        }
    }
    if (maps) {
        fclose(maps);
    }
    if (fd >= 0) {
        close(fd);
    }
}

/* What the kernel uses a page of this node for that no process has. */
static const char *kernel_use(int fd, uint64_t pfn)
{
    static const struct {
        int bit; /* linux/kernel-page-flags.h */
        const char *use;
    } uses[] = {
        { 7, "slab" },       { 26, "page table" }, { 10, "free" },
        { 14, "swap cache" }, { 12, "anonymous" },  { 5, "page cache" },
    };
    uint64_t flags;

    if (fd < 0 || pread(fd, &flags, sizeof(flags), pfn * sizeof(flags)) !=
                      sizeof(flags)) {
        return NULL;
    }
    for (size_t i = 0; i < sizeof(uses) / sizeof(uses[0]); i++) {
        if (flags >> uses[i].bit & 1) {
            return uses[i].use;
        }
    }
    return "other";
}

static void print_processes(const char *label, const struct processes *who)
{
    printf("%s%s", label, *label ? ": " : "");
    for (unsigned i = 0; i < who->nr && i < MAX_NAMED; i++) {
        printf("%s%s", i ? ", " : "", who->name[i]);
    }
    if (who->nr > MAX_NAMED) {
        printf(" and %u more", who->nr - MAX_NAMED);
    }
    printf("\n");
}

static void print(const struct wanted *w, int kpageflags)
{
    const char *use;

    if (w->who.nr > 0) {
        printf("%s ", w->name);
        print_processes(w->label, &w->who);
        return;
    }
    use = w->pfn ? kernel_use(kpageflags, w->pfn) : NULL;
    if (use) {
        printf("%s kernel: %s\n", w->name, use);
    }
}

int main(int argc, char **argv)
{
    struct dirent *d;
    int kpageflags;
    DIR *proc;

    if (argc - 1 > MAX_PAGES) {
        fprintf(stderr, "usage: chimera-pages [PAGE...]\n"
                        "Says who has these pages of this node's memory, at "
                        "most %d of them, and who has\n"
                        "which segment.\n",
                MAX_PAGES);
        return 2;
    }
    for (int i = 1; i < argc; i++) {
        if (!want(argv[i])) {
            fprintf(stderr, "chimera-pages: '%s' is not a page's number\n",
                    argv[i]);
            return 2;
        }
    }
    qsort(wanted, nr_wanted, sizeof(*wanted), by_pfn);
    proc = opendir("/proc");
    if (!proc) {
        perror("chimera-pages: /proc");
        return 1;
    }
    while ((d = readdir(proc))) {
        if (isdigit((unsigned char)d->d_name[0]) &&
            atoi(d->d_name) != getpid()) {
            look_at_process(atoi(d->d_name));
        }
    }
    closedir(proc);
    kpageflags = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
    for (int i = 0; i < nr_wanted; i++) {
        print(&wanted[i], kpageflags);
    }
    for (int i = 0; i < nr_segments; i++) {
        print_processes(segments[i].label, &segments[i].who);
    }
    return 0;
}
