/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Requests from outside of the program, by chimera-migrate.
 *
 * The page is a private mapping, so a child of fork has its own. The highest
 * byte of __chimera_flag says that there are requests: whoever clears it looks
 * through them afterwards and sets it again if some are left, so that none is
 * forgotten. Threads of the program ask each other in the same way (affinity.c).
 */

#include "kernel.h"
#include "control.h"

#define NR_CLOSE        3
#define NR_WRITE        1
#define NR_MMAP         9
#define NR_MEMFD_CREATE 319

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
    struct control head = { CONTROL_MAGIC, (uint64_t)notice(), { { 0 } } };
    long fd = chimera_native_syscall(NR_MEMFD_CREATE, (long)CONTROL_NAME, 1, 0,
                                     0, 0, 0);
    long p;

    if (fd < 0) {
        return;
    }
    chimera_native_syscall(NR_WRITE, fd, (long)&head, sizeof(head), 0, 0, 0);
    /* PROT_READ|PROT_WRITE, MAP_PRIVATE */
    p = chimera_native_syscall(NR_MMAP, 0, sizeof(head), 3, 2, fd, 0);
    chimera_native_syscall(NR_CLOSE, fd, 0, 0, 0, 0, 0);
    if (p > 0 || p < -4095) {
        control = (struct control *)p;
    }
}

bool chimera_control_pending(void)
{
    return __atomic_load_n(notice(), __ATOMIC_RELAXED) && control;
}

void chimera_control_post(int32_t tid, int32_t node)
{
    for (unsigned i = 0; control && i < CONTROL_REQUESTS; i++) {
        int32_t was = 0;

        if (__atomic_compare_exchange_n(&control->request[i].tid, &was, -1,
                                        false, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST)) {
            control->request[i].node = node;
            __atomic_store_n(&control->request[i].tid, tid, __ATOMIC_SEQ_CST);
            __atomic_store_n(notice(), 1, __ATOMIC_SEQ_CST);
            return;
        }
    }
}

/* The thread ends: nobody else takes what it was asked. */
void chimera_control_end(int32_t tid)
{
    if (!chimera_control_pending()) {
        return;
    }
    for (unsigned i = 0; i < CONTROL_REQUESTS; i++) {
        int32_t is = tid;

        __atomic_compare_exchange_n(&control->request[i].tid, &is, 0, false,
                                    __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
}

/* The node to which this thread was asked to go, or -1 */
int chimera_control_take(struct thread *t)
{
    bool left = false;
    int node = -1;

    __atomic_store_n(notice(), 0, __ATOMIC_SEQ_CST);
    for (unsigned i = 0; i < CONTROL_REQUESTS; i++) {
        int32_t tid = __atomic_load_n(&control->request[i].tid,
                                      __ATOMIC_SEQ_CST);

        if (tid && tid == t->tid) {
            node = control->request[i].node;
            __atomic_store_n(&control->request[i].tid, 0, __ATOMIC_SEQ_CST);
        } else if (tid) {
            left = true;
        }
    }
    if (left) {
        __atomic_store_n(notice(), 1, __ATOMIC_SEQ_CST);
    }
    if (node == CONTROL_AFFINITY) {
        if (chimera_is_peer()) {
            chimera_affinity_arrived(t, false);
        }
        node = chimera_affinity_node(t);
    }
    return node;
}
