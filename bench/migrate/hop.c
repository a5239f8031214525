/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Time of a hop at several call depths (bench/migrate/hop).
 *
 * Run with CHIMERA_TRANSPORT and CHIMERA_EVERY=1; without, it prints the cost
 * of an unarmed point.  One line a depth: depth, then the median, 90th and 99th
 * percentile and the worst of a hop in ns.
 */
#include <chimera.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define HOPS 2000

static long sample[HOPS];

static long now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000 + t.tv_nsec;
}

static __attribute__((noinline)) double down(int depth, long a, long b, double x)
{
    double y = x * 1.5 + depth, r;
    long c = a * 3 + b;

    if (depth <= 1) {
        for (int i = 0; i < HOPS; i++) {
            long start = now_ns();

            chimera_point();
            sample[i] = now_ns() - start;
        }
        return x + a;
    }
    r = down(depth - 1, b, c, y);
    return r * x + a - b + c + y;
}

static int compare(const void *a, const void *b)
{
    long x = *(const long *)a, y = *(const long *)b;

    return (x > y) - (x < y);
}

int main(void)
{
    static const int depths[] = { 1, 2, 5, 10, 16, 100, 1000 };
    volatile double sum = 0;

    for (unsigned i = 0; i < sizeof(depths) / sizeof(*depths); i++) {
        sum += down(depths[i], 1, 2, 3);
        qsort(sample, HOPS, sizeof(*sample), compare);
        printf("depth %4d  median %ld  p90 %ld  p99 %ld  max %ld ns\n",
               depths[i], sample[HOPS / 2], sample[HOPS * 9 / 10],
               sample[HOPS * 99 / 100], sample[HOPS - 1]);
    }
    return 0;
}
