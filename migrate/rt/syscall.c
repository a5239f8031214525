/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * System calls of compiled code and of the C library.
 *
 * Their numbers, constants and structures are x86_64's everywhere.  A thread
 * away from home has its calls made at home; at home they are made natively,
 * translated where the kernel is not x86_64 (aarch64.c).
 */

#include "kernel.h"

#define NR_EXIT         60
#define NR_SCHED_YIELD  24
#define NR_CLONE        56
#define NR_FORK         57
#define NR_GETTID       186
#define CLONE_VM        0x100
#define CLONE_THREAD    0x10000
#define NR_SCHED_SETAFFINITY 203
#define NR_GETCPU       309

/* A process with memory of its own */
static bool makes_process(long n, long flags)
{
    return n == NR_FORK || (n == NR_CLONE && !(flags & CLONE_VM));
}

long __chimera_syscall(long n, long a, long b, long c, long d, long e, long f)
{
    if (__builtin_expect(chimera_mode != MODE_PLAIN, 0)) {
        const long arg[7] = { n, a, b, c, d, e, f };
        long ret;

        if (chimera_is_peer()) {
            if (n == NR_EXIT) {
                chimera_exit_away(0, 0);
            }
            if (n == NR_SCHED_YIELD) {
                return chimera_native_syscall(n, 0, 0, 0, 0, 0, 0);
            }
            if (n == NR_GETCPU && chimera_mode == MODE_KERNEL_PEER) {
                return chimera_getcpu((unsigned *)a, (unsigned *)b);
            }
            ret = chimera_call_home(HOME_SYSCALL, arg);
            if (n == NR_SCHED_SETAFFINITY && chimera_mode == MODE_KERNEL_PEER) {
                chimera_affinity_arrived(__chimera_self, false);
            }
            return ret;
        }
        if (n == NR_EXIT) {
            chimera_exit_home(0, 0);
        }
        if (chimera_mode != MODE_PIPE_HOME && makes_process(n, a)) {
            ret = chimera_native_syscall(n, a, b, c, d, e, f);
            if (ret == 0) {
                chimera_threads_forked();
                if (chimera_mode == MODE_KERNEL_HOME) {
                    chimera_kernel_forked();
                }
            }
            return ret;
        }
        if (chimera_mode == MODE_KERNEL_HOME &&
            chimera_affinity_syscall(n, arg + 1, &ret)) {
            return ret;
        }
        if (chimera_mode == MODE_PIPE_HOME &&
            chimera_arena_syscall(n, arg + 1, &ret)) {
            return ret;
        }
    }
    return chimera_native_syscall(n, a, b, c, d, e, f);
}

/* musl's hook: @tp points at its struct pthread, TLS lies below. */
int __set_thread_area(void *tp)
{
    chimera_set_tp((uint64_t)tp);
    return 0;
}

uintptr_t __chimera_get_tp(void)
{
    return chimera_get_tp();
}

/* --- what the C library calls and an ISA has to do -------------------------- */

int chimera_clone(int (*fn)(void *), void *stack, int flags, void *arg,
                  int *ptid, void *tls, int *ctid);
long chimera_syscall_cp(volatile void *cancel, long n, long a, long b, long c,
                        long d, long e, long f);
long __cancel(void);

/* Variadic in musl's headers: ptid, tls and ctid are in @slots. */
int __clone(int (*fn)(void *), void *stack, int flags, void *arg, long *slots)
{
    if (chimera_is_peer()) {
        const long args[7] = { (long)fn, (long)stack, flags, (long)arg,
                               slots[0], slots[1], slots[2] };

        return chimera_call_home(HOME_CLONE, args);
    }
    return chimera_home_clone((long)fn, (long)stack, flags, (long)arg, slots[0],
                              slots[1], slots[2]);
}

/* Only home makes threads; the thread runs native code of home at first. */
long chimera_home_clone(long fn, long stack, long flags, long arg, long ptid,
                        long tls, long ctid)
{
    long r;

    if (flags & CLONE_THREAD) {
        chimera_place_expect(tls);
    }
    r = chimera_clone((int (*)(void *))fn, (void *)stack, flags, (void *)arg,
                      (int *)ptid, (void *)chimera_tp_register(tls),
                      (int *)ctid);
    if (r < 0 && (flags & CLONE_THREAD)) {
        chimera_place_disown(tls);
    }
    return r;
}

/* A system call that is a cancellation point. */
long __syscall_cp_asm(volatile void *cancel, long n, long a, long b, long c,
                      long d, long e, long f)
{
    if (chimera_mode == MODE_PLAIN || chimera_mode == MODE_SELF ||
        chimera_mode == MODE_KERNEL_HOME) {
#ifdef __x86_64__
        return chimera_syscall_cp(cancel, n, a, b, c, d, e, f);
#endif
    }
    if (*(volatile int *)cancel) {
        return __cancel();
    }
    return __chimera_syscall(n, a, b, c, d, e, f);
}

#define NR_MUNMAP 11

struct dead_stack {
    long base, len;
};

static void unmap_and_exit(void *arg)
{
    struct dead_stack *d = arg;
    long base = d->base, len = d->len;

    /* From here on the words at @arg belong to the next thread that ends. */
    __chimera_syscall(NR_MUNMAP, base, len, 0, 0, 0, 0);
    for (;;) {
        chimera_native_syscall(NR_EXIT, 0, 0, 0, 0, 0, 0);
    }
}

/*
 * A detached thread frees its own stack: off it, onto one that all such threads
 * share.  musl holds the thread list lock here, until the kernel clears it when
 * the thread is gone; so there is one at a time, and signals are blocked.
 */
_Noreturn void chimera_exit_home(uint64_t base, uint64_t len)
{
    static _Alignas(16) unsigned char stack[4096];
    struct dead_stack *dead = (struct dead_stack *)stack;

    if (chimera_mode == MODE_KERNEL_HOME) {
        if (__chimera_self) {
            chimera_kernel_leave(__chimera_self);
        }
        chimera_affinity_end();
        chimera_control_end(chimera_native_syscall(NR_GETTID, 0, 0, 0, 0, 0,
                                                   0));
    }
    chimera_thread_exit();
    while (!base) {
        chimera_native_syscall(NR_EXIT, 0, 0, 0, 0, 0, 0);
    }
    dead->base = base;
    dead->len = len;
    chimera_start_on((uint64_t)(stack + sizeof(stack)), unmap_and_exit, dead);
}

_Noreturn void __unmapself(void *base, size_t len)
{
    if (chimera_is_peer()) {
        chimera_exit_away((uint64_t)base, len);
    }
    chimera_exit_home((uint64_t)base, len);
}
