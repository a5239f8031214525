/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * However often a thread moves, it needs no more stack: calls that come and go
 * inside of frames that stay, each captured with objects of its own.
 */
#include <chimera.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define NODES 64
#define ROUNDS 4000

static uintptr_t lowest[NODES], highest[NODES];

/* Where the stack of this node is now. */
static __attribute__((noinline)) void look(void)
{
    volatile char here = 0;
    uintptr_t at = (uintptr_t)&here;
    int node = chimera_here();

    if (!lowest[node] || at < lowest[node]) {
        lowest[node] = at;
    }
    if (at > highest[node]) {
        highest[node] = at;
    }
}

static __attribute__((noinline)) unsigned long sum(const unsigned char *p, int n)
{
    unsigned long s = 0;

    while (n--) {
        s = s * 31 + *p++;
    }
    return s;
}

struct pair {
    long a;
    double b;
};

struct wide {
    long word[5];
};

static __attribute__((noinline)) unsigned long inner(int i)
{
    unsigned char object[1000];

    memset(object, i, sizeof(object));
    chimera_point();
    look();
    return sum(object, sizeof(object));
}

static __attribute__((noinline)) double real(int i)
{
    double d[40];

    for (int k = 0; k < 40; k++) {
        d[k] = i + k;
    }
    d[i % 40] += (double)inner(i);
    chimera_point();
    return d[(i + 1) % 40] + d[i % 40];
}

static __attribute__((noinline)) struct pair both(int i)
{
    struct pair p = { (long)inner(i + 1), real(i) };

    chimera_point();
    look();
    return p;
}

/* Passed in memory: its caller's frame has an object, too. */
static __attribute__((noinline)) struct wide many(struct wide w, int i)
{
    for (int k = 0; k < 5; k++) {
        w.word[k] += (long)(inner(i + k) & 0xffff);
    }
    return w;
}

static __attribute__((noinline)) void passing(struct wide *w)
{
    for (int i = 0; i < ROUNDS / 20; i++) {
        *w = many(*w, i);
    }
}

static __attribute__((noinline)) __int128 long_one(int i)
{
    return (__int128)inner(i) * inner(i + 2);
}

/* A frame that stays, on top of one that comes and goes. */
static __attribute__((noinline)) unsigned long middle(int i)
{
    char text[200];
    unsigned long s = 0;

    snprintf(text, sizeof(text), "%d", i);
    for (int k = 0; k < 20; k++) {
        s = s * 7 + inner(i + k) + (unsigned char)text[0];
    }
    look();
    return s;
}

static __attribute__((noinline)) unsigned long down(int depth, unsigned long *up)
{
    unsigned long local = *up + depth;

    chimera_point();
    if (depth) {
        local += down(depth - 1, &local);
        local ^= down(depth / 4, &local);
    }
    look();
    return local + *up % 3;
}

int main(void)
{
    unsigned long s = 0;
    double d = 0;
    long w = 0;
    struct wide wide = { { 1, 2, 3, 4, 5 } };

    look();
    for (int i = 0; i < ROUNDS; i++) {
        s += inner(i);
    }
    for (int i = 0; i < ROUNDS / 20; i++) {
        struct pair p = both(i);
        __int128 l = long_one(i);

        s += middle(i) + p.a;
        d += p.b;
        w += (long)(l >> 64) ^ (long)l;
    }
    printf("%lu %.17g %ld\n", s, d, w);
    passing(&wide);
    printf("%ld %ld\n", wide.word[0], wide.word[4]);
    for (int i = 0; i < 10; i++) {
        s ^= down(20, &s);
    }
    printf("%lu\n", s);
    for (int node = 0; node < NODES; node++) {
        if (highest[node] - lowest[node] > 100000) {
            printf("node %d: %zu bytes of stack\n", node,
                   (size_t)(highest[node] - lowest[node]));
        }
    }
    return 0;
}
