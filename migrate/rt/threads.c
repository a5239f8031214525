/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Blocks of threads: made when a thread first moves, reused after it ended.
 *
 *   | struct thread | frame buffer | unwind stacks | native stack of the peer |
 *   | stack of dynamic allocas |
 *
 * An unwind stack is aligned to its size, so that its end is known from any
 * address in it.  In kernel mode the other nodes' are made at the first visit.
 */

#include "thread.h"

#define NR_MMAP 9
#define NR_MPROTECT 10
#define NR_SCHED_YIELD 24
#define NR_GETTID 186
#define NR_RT_SIGPROCMASK 14
#define SIG_SETMASK 2

#define BUFFER_BYTES (256ul << 10)
#define UNWIND_BYTES (4ul << 20)        /* touched pages count */
#define UNWIND_RESERVE (64ul << 10)     /* for one segment and a handler */
#define NATIVE_BYTES (64ul << 20)       /* for peers; touched pages count */
#define DYNAMIC_BYTES (64ul << 20)

/* Gives the TLS block an alignment that the driver knows (driver/layout.c). */
__thread struct thread *__chimera_self
    __attribute__((aligned(64), section(".tdata")));
__thread char *__chimera_dsp;

/* Only home makes and ends threads. */
static struct thread *free_list;
static int list_lock;
extern int __chimera_flag;

static void lock(void)
{
    while (__atomic_exchange_n(&list_lock, 1, __ATOMIC_ACQUIRE)) {
        chimera_native_syscall(NR_SCHED_YIELD, 0, 0, 0, 0, 0, 0);
    }
}

static void unlock(void)
{
    __atomic_store_n(&list_lock, 0, __ATOMIC_RELEASE);
}

static char *map(uint64_t len)
{
    long p;

    if (chimera_mode == MODE_PIPE_HOME) {
        return chimera_arena_alloc(len);
    }
    /* PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_NORESERVE */
    p = chimera_native_syscall(NR_MMAP, 0, len, 3, 0x4022, -1, 0);
    return p < 0 && p > -4096 ? NULL : (char *)p;
}

/* The lowest page of every stack of ours faults; each process sees to it. */
void chimera_guard(const struct thread *t)
{
    for (int i = 0; i < CHIMERA_ISA_COUNT; i++) {
        chimera_native_syscall(NR_MPROTECT, t->unwind_top[i] - UNWIND_BYTES,
                               4096, 0, 0, 0, 0);
    }
    if (chimera_mode != MODE_SELF) {
        chimera_native_syscall(NR_MPROTECT, t->native_top - NATIVE_BYTES, 4096,
                               0, 0, 0, 0);
    }
}

bool chimera_has_room(const struct thread *t)
{
    const uint64_t sp = (uint64_t)__builtin_frame_address(0);

    if (!((sp ^ (t->usp[ISA_HERE] - 1)) & ~(UNWIND_BYTES - 1))) {
        return false;           /* a handler, when a run has just returned */
    }
    for (int i = 0; i < CHIMERA_ISA_COUNT; i++) {
        if (((t->usp[i] - 1) & (UNWIND_BYTES - 1)) < UNWIND_RESERVE) {
            return false;
        }
    }
    return true;
}

static char *align_up(char *p)
{
    return (char *)(((uint64_t)p + UNWIND_BYTES - 1) & ~(UNWIND_BYTES - 1));
}

bool chimera_make_unwind_stack(struct thread *t, int node)
{
    char *p;

    if (t->side[node].unwind_top) {
        return true;
    }
    p = map(2 * UNWIND_BYTES);
    if (!p) {
        return false;
    }
    p = align_up(p);
    chimera_native_syscall(NR_MPROTECT, (long)p, 4096, 0, 0, 0, 0);
    t->side[node].unwind_top = (uint64_t)(p + UNWIND_BYTES);
    return true;
}

static struct thread *make(void)
{
    uint64_t peer = chimera_mode == MODE_SELF ? 0 : NATIVE_BYTES;
    uint64_t head = 4096;
    uint64_t len = head + BUFFER_BYTES + UNWIND_BYTES +
                   CHIMERA_ISA_COUNT * UNWIND_BYTES + peer + DYNAMIC_BYTES;
    char *p = map(len);
    struct thread *t = (struct thread *)p;

    if (!p) {
        return NULL;
    }
    t->map_bytes = len;
    p += head;
    t->buffer = (unsigned char *)p;
    t->buffer_bytes = BUFFER_BYTES;
    p = align_up(p + BUFFER_BYTES);
    for (int i = 0; i < CHIMERA_ISA_COUNT; i++) {
        p += UNWIND_BYTES;
        t->unwind_top[i] = (uint64_t)p;
    }
    p += peer;
    t->native_top = (uint64_t)p;
    t->dynamic_low = p;
    t->dynamic_top = p + DYNAMIC_BYTES;
    t->fd[0] = t->fd[1] = -1;
    chimera_guard(t);
    return t;
}

static struct thread *begin(void)
{
    struct thread *t;

    lock();
    t = free_list;
    if (t) {
        free_list = t->next;
    }
    unlock();
    if (!t) {
        t = make();
        if (!t) {
            return NULL;
        }
    }
    for (int i = 0; i < CHIMERA_ISA_COUNT; i++) {
        t->usp[i] = t->unwind_top[i];
        t->limit[i] = t->native_top;
        t->run[i] = NULL;
    }
    t->tp = chimera_get_tp();
    t->want = -1;
    t->here = chimera_node;
    t->busy = 0;
    t->kick = 0;
    t->polls = 0;
    t->hops = 0;
    t->blocked = 0;
    t->jumped = 0;
    t->pinned = 0;
    t->stamp = 0;
    t->tid = chimera_native_syscall(NR_GETTID, 0, 0, 0, 0, 0, 0);
    for (int i = 0; i < MAX_NODES; i++) {
        t->side[i].attached = 0;
        t->side[i].context = 0;
    }
    __chimera_self = t;
    chimera_place_take(t);
    return t;
}

struct thread *chimera_thread(void)
{
    struct thread *t = __chimera_self;
    uint64_t all = ~0ull, mask;

    if (t) {
        return t;
    }
    if (chimera_is_peer()) {
        chimera_die("a thread without a home");
    }
    /* A handler that polls must not begin, too. */
    chimera_native_syscall(NR_RT_SIGPROCMASK, SIG_SETMASK, (long)&all,
                           (long)&mask, 8, 0, 0);
    t = __chimera_self ? __chimera_self : begin();
    chimera_native_syscall(NR_RT_SIGPROCMASK, SIG_SETMASK, (long)&mask, 0, 8, 0,
                           0);
    return t;
}

/* The calling thread is about to end; its block may be used by another. */
void chimera_thread_exit(void)
{
    struct thread *t = __chimera_self;

    if (!t) {
        chimera_place_take(NULL);
        return;
    }
    /* What __chimera_flag has for it goes, too. */
    chimera_request(-1);
    chimera_end_kick(t);
    __chimera_self = NULL;
    lock();
    t->next = free_list;
    free_list = t;
    unlock();
}

void chimera_threads_forked(void)
{
    const struct thread *t = __chimera_self;
    bool looks = !t && chimera_place_looks();

    list_lock = 0;
    /* What the other threads wanted, they want in the parent only. */
    __chimera_flag = (__chimera_flag & 1) + (t && t->kick ? 2 : 0) +
                     (t && t->want >= 0 ? 4 : 0) + (looks ? 8 : 0);
}
