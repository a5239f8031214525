/* SPDX-License-Identifier: GPL-2.0-or-later */
/* malloc on one ISA, free on the other; files and their buffers as well. */
#include <chimera.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static __attribute__((noinline)) unsigned fill(char *p, size_t n, unsigned seed)
{
    unsigned h = seed;

    for (size_t i = 0; i < n; i++) {
        p[i] = seed + i;
        h = h * 31 + (unsigned char)p[i];
    }
    chimera_point();
    return h;
}

static unsigned heap(void)
{
    static char *slot[64];
    unsigned h = 0, r = 12345;

    for (int i = 0; i < 800; i++) {
        unsigned k;
        size_t n;

        r = r * 1103515245 + 12345;
        k = r >> 16 & 63;
        n = r >> 8 & (i % 40 == 0 ? 0x3ffff : 0x7ff);
        chimera_point();
        if (slot[k] && (r & 3) == 0) {
            slot[k] = realloc(slot[k], n + 1);
            h ^= fill(slot[k], n, i);
        } else {
            free(slot[k]);
            slot[k] = r & 4 ? malloc(n + 1) : calloc(1, n + 1);
            h = h * 7 + fill(slot[k], n, i);
        }
    }
    for (int i = 0; i < 64; i++) {
        free(slot[i]);
    }
    return h;
}

static long files(void)
{
    FILE *f = tmpfile();
    char line[80];
    long sum = 0;
    int n = 0;

    if (!f) {
        printf("tmpfile: %s\n", strerror(errno));
        return -1;
    }
    for (int i = 0; i < 500; i++) {
        fprintf(f, "line %d %x\n", i, i * i);
        chimera_point();
    }
    rewind(f);
    while (fgets(line, sizeof(line), f)) {
        int a;
        unsigned b;

        chimera_point();
        if (sscanf(line, "line %d %x", &a, &b) == 2) {
            sum += a + b;
            n++;
        }
    }
    fseek(f, -10, SEEK_END);
    chimera_point();
    sum += ftell(f) + fgetc(f) + ungetc('x', f) + fgetc(f);
    fclose(f);
    return sum * 1000 + n;
}

int main(void)
{
    /* Half a line in the buffer, the rest from elsewhere. */
    printf("heap ");
    chimera_point();
    printf("%u\n", heap());
    printf("files %ld\n", files());
    fputs("unbuffered", stdout);
    chimera_point();
    fflush(stdout);
    putchar('\n');
    errno = 0;
    chimera_point();
    close(-1);
    chimera_point();
    printf("errno %d\n", errno == EBADF);
    return 0;
}
