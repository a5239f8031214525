/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * aarch64: system calls come with x86_64's numbers, constants and structures.
 *
 * Only what the C library here can issue is translated: calls that both kernels
 * have (musl/build leaves no others).
 */

#include "thread.h"

/* [x86_64 number] = aarch64 number + 1 */
static const short numbers[] = {
#include "syscall-map.h"
};

#define NR_FCNTL        72
#define NR_EPOLL_CTL    233
#define NR_EPOLL_PWAIT  281
#define NR_OPENAT       257
#define NR_CLONE        56
#define F_GETFL 3
#define F_SETFL 4
#define ENOSYS 38

struct x86_epoll_event {
    uint32_t events;
    uint64_t data;
} __attribute__((packed));

struct epoll_event {
    uint32_t events;
    uint64_t data;
};

static long to_aarch64(long flags)
{
    return chimera_open_flags(flags, CHIMERA_ISA_X86_64, CHIMERA_ISA_AARCH64);
}

extern char __chimera_tls_span[];       /* from the linker script */

long chimera_native_syscall(long n, long a, long b, long c, long d, long e,
                            long f)
{
    struct epoll_event ev;
    long nr, ret;

    if (n < 0 || n >= (long)(sizeof(numbers) / sizeof(*numbers)) ||
        !numbers[n]) {
        return -ENOSYS;
    }
    nr = numbers[n] - 1;
    switch (n) {
    case NR_OPENAT:
        c = to_aarch64(c);
        break;
    case NR_FCNTL:
        if (b == F_SETFL) {
            c = to_aarch64(c);
        } else if (b == F_GETFL) {
            ret = chimera_raw_syscall(nr, a, b, c, d, e, f);
            return ret < 0 ? ret : chimera_open_flags(ret, CHIMERA_ISA_AARCH64,
                                                      CHIMERA_ISA_X86_64);
        }
        break;
    case NR_CLONE:
        /* ctid and tls stand the other way round. */
        return chimera_raw_syscall(nr, a, b, c, e, d, f);
    case NR_EPOLL_CTL:
        if (d) {
            const struct x86_epoll_event *x = (void *)d;

            ev.events = x->events;
            ev.data = x->data;
            d = (long)&ev;
        }
        break;
    case NR_EPOLL_PWAIT: {
        struct epoll_event list[64];
        struct x86_epoll_event *x = (void *)b;

        if (c > 64) {
            c = 64;
        }
        ret = chimera_raw_syscall(nr, a, (long)list, c, d, e, f);
        for (long i = 0; i < ret; i++) {
            x[i].events = list[i].events;
            x[i].data = list[i].data;
        }
        return ret;
    }
    }
    return chimera_raw_syscall(nr, a, b, c, d, e, f);
}

/*
 * The thread pointer that programs know is x86_64's, at the end of the TLS
 * block.  tpidr_el0 lies below the block by the 16 bytes of the AArch64 ABI
 * (or the block's alignment); __chimera_tls_span is the distance.
 */
uint64_t chimera_tp_register(uint64_t tp)
{
    return tp - (uint64_t)__chimera_tls_span;
}

void chimera_set_tp(uint64_t tp)
{
    uint64_t v = chimera_tp_register(tp);

    __asm__ volatile("msr tpidr_el0, %0" : : "r"(v) : "memory");
}

uint64_t chimera_get_tp(void)
{
    uint64_t v;

    __asm__("mrs %0, tpidr_el0" : "=r"(v));
    return v + (uint64_t)__chimera_tls_span;
}
