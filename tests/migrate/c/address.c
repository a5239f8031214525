/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <chimera.h>
struct node {
    struct node *up;
    int v;
    int *p;
    char name[24];
};
static __attribute__((noinline)) int walk(struct node *n)
{
    int s = 0;
    chimera_point();
    for (; n; n = n->up) {
        s = s * 31 + n->v + *n->p + (int)strlen(n->name);
        chimera_point();
    }
    return s;
}
static __attribute__((noinline)) int deep(struct node *up, int d)
{
    int local = d * 3;
    struct node n = {up, d, &local, ""};
    snprintf(n.name, sizeof n.name, "node-%d", d * d);
    chimera_point();
    if (d == 0) {
        return walk(&n);
    }
    int r = deep(&n, d - 1);
    local += r;
    chimera_point();
    return r * 7 + local + n.v + n.name[5];
}
static __attribute__((noinline)) void out2(int *a, double *b, int n)
{
    chimera_point();
    *a += n;
    *b *= 1.0 + 1.0 / n;
    chimera_point();
}
static __attribute__((noinline)) long vla(int n)
{
    long t = 0;
    for (int k = 1; k < n; k++) {
        int a[k];
        for (int i = 0; i < k; i++) {
            a[i] = i * k;
            if (i % 3 == 0) {
                chimera_point();
            }
        }
        for (int i = 0; i < k; i++) {
            t += a[i] ^ k;
        }
    }
    return t;
}
struct list {
    struct list *n;
    int v;
};
static struct list *head;
int gi = 5;
int *gp = &gi;
static const char *names[] = {"alpha", "beta", "gamma"};
int main(void)
{
    printf("deep %d\n", deep(0, 25));
    int a = 1;
    double b = 2;
    for (int i = 1; i < 50; i++) {
        out2(&a, &b, i);
    }
    printf("out2 %d %.17g\n", a, b);
    printf("vla %ld\n", vla(40));
    for (int i = 0; i < 100; i++) {
        struct list *l = malloc(sizeof *l);
        l->v = i;
        l->n = head;
        chimera_point();
        head = l;
    }
    long s = 0;
    for (struct list *l = head; l; l = l->n) {
        s = s * 3 + l->v;
        chimera_point();
        *gp += l->v;
    }
    printf("list %ld gi %d %s\n", s, gi, names[gi % 3]);
    char buf[64] = "x";
    for (int i = 0; i < 20; i++) {
        char t[16];
        sprintf(t, "%d", i * i);
        chimera_point();
        strncat(buf, t, sizeof buf - 1 - strlen(buf));
    }
    puts(buf);
    return 0;
}
