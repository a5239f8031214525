/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <stdio.h>
#include <chimera.h>
static long cnt[8];
static int tr;
static __attribute__((noinline)) void hanoi(int n, int a, int b, int c)
{
    if (!n) {
        return;
    }
    hanoi(n - 1, a, c, b);
    cnt[a]++;
    chimera_point();
    cnt[b] += n;
    if (tr) {
        printf("%d %d%d%d\n", n, a, b, c);
    }
    hanoi(n - 1, c, b, a);
}
int main(int argc, char **argv)
{
    tr = 1;
    hanoi(3, 0, 1, 2);
    printf("hanoi %ld %ld %ld\n", cnt[0], cnt[1], cnt[2]);
    return 0;
}
