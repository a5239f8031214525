/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Frames, locals and lines that a debugger shows after a hop. */
#include <chimera.h>
#include <stdio.h>

struct pair {
    int first;
    double second;
};

static __attribute__((noinline)) int inner(int depth, struct pair *p)
{
    int seven = depth + 6;
    char text[8] = "moved";

    chimera_point();
    p->first += seven;
    printf("%s %d\n", text, p->first);          /* line: inner */
    return p->first;
}

static __attribute__((noinline)) int middle(const char *name, long count)
{
    struct pair pair = { 30, 2.5 };
    long square = count * count;
    int got = inner(1, &pair);

    square += got;
    printf("%s %ld\n", name, square);           /* line: middle */
    return got + (int)square;
}

int main(int argc, char **argv)
{
    int total = argc * 100;

    total += middle("name", 12);
    printf("%d %f\n", total, argc * 1.5);       /* line: main */
    return 0;
}
