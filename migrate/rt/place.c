/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * CHIMERA_PLACE: where the threads of a program go that says nothing of nodes.
 *
 *   spread           one after the other on every node, from home on
 *   pack             as many as home has CPUs at home, then on the next node
 *   NODE[:CPU],...   the first thread, the second, ... and from the start again
 *
 * A thread gets its place when it first looks for one: at its first migration
 * point. Until then __chimera_flag has 8 for it. The program sees the CPUs of
 * all nodes, numbered through in the order of the nodes as in /proc/cpuinfo.
 */

#include "kernel.h"

#define NR_SCHED_SETAFFINITY 203

#define MAX_PLACES 256
#define MAX_CPUS 1024
#define MASK_BYTES (MAX_CPUS / 8)
#define EINVAL 22

struct place {
    int16_t node;
    int16_t cpu;                /* -1: any */
};

static struct place places[MAX_PLACES];
static unsigned nr_places;
static unsigned cpus[MAX_NODES];
static unsigned nr_threads;
static __thread unsigned number;        /* of the thread, in order of creation */
extern int __chimera_flag;

bool chimera_placing(void)
{
    return nr_places != 0;
}

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
            if (end == s + 1 || cpu >= cpus[node]) {
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

    for (int i = 0; i < chimera_nr_nodes; i++) {
        char text[16];
        const char *end;

        chimera_node_read(i, "cpus", text, sizeof(text));
        cpus[i] = chimera_number(text, &end);
    }
    if (spread || pack) {
        for (int i = 0; i < chimera_nr_nodes; i++) {
            int node = (chimera_home + i) % chimera_nr_nodes;

            for (unsigned n = pack ? cpus[node] : 1; n && usable(node); n--) {
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

/* A thread begins, with its thread pointer at @tp, that will look for a place. */
void chimera_place_expect(uint64_t tp)
{
    if (nr_places) {
        uint64_t at = (uint64_t)&number - chimera_get_tp() + tp;

        *(unsigned *)at = __atomic_fetch_add(&nr_threads, 1, __ATOMIC_RELAXED);
        __atomic_fetch_add(&__chimera_flag, 8, __ATOMIC_SEQ_CST);
    }
}

/* @t: NULL: it ends without */
void chimera_place_take(struct thread *t)
{
    const struct place *p;

    if (!nr_places) {
        return;
    }
    __atomic_fetch_sub(&__chimera_flag, 8, __ATOMIC_SEQ_CST);
    if (!t) {
        return;
    }
    p = &places[number % nr_places];
    t->cpu = p->cpu;
    if (p->node != chimera_node) {
        t->want = p->node;
        __atomic_fetch_add(&__chimera_flag, 4, __ATOMIC_SEQ_CST);
    } else {
        chimera_place_pin(t);
    }
}

/* Every node sees to its own CPUs. */
void chimera_place_pin(const struct thread *t)
{
    uint64_t mask[MASK_BYTES / 8] = { 0 };

    if (t->cpu >= 0 && t->cpu < MAX_CPUS) {
        mask[t->cpu / 64] = 1ull << t->cpu % 64;
        chimera_native_syscall(NR_SCHED_SETAFFINITY, 0, sizeof(mask),
                               (long)mask, 0, 0, 0);
    }
}

/*
 * sched_getaffinity() of a placed program: home's part is what its kernel says,
 * every CPU of other nodes may be used.
 */
long chimera_place_affinity(long len, uint8_t *mask, long home_len)
{
    uint8_t home[MASK_BYTES] = { 0 };
    unsigned at = 0;

    if (home_len < 0) {
        return home_len;
    }
    if (len < MASK_BYTES) {
        return home_len;        /* room for home's only */
    }
    __builtin_memcpy(home, mask, home_len < MASK_BYTES ? home_len : MASK_BYTES);
    __builtin_memset(mask, 0, MASK_BYTES);
    for (int i = 0; i < chimera_nr_nodes; i++) {
        for (unsigned c = 0; c < cpus[i] && at < MAX_CPUS; c++, at++) {
            if (i == chimera_home ? home[c / 8] >> c % 8 & 1 : usable(i)) {
                mask[at / 8] |= 1u << at % 8;
            }
        }
    }
    return MASK_BYTES;
}
