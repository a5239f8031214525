/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * silent: has memory that another node has mapped; when a line comes in, takes it
 * away and says so.  The other node may not answer by then.
 */
#include <chimera.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define BYTES (64 * 4096ul)

static __attribute__((noinline)) void touch(char *p)
{
    int on;

    chimera_migrate(1 % chimera_nodes());
    memset(p, 1, BYTES);
    on = chimera_here();
    chimera_migrate(0);
    /* at home: who stops that node now does not stop this thread */
    printf("touched on %d\n", on);
}

int main(void)
{
    char *p = mmap(NULL, BYTES, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    setvbuf(stdout, NULL, _IOLBF, 0);
    touch(p);
    getchar();
    munmap(p, BYTES);
    printf("unmapped\n");
    return 0;
}
