/* SPDX-License-Identifier: GPL-2.0-or-later */
/* setjmp: its caller stays native; longjmp comes from wherever the thread is. */
#include <chimera.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

static jmp_buf top;
static sigjmp_buf stop;
static int thrown;

static __attribute__((noinline)) int thrower(int depth, int code)
{
    int local[4] = { depth, code, depth * code, 0 };

    chimera_point();
    if (depth == 0) {
        thrown++;
        longjmp(top, code);
    }
    local[3] = thrower(depth - 1, code + 1);
    return local[0] + local[3];
}

static __attribute__((noinline)) int guarded(int n)
{
    volatile int before = n * 2;
    int code = setjmp(top);

    if (code) {
        return before + code;
    }
    return thrower(n, n);
}

/* A handler inside a handler, and a jump over several native frames. */
static int compare(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;

    chimera_point();
    if (x == 13 || y == 13) {
        siglongjmp(stop, 13);
    }
    return (x > y) - (x < y);
}

static __attribute__((noinline)) int nested(int n)
{
    int v[8] = { 5, 3, 9, n, 1, 7, 2, 8 }, r;
    jmp_buf outer;

    if (sigsetjmp(stop, 1)) {
        return -1;
    }
    chimera_point();
    __builtin_memcpy(&outer, &top, sizeof(top));
    r = guarded(n & 7);
    __builtin_memcpy(&top, &outer, sizeof(top));
    qsort(v, 8, sizeof(*v), compare);
    return r * 100 + v[0] * 10 + v[7];
}

int main(void)
{
    long sum = 0;

    for (int i = 0; i < 60; i++) {
        chimera_point();
        sum = sum * 7 % 1000003 + guarded(i % 30);
        sum += nested(i);
    }
    printf("sum %ld thrown %d\n", sum, thrown);
    return 0;
}
