/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <stdio.h>
#include <chimera.h>
static __attribute__((noinline)) long fib(long n)
{
    chimera_point();
    if (n < 2) {
        return n;
    }
    long a = fib(n - 1);
    long b = fib(n - 2);
    return a + b;
}
static __attribute__((noinline)) int ack(int m, int n)
{
    chimera_point();
    if (!m) {
        return n + 1;
    }
    if (!n) {
        return ack(m - 1, 1);
    }
    return ack(m - 1, ack(m, n - 1));
}
static __attribute__((noinline)) double dsum(int d, double a, double b, float c,
                                             unsigned char e, short s)
{
    if (d == 0) {
        chimera_point();
        return a + b * c + e + s;
    }
    double x = a * 1.5 + d, y = b / 3 + d;
    double r = dsum(d - 1, x, y, c + 0.25f, e + 7, s - 3);
    return r + x * y - c + e - s;
}
static long cnt[8];
static __attribute__((noinline)) void hanoi(int n, int a, int b, int c)
{
    if (!n) {
        return;
    }
    hanoi(n - 1, a, c, b);
    cnt[a]++;
    chimera_point();
    cnt[b] += n;
    hanoi(n - 1, c, b, a);
}
int main(int argc, char **argv)
{
    printf("fib %ld\n", fib(20));
    printf("ack %d\n", ack(2, 30));
    printf("dsum %.17g\n", dsum(60, 1.25, 2.5, 0.125f, 3, -9));
    hanoi(11, 0, 1, 2);
    printf("hanoi %ld %ld %ld\n", cnt[0], cnt[1], cnt[2]);
    return 0;
}
