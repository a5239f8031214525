/* SPDX-License-Identifier: GPL-2.0-or-later */
/* 10^5 frames: only the innermost of them travel. */
#include <chimera.h>
#include <stdio.h>

static __attribute__((noinline)) long down(int depth, long *up)
{
    long local = *up + depth;

    if (depth == 0) {
        long s = 0;

        for (int i = 0; i < 300; i++) {
            chimera_point();
            s += i ^ local;
        }
        return s;
    }
    local = down(depth - 1, &local);
    if (depth % 997 == 0) {
        chimera_point();
    }
    return local + *up % 3;
}

int main(void)
{
    long zero = 0;

    printf("deep %ld\n", down(100000, &zero));
    return 0;
}
