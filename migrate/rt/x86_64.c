/* SPDX-License-Identifier: GPL-2.0-or-later */
/* x86_64: everything is native. */

#include "thread.h"

#define NR_ARCH_PRCTL 158
#define ARCH_SET_FS 0x1002

long chimera_native_syscall(long n, long a, long b, long c, long d, long e,
                            long f)
{
    return chimera_raw_syscall(n, a, b, c, d, e, f);
}

uint64_t chimera_tp_register(uint64_t tp)
{
    return tp;
}

void chimera_set_tp(uint64_t tp)
{
    chimera_raw_syscall(NR_ARCH_PRCTL, ARCH_SET_FS, tp, 0, 0, 0, 0);
}

uint64_t chimera_get_tp(void)
{
    uint64_t tp;

    __asm__("mov %%fs:0, %0" : "=r"(tp));
    return tp;
}
