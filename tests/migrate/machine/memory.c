/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The address space changes on one node while it is used on another. */
#define _GNU_SOURCE
#include <chimera.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGES 64
#define BYTES (PAGES * 4096ul)

static __attribute__((noinline)) unsigned long sum(int node, const unsigned char *p,
                                                   size_t len)
{
    unsigned long s = 0;

    chimera_migrate(node);
    for (size_t i = 0; i < len; i += 64) {
        s = s * 31 + p[i];
    }
    return s;
}

static __attribute__((noinline)) void fill(int node, unsigned char *p, size_t len,
                                           unsigned seed)
{
    chimera_migrate(node);
    for (size_t i = 0; i < len; i++) {
        p[i] = (i * 7 + seed) >> (i & 3);
    }
}

static __attribute__((noinline)) unsigned char *map(int node)
{
    chimera_migrate(node);
    return mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                -1, 0);
}

/* Everything is done on @a and looked at from @b. */
static void round_trip(int a, int b)
{
    char name[] = "/tmp/memoryXXXXXX";
    unsigned char *p = map(a), *q, *f;
    int fd = mkstemp(name);

    fill(a, p, BYTES, 1);
    printf("anonymous %lu\n", sum(b, p, BYTES));
    fill(b, p, BYTES, 2);
    printf("and back %lu\n", sum(a, p, BYTES));

    chimera_migrate(a);
    madvise(p, BYTES, MADV_DONTNEED);
    printf("empty %lu\n", sum(b, p, BYTES));
    fill(b, p, BYTES, 3);
    chimera_migrate(a);
    q = mremap(p, BYTES, 2 * BYTES, MREMAP_MAYMOVE);
    printf("moved %lu\n", sum(b, q, 2 * BYTES));

    /* Another mapping at the same place */
    fill(b, q, BYTES, 4);
    chimera_migrate(a);
    f = mmap(q, BYTES, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    printf("replaced %lu\n", sum(b, f, BYTES));

    chimera_migrate(a);
    if (ftruncate(fd, BYTES) < 0) {
        perror("ftruncate");
    }
    f = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    fill(b, f, BYTES, 5);
    chimera_migrate(a);
    if (pread(fd, q, BYTES, 0) != (ssize_t)BYTES) {
        perror("pread");
    }
    printf("file %lu\n", sum(a, q, BYTES));
    if (pwrite(fd, "written", 7, 8192) != 7) {
        perror("pwrite");
    }
    chimera_migrate(b);
    printf("seen %.7s\n", f + 8192);
    munmap(f, BYTES);
    munmap(q, 2 * BYTES);
    unlink(name);
    close(fd);

    /* The heap, which one side makes larger */
    chimera_migrate(a);
    p = malloc(3 << 20);
    fill(b, p, 3 << 20, 6);
    p = realloc(p, 9 << 20);
    printf("heap %lu\n", sum(a, p, 3 << 20));
    free(p);
}

int main(void)
{
    int nodes = chimera_nodes();

    for (int i = 0; i < 3; i++) {
        for (int k = 0; k < 2; k++) {
            round_trip((i + k) % nodes, (i + 1 - k) % nodes);
        }
    }
    return 0;
}
