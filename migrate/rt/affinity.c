/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * sched_setaffinity(), sched_getaffinity() and getcpu() of a process on several
 * nodes: the CPUs of all nodes, numbered through in the order of the nodes as in
 * /proc/cpuinfo.
 *
 * A mask that leaves out the node where the thread is makes it move at its next
 * migration point. Each node's kernel gets its part of the mask when the thread
 * comes there. What was said last counts: a mask, chimera_migrate(), a request.
 *
 * An entry is made when a thread first gets a mask, at home, and is used again
 * when that thread has ended. It lies in memory that all nodes see; nodes other
 * than home look entries up while home may write them: @version tells that there
 * is something new, after it was written.
 */

#include "kernel.h"

#define NR_MMAP                 9
#define NR_RT_SIGPROCMASK       14
#define NR_SCHED_YIELD          24
#define NR_GETPID               39
#define NR_GETTID               186
#define NR_SCHED_SETAFFINITY    203
#define NR_SCHED_GETAFFINITY    204
#define NR_TGKILL               234
#define NR_GETCPU               309
#define SIG_SETMASK             2
#define EFAULT                  14
#define EINVAL                  22
#define ENOMEM                  12
#define NO_THREAD               0x7fffffff

#define MAX_CPUS    1024
#define MASK_BYTES  (MAX_CPUS / 8)
#define MASK_WORDS  (MASK_BYTES / 8)
#define KERNEL_BYTES 64         /* room for one node's mask */

struct cpumask {
    uint64_t word[MASK_WORDS];
};

struct affinity {
    struct affinity *next;      /* stays for ever */
    int32_t tid;                /* 0: free; -1: of a thread that begins */
    uint32_t version;
    struct cpumask mask;
    uint32_t applied[MAX_NODES];        /* the version that a node has */
};

/* One object with an alignment: each ISA's compiler would choose its own. */
SHARED_DATA static struct {
    struct affinity *entries;
    uint32_t cpus_known;
    uint32_t first_cpu[MAX_NODES + 1];  /* of each node, and behind the last */
} shared __attribute__((aligned(16)));

static uint32_t lock_word;
static struct affinity *spare;  /* of the last page */
static unsigned nr_spare;
/* What a thread that begins has inherited. */
static __thread struct affinity *inherited;

/* No handler runs meanwhile that could want the lock, too. */
static uint64_t lock(void)
{
    uint64_t all = ~0ull, old = 0;

    sys(NR_RT_SIGPROCMASK, SIG_SETMASK, (long)&all, (long)&old, 8, 0, 0);
    while (__atomic_exchange_n(&lock_word, 1, __ATOMIC_ACQUIRE)) {
        sys(NR_SCHED_YIELD, 0, 0, 0, 0, 0, 0);
    }
    return old;
}

static void unlock(uint64_t old)
{
    __atomic_store_n(&lock_word, 0, __ATOMIC_RELEASE);
    sys(NR_RT_SIGPROCMASK, SIG_SETMASK, (long)&old, 0, 8, 0, 0);
}

/* --- CPUs of the machine --------------------------------------------------------- */

/* Home only: peers run after this. */
void chimera_affinity_start(void)
{
    uint32_t at = 0;

    if (__atomic_load_n(&shared.cpus_known, __ATOMIC_ACQUIRE)) {
        return;
    }
    for (int i = 0; i < chimera_nr_nodes; i++) {
        char text[16];
        const char *end;

        shared.first_cpu[i] = at;
        chimera_node_read(i, "cpus", text, sizeof(text));
        at += chimera_number(text, &end);
        if (at > MAX_CPUS) {
            at = MAX_CPUS;
        }
    }
    shared.first_cpu[chimera_nr_nodes] = at;
    __atomic_store_n(&shared.cpus_known, 1, __ATOMIC_RELEASE);
}

unsigned chimera_node_cpus(int node)
{
    return shared.first_cpu[node + 1] - shared.first_cpu[node];
}

static bool has(const struct cpumask *m, unsigned cpu)
{
    return m->word[cpu / 64] >> cpu % 64 & 1;
}

static void add(struct cpumask *m, unsigned cpu)
{
    m->word[cpu / 64] |= 1ull << cpu % 64;
}

static bool usable(int node)
{
    return node == chimera_home ||
           __atomic_load_n(&chimera_nodes_mask, __ATOMIC_RELAXED) >> node & 1;
}

static bool names(const struct cpumask *m, int node)
{
    for (unsigned c = shared.first_cpu[node]; c < shared.first_cpu[node + 1]; c++) {
        if (has(m, c)) {
            return true;
        }
    }
    return false;
}

/* A node's part of @m as its kernel has it; all of it if there is none. */
static void part(const struct cpumask *m, int node, uint64_t to[KERNEL_BYTES / 8])
{
    bool all = !names(m, node);

    __builtin_memset(to, 0, KERNEL_BYTES);
    for (unsigned c = 0; c < chimera_node_cpus(node) && c < KERNEL_BYTES * 8;
         c++) {
        if (all || has(m, shared.first_cpu[node] + c)) {
            to[c / 64] |= 1ull << c % 64;
        }
    }
}

/* --- shared.entries --------------------------------------------------------------------- */

static struct affinity *find(int32_t tid)
{
    struct affinity *e = __atomic_load_n(&shared.entries, __ATOMIC_ACQUIRE);

    while (e && __atomic_load_n(&e->tid, __ATOMIC_ACQUIRE) != tid) {
        e = e->next;
    }
    return e;
}

static void set(struct affinity *e, const struct cpumask *m)
{
    e->mask = *m;
    __atomic_store_n(&e->version, e->version + 1, __ATOMIC_RELEASE);
}

/* Under the lock. NULL: no memory. */
static struct affinity *make(int32_t tid, const struct cpumask *m)
{
    struct affinity *e = find(0);

    if (e) {
        __builtin_memset(e->applied, 0, sizeof(e->applied));
        set(e, m);
        __atomic_store_n(&e->tid, tid, __ATOMIC_RELEASE);
        return e;
    }
    if (!nr_spare) {
        /* PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS */
        long p = sys(NR_MMAP, 0, 4096, 3, 0x22, -1, 0);

        if (p < 0 && p > -4096) {
            return NULL;
        }
        spare = (struct affinity *)p;
        nr_spare = 4096 / sizeof(*spare);
    }
    e = spare++;
    nr_spare--;
    e->tid = tid;
    e->next = shared.entries;
    set(e, m);
    __atomic_store_n(&shared.entries, e, __ATOMIC_RELEASE);
    return e;
}

static int32_t own_tid(void)
{
    return __chimera_self ? __chimera_self->tid
                          : sys(NR_GETTID, 0, 0, 0, 0, 0, 0);
}

/* Home. A mask that came from another thread replaces what was inherited. */
static struct affinity *own_entry(void)
{
    struct affinity *e;
    int32_t tid;

    if (!shared.entries) {
        return NULL;
    }
    tid = own_tid();
    e = find(tid);
    if (inherited) {
        __atomic_store_n(&inherited->tid, e ? 0 : tid, __ATOMIC_RELEASE);
        e = e ? e : inherited;
        inherited = NULL;
    }
    return e;
}

/* --- threads that begin and end ------------------------------------------------- */

/* The thread whose thread pointer will be @tp; true: it has a mask of its own. */
bool chimera_affinity_inherit(uint64_t tp)
{
    struct affinity *e = own_entry(), *child;
    uint64_t old;

    if (!e) {
        return false;
    }
    old = lock();
    child = make(-1, &e->mask);
    unlock(old);
    *(struct affinity **)((uint64_t)&inherited - chimera_get_tp() + tp) = child;
    return child;
}

/* It did not begin. */
void chimera_affinity_disown(uint64_t tp)
{
    struct affinity *e =
        *(struct affinity **)((uint64_t)&inherited - chimera_get_tp() + tp);

    if (e) {
        __atomic_store_n(&e->tid, 0, __ATOMIC_RELEASE);
    }
}

/* The calling thread ends. */
void chimera_affinity_end(void)
{
    struct affinity *e = own_entry();

    if (e) {
        __atomic_store_n(&e->tid, 0, __ATOMIC_RELEASE);
    }
}

/* In a child of fork, whose only thread had the id @tid. */
void chimera_affinity_forked(int32_t tid)
{
    int32_t now = sys(NR_GETTID, 0, 0, 0, 0, 0, 0);

    lock_word = 0;
    for (struct affinity *e = shared.entries; e; e = e->next) {
        if (e != inherited) {
            e->tid = tid && e->tid == tid ? now : 0;
        }
        __builtin_memset(e->applied, 0, sizeof(e->applied));
    }
}

/* --- where a thread belongs -------------------------------------------------------- */

/*
 * Where @t has to go now, or -1: it may be where it is. Called where it runs, or
 * by its home's thread.
 */
int chimera_affinity_node(const struct thread *t)
{
    const struct affinity *e = find(t->tid);

    if (!e || (t->want >= 0 && names(&e->mask, t->want))) {
        return -1;
    }
    if (names(&e->mask, t->here)) {
        /* Else it would stay at home when it has been there once. */
        return t->want >= 0 || !names(&e->mask, chimera_home) ? t->here : -1;
    }
    for (int i = 0; i < chimera_nr_nodes; i++) {
        if (names(&e->mask, i) && usable(i)) {
            return i;
        }
    }
    return -1;
}

/* Home: the calling thread has a mask. */
static void obey(void)
{
    struct thread *t = chimera_thread();
    int node = t ? chimera_affinity_node(t) : -1;

    if (node >= 0) {
        chimera_request(node);
        t->pinned = 1;
    }
}

/* Home: the calling thread @t may begin with a mask. */
void chimera_affinity_take(struct thread *t)
{
    if (own_entry()) {
        int node = chimera_affinity_node(t);

        if (node >= 0 && node != chimera_home) {
            chimera_request(node);
            t->pinned = 1;
        }
    }
}

/*
 * A peer: the calling thread serves @t. @fresh: it has done nothing yet. Its
 * kernel knows nothing of other nodes' CPUs.
 */
void chimera_affinity_arrived(struct thread *t, bool fresh)
{
    struct affinity *e = find(t->tid);
    uint64_t mask[KERNEL_BYTES / 8];
    uint32_t version;

    if (!e) {
        return;
    }
    version = __atomic_load_n(&e->version, __ATOMIC_ACQUIRE);
    if (e->applied[chimera_node] == version && !fresh) {
        return;
    }
    e->applied[chimera_node] = version;
    part(&e->mask, chimera_node, mask);
    sys(NR_SCHED_SETAFFINITY, 0, sizeof(mask), (long)mask, 0, 0, 0);
}

/* --- system calls -------------------------------------------------------------------- */

/* Is it one of this process's threads? */
static bool is_ours(int32_t tid)
{
    return !tid || !sys(NR_TGKILL, sys(NR_GETPID, 0, 0, 0, 0, 0, 0), tid, 0, 0,
                        0, 0);
}

/* Another thread than the calling one sees to it at its next point. */
static long remember(int32_t tid, const struct cpumask *m)
{
    bool self = !tid || tid == own_tid();
    struct affinity *e = self ? own_entry() : NULL;
    uint64_t old = lock();

    if (!e) {
        tid = self ? own_tid() : tid;
        e = find(tid);
    }
    if (e) {
        set(e, m);
    } else {
        e = make(tid, m);
    }
    unlock(old);
    if (!e) {
        return -ENOMEM;
    }
    if (self) {
        obey();
    } else {
        chimera_control_post(tid, CONTROL_AFFINITY);
        if (!is_ours(tid)) {
            chimera_control_end(tid);   /* it has ended meanwhile */
        }
    }
    return 0;
}

static long set_affinity(int32_t tid, uint64_t len, const uint8_t *user)
{
    struct cpumask asked = { { 0 } }, m = { { 0 } };
    uint64_t mask[KERNEL_BYTES / 8];
    bool any = false;
    long r;

    chimera_affinity_start();
    /* The kernel looks at the address before it looks for the thread. */
    r = sys(NR_SCHED_SETAFFINITY, NO_THREAD, len, (long)user, 0, 0, 0);
    if (r == -EFAULT || r == -ENOMEM) {
        return r;
    }
    __builtin_memcpy(&asked, user, len < MASK_BYTES ? len : MASK_BYTES);
    for (int i = 0; i < chimera_nr_nodes; i++) {
        for (unsigned c = shared.first_cpu[i]; c < shared.first_cpu[i + 1]; c++) {
            if (has(&asked, c) && usable(i)) {
                add(&m, c);
                any = true;
            }
        }
    }
    if (!any) {
        return -EINVAL;
    }
    if (names(&m, chimera_home)) {
        part(&m, chimera_home, mask);
        r = sys(NR_SCHED_SETAFFINITY, tid, sizeof(mask), (long)mask, 0, 0, 0);
        if (r < 0 || !is_ours(tid)) {
            return r;
        }
    } else if (!is_ours(tid)) {
        /* Another program's threads are this node's. */
        r = sys(NR_SCHED_GETAFFINITY, tid, sizeof(mask), (long)mask, 0, 0, 0);
        return r < 0 ? r : -EINVAL;
    }
    return remember(tid, &m);
}

/* CHIMERA_PLACE: the calling thread belongs to one CPU of a node. */
void chimera_affinity_place(int node, unsigned cpu)
{
    struct cpumask m = { { 0 } };

    add(&m, shared.first_cpu[node] + cpu);
    set_affinity(0, sizeof(m), (const uint8_t *)&m);
}

static long get_affinity(int32_t tid, uint64_t len, uint8_t *user)
{
    uint64_t home[KERNEL_BYTES / 8] = { 0 };
    struct cpumask m = { { 0 } };
    const struct affinity *e;
    uint32_t bytes;
    bool ours;
    long r;

    chimera_affinity_start();
    bytes = (shared.first_cpu[chimera_nr_nodes] + 63) / 64 * 8;
    if (len * 8 < shared.first_cpu[chimera_nr_nodes] || len & 7) {
        return -EINVAL;
    }
    /* Into the caller's first: it looks at the address. */
    r = sys(NR_SCHED_GETAFFINITY, tid, len, (long)user, 0, 0, 0);
    if (r < 0) {
        return r;
    }
    __builtin_memcpy(home, user, r < KERNEL_BYTES ? r : KERNEL_BYTES);
    ours = is_ours(tid);
    e = !ours ? NULL : !tid || tid == own_tid() ? own_entry() : find(tid);
    for (int i = 0; i < chimera_nr_nodes; i++) {
        for (unsigned c = shared.first_cpu[i]; c < shared.first_cpu[i + 1]; c++) {
            unsigned k = c - shared.first_cpu[i];

            if (e ? has(&e->mask, c)
                  : i == chimera_home ? home[k / 64] >> k % 64 & 1
                                      : ours && usable(i)) {
                add(&m, c);
            }
        }
    }
    if (bytes > len) {
        bytes = len;
    }
    __builtin_memcpy(user, &m, bytes);
    return bytes;
}

/* On the node where the thread runs; the NUMA node is ours. */
long chimera_getcpu(unsigned *ret_cpu, unsigned *ret_node)
{
    unsigned cpu = 0;
    long r;

    if (!chimera_is_peer()) {
        chimera_affinity_start();
        /* It looks at the addresses. */
        r = sys(NR_GETCPU, (long)ret_cpu, (long)ret_node, 0, 0, 0, 0);
        if (r < 0) {
            return r;
        }
    }
    r = sys(NR_GETCPU, (long)&cpu, 0, 0, 0, 0, 0);
    if (r < 0) {
        return r;
    }
    if (ret_cpu) {
        *ret_cpu = shared.first_cpu[chimera_node] + cpu;
    }
    if (ret_node) {
        *ret_node = chimera_node;
    }
    return 0;
}

/* Home: calls that concern CPUs. */
bool chimera_affinity_syscall(long n, const long a[6], long *ret)
{
    switch (n) {
    case NR_SCHED_SETAFFINITY:
        *ret = set_affinity(a[0], a[1], (const uint8_t *)a[2]);
        return true;
    case NR_SCHED_GETAFFINITY:
        *ret = get_affinity(a[0], a[1], (uint8_t *)a[2]);
        return true;
    case NR_GETCPU:
        *ret = chimera_getcpu((unsigned *)a[0], (unsigned *)a[1]);
        return true;
    }
    return false;
}
