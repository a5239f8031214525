/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <chimera.h>
static int calls;
static __attribute__((noinline)) int tick(void)
{
    chimera_point();
    return ++calls;
}
static int cmp_int(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;
    chimera_point();
    tick();
    return (x > y) - (x < y);
}
static int cmp_str(const void *a, const void *b)
{
    chimera_point();
    return strcmp(*(char *const *)a, *(char *const *)b);
}
typedef long (*op)(long, long);
static long add(long a, long b)
{
    chimera_point();
    return a + b;
}
static long mul(long a, long b)
{
    tick();
    return a * b % 1000003;
}
static long sub(long a, long b)
{
    return a - b;
}
static const op ops[] = {add, mul, sub};
static op dyn;
struct obj {
    op f;
    long st;
};
static __attribute__((noinline)) long run(struct obj *o, int n)
{
    long r = 1;
    for (int i = 0; i < n; i++) {
        r = ops[i % 3](r, o->st + i);
        r += o->f(r, i);
        if (dyn) {
            r ^= dyn(r, 3);
        }
        if (i % 7 == 3) {
            o->f = (o->f == add) ? mul : add;
        }
        if (i == 20) {
            dyn = sub;
        }
    }
    return r;
}
static __attribute__((noinline)) int nested(int d)
{
    int v[6] = {d * 7 % 5, 3, d, 9 - d, 1, 4};
    if (d == 0) {
        chimera_point();
        return 1;
    }
    int r = nested(d - 1);
    qsort(v, 6, sizeof *v, cmp_int);
    chimera_point();
    return r * 10 + v[0] + v[5];
}
static int cmp_rec(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;
    int t[3] = {x, y, x ^ y};
    if ((x ^ y) & 1) {
        qsort(t, 3, sizeof *t, cmp_int);
    }
    chimera_point();
    return (x > y) - (x < y) + 0 * t[0];
}
int main(void)
{
    int v[200];
    unsigned s = 12345;
    for (int i = 0; i < 200; i++) {
        s = s * 1103515245 + 12345;
        v[i] = s >> 16 & 1023;
    }
    qsort(v, 200, sizeof *v, cmp_int);
    long h = 0;
    for (int i = 0; i < 200; i++) {
        h = h * 31 + v[i];
    }
    printf("qsort %ld calls %d\n", h, calls > 0);
    const char *st[] = {"pear", "fig", "apple", "kiwi", "plum", "date"};
    qsort(st, 6, sizeof *st, cmp_str);
    for (int i = 0; i < 6; i++) {
        printf("%s ", st[i]);
    }
    printf("\n");
    struct obj o = {add, 5};
    printf("run %ld\n", run(&o, 60));
    printf("nested %d\n", nested(6));
    int w[40];
    for (int i = 0; i < 40; i++) {
        w[i] = (i * 37) % 41;
    }
    qsort(w, 40, sizeof *w, cmp_rec);
    for (int i = 0; i < 40; i++) {
        printf("%d,", w[i]);
    }
    printf(" calls %d\n", calls > 0);
    h = 0;
    for (int i = 0; i < 41; i++) {
        /* cmp_int moves, and so does what it calls */
        const int *at = bsearch(&i, w, 40, sizeof *w, cmp_int);

        h = h * 7 + (at ? at - w : -1);
    }
    printf("bsearch %ld\n", h);
    return 0;
}
