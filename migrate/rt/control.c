/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Requests from outside of the program, by chimera-migrate, and of its threads
 * to each other (affinity.c).
 *
 * The highest byte of __chimera_flag says that there are requests: then polls
 * look here. One that concerns a thread which does not poll may stay for long,
 * so the others only read meanwhile, and of the requests only when there are new
 * ones, which the stamp tells.
 *
 * The byte is cleared by whoever has taken the last request, see settle(). It is
 * set before the stamp: who polls afterwards finds the stamp new, looks, and
 * clears the byte if the request was taken already. So it is not left set
 * without a request, nor clear with one.
 */

#include "kernel.h"
#include "control.h"

#define NR_CLOSE        3
#define NR_WRITE        1
#define NR_MMAP         9
#define NR_FTRUNCATE    77
#define NR_MEMFD_CREATE 319
#define BEING_MADE      INT32_MIN       /* .tid of a request */

/* Read where the thread runs. */
SHARED_DATA static struct control *control;
extern int __chimera_flag;

static uint8_t *notice(void)
{
    return (uint8_t *)&__chimera_flag + 3;
}

/* Without it the program cannot be asked to move; it runs all the same. */
void chimera_control_start(void)
{
    const uint64_t head[2] = { CONTROL_MAGIC, (uint64_t)notice() };
    long fd = chimera_native_syscall(NR_MEMFD_CREATE, (long)CONTROL_NAME, 1, 0,
                                     0, 0, 0);
    long p = -1;

    if (fd < 0) {
        return;
    }
    if (!chimera_native_syscall(NR_FTRUNCATE, fd, sizeof(*control), 0, 0, 0,
                                0)) {
        chimera_native_syscall(NR_WRITE, fd, (long)head, sizeof(head), 0, 0, 0);
        /* PROT_READ|PROT_WRITE, MAP_PRIVATE */
        p = chimera_native_syscall(NR_MMAP, 0, sizeof(*control), 3, 2, fd, 0);
    }
    chimera_native_syscall(NR_CLOSE, fd, 0, 0, 0, 0, 0);
    if (p > 0 || p < -4095) {
        control = (struct control *)p;
    }
}

static int32_t request_tid(unsigned i)
{
    return __atomic_load_n(&control->request[i].tid, __ATOMIC_SEQ_CST);
}

static bool any_left(void)
{
    for (unsigned i = 0; i < CONTROL_REQUESTS; i++) {
        if (request_tid(i)) {
            return true;
        }
    }
    return false;
}

/*
 * Requests have gone: without any, polls need not look here. Of two threads that
 * take the last two, the later one sees none left. The byte may be cleared just
 * after a request came, and set again just after that one was taken.
 */
static void settle(void)
{
    while (!any_left()) {
        __atomic_store_n(notice(), 0, __ATOMIC_SEQ_CST);
        if (!any_left()) {
            return;
        }
        __atomic_store_n(notice(), 1, __ATOMIC_SEQ_CST);
    }
}

/* A child of fork has a copy: what was asked of its parent's threads. */
void chimera_control_forked(void)
{
    if (!control) {
        return;
    }
    for (unsigned i = 0; i < CONTROL_REQUESTS; i++) {
        __atomic_store_n(&control->request[i].tid, 0, __ATOMIC_SEQ_CST);
    }
    __atomic_store_n(notice(), 0, __ATOMIC_SEQ_CST);
}

bool chimera_control_pending(void)
{
    return __atomic_load_n(notice(), __ATOMIC_RELAXED) && control;
}

static bool posted(int32_t tid, int32_t node)
{
    for (unsigned i = CONTROL_ASKED; i < CONTROL_REQUESTS; i++) {
        if (request_tid(i) == tid && control->request[i].node == node) {
            return true;
        }
    }
    return false;
}

void chimera_control_post(int32_t tid, int32_t node)
{
    if (!control || posted(tid, node)) {
        return;
    }
    for (unsigned i = CONTROL_ASKED; i < CONTROL_REQUESTS; i++) {
        int32_t was = 0;

        if (!request_tid(i) &&
            __atomic_compare_exchange_n(&control->request[i].tid, &was,
                                        BEING_MADE, false, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST)) {
            control->request[i].node = node;
            __atomic_store_n(&control->request[i].tid, tid, __ATOMIC_SEQ_CST);
            __atomic_store_n(notice(), 1, __ATOMIC_SEQ_CST);
            __atomic_fetch_add(&control->stamp, 1, __ATOMIC_SEQ_CST);
            return;
        }
    }
}

/* The thread ends: nobody else takes what it was asked. */
void chimera_control_end(int32_t tid)
{
    bool gone = false;

    for (unsigned i = 0; control && i < CONTROL_REQUESTS; i++) {
        int32_t is = request_tid(i);

        gone |= (is == tid || is == -tid) &&
                __atomic_compare_exchange_n(&control->request[i].tid, &is, 0,
                                            false, __ATOMIC_SEQ_CST,
                                            __ATOMIC_SEQ_CST);
    }
    if (gone) {
        settle();
    }
}

/* The node to which this thread was asked to go, or -1 */
int chimera_control_take(struct thread *t)
{
    uint64_t stamp = __atomic_load_n(&control->stamp, __ATOMIC_SEQ_CST);
    int node = -1;

    if (stamp == t->stamp) {
        return -1;
    }
    t->stamp = stamp;
    for (unsigned i = 0; i < CONTROL_REQUESTS; i++) {
        int32_t tid = request_tid(i);

        /* The latter: a handler has left by longjmp, from right here. */
        if (tid == t->tid || tid == -t->tid) {
            __atomic_store_n(&control->request[i].tid, -t->tid,
                             __ATOMIC_SEQ_CST);
            node = __atomic_load_n(&control->request[i].node, __ATOMIC_SEQ_CST);
            __atomic_store_n(&control->request[i].tid, 0, __ATOMIC_SEQ_CST);
        }
    }
    settle();
    if (node == CONTROL_AFFINITY) {
        if (chimera_is_peer()) {
            chimera_affinity_arrived(t, false);
        }
        node = chimera_affinity_node(t);
    }
    return node;
}
