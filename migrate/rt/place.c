/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * CHIMERA_PLACE: where the threads of a program go that says nothing of nodes.
 *
 *   spread           one after the other on every node, from home on
 *   pack             as many as home has CPUs at home, then on the next node
 *   NODE[:CPU],...   the first thread, the second, ... and from the start again
 *
 * A thread gets its place when it first looks for one: at its first migration
 * point. Until then __chimera_flag has 8 for it; so it has for one that inherits a
 * mask of CPUs (affinity.c). A place with a CPU is such a mask.
 */

#include "kernel.h"

#define MAX_PLACES 256

struct place {
    int16_t node;
    int16_t cpu;                /* -1: any */
};

static struct place places[MAX_PLACES];
static unsigned nr_places;
static unsigned nr_threads;
/* Of the thread, in order of creation. The main thread has no memory for more. */
static __thread unsigned number;
static __thread bool looks;
extern int __chimera_flag;

static void add(int node, int cpu)
{
    if (nr_places < MAX_PLACES) {
        places[nr_places++] = (struct place){ node, cpu };
    }
}

static bool usable(int node)
{
    return chimera_nodes_mask >> node & 1;
}

/* A node's name or index, up to @end */
static int find_node(const char *text, const char *end)
{
    const char *after;
    uint64_t n = chimera_number(text, &after);

    if (after == end && after > text && n < (uint64_t)chimera_nr_nodes) {
        return n;
    }
    for (int i = 0; i < chimera_nr_nodes; i++) {
        const char *name = chimera_node_name(i), *p = text;

        while (p < end && *name == *p) {
            name++;
            p++;
        }
        if (p == end && !*name) {
            return i;
        }
    }
    return -1;
}

static void parse_list(const char *s)
{
    for (;; s++) {
        const char *end = s;
        int node;
        int64_t cpu = -1;

        while (*end && *end != ',' && *end != ':') {
            end++;
        }
        node = find_node(s, end);
        if (node < 0 || !usable(node)) {
            chimera_die("CHIMERA_PLACE: spread, pack, or a list of NODE[:CPU] "
                        "with nodes that are up");
        }
        s = end;
        if (*s == ':') {
            cpu = chimera_number(s + 1, &end);
            if (end == s + 1 || cpu >= chimera_node_cpus(node)) {
                chimera_die("CHIMERA_PLACE: no such CPU on that node");
            }
            s = end;
        }
        add(node, cpu);
        if (!*s) {
            return;
        }
        if (*s != ',') {
            chimera_die("CHIMERA_PLACE: a comma between places");
        }
    }
}

static bool same(const char *a, const char *b)
{
    while (*a && *a == *b) {
        a++;
        b++;
    }
    return *a == *b;
}

void chimera_place_start(const char *how)
{
    bool spread = same(how, "spread"), pack = same(how, "pack");

    chimera_affinity_start();
    if (spread || pack) {
        for (int i = 0; i < chimera_nr_nodes; i++) {
            int node = (chimera_home + i) % chimera_nr_nodes;

            for (unsigned n = pack ? chimera_node_cpus(node) : 1; n && usable(node); n--) {
                add(node, -1);
            }
        }
    } else {
        parse_list(how);
    }
    /* The main thread, which has no thread pointer yet, is number 0. */
    nr_threads = 1;
    __atomic_fetch_add(&__chimera_flag, 8, __ATOMIC_SEQ_CST);
}

static void *in_thread(void *variable, uint64_t tp)
{
    return (void *)((uint64_t)variable - chimera_get_tp() + tp);
}

/*
 * A thread begins, with its thread pointer at @tp, that will look for a place: the
 * next one, or where its creator's mask allows.
 */
void chimera_place_expect(uint64_t tp)
{
    if (nr_places) {
        *(unsigned *)in_thread(&number, tp) =
            __atomic_fetch_add(&nr_threads, 1, __ATOMIC_RELAXED);
    } else if (!chimera_affinity_inherit(tp)) {
        return;
    }
    *(bool *)in_thread(&looks, tp) = true;
    __atomic_fetch_add(&__chimera_flag, 8, __ATOMIC_SEQ_CST);
}

/* It did not begin. */
void chimera_place_disown(uint64_t tp)
{
    chimera_affinity_disown(tp);
    if (*(bool *)in_thread(&looks, tp)) {
        __atomic_fetch_sub(&__chimera_flag, 8, __ATOMIC_SEQ_CST);
    }
}

bool chimera_place_looks(void)
{
    return looks || (nr_places && !number);
}

/* @t: NULL: it ends without */
void chimera_place_take(struct thread *t)
{
    const struct place *p;

    if (!chimera_place_looks()) {
        return;
    }
    looks = false;
    __atomic_fetch_sub(&__chimera_flag, 8, __ATOMIC_SEQ_CST);
    if (!t) {
        return;
    }
    if (!nr_places) {
        chimera_affinity_take(t);
        return;
    }
    p = &places[number % nr_places];
    if (p->cpu >= 0) {
        chimera_affinity_place(p->node, p->cpu);
    } else if (p->node != chimera_node) {
        t->want = p->node;
        __atomic_fetch_add(&__chimera_flag, 4, __ATOMIC_SEQ_CST);
    }
}
