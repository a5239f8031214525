/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <stdio.h>
#include <string.h>
#include <chimera.h>
static __attribute__((noinline)) int lg(int d, double x, const char *s)
{
    char b[128];
    chimera_point();
    int n = snprintf(b, sizeof b, "%d|%.3f|%s|%ld|%c|%g", d, x, s,
                     (long)d << 33, 'a' + d % 26, x / 7);
    chimera_point();
    printf("%s\n", b);
    if (d) {
        n += lg(d - 1, x * 1.1, b + strlen(b) - 5);
    }
    return n;
}
static __attribute__((noinline)) void gotos(int n)
{
    static void *tab[] = {&&a, &&b, &&c, &&d};
    int i = 0;
    long acc = 0;
    goto *tab[0];
a:
    acc += i;
    chimera_point();
    if (++i > n) {
        goto d;
    }
    goto *tab[i % 3];
b:
    acc *= 3;
    if (++i > n) {
        goto d;
    }
    chimera_point();
    goto *tab[(i * 7) % 3];
c:
    acc ^= i << 3;
    if (++i > n) {
        goto d;
    }
    goto *tab[i & 1];
d:
    printf("goto %ld\n", acc);
}
int main(int c, char **v)
{
    printf("total %d\n", lg(30, 1.5, "begin"));
    gotos(500);
    printf("%s %d %f\n", "end", c, 2.5);
    return 0;
}
