/*
 * Pages that are lost with another node: what TCG calls. See dsm-lost.c.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef ACCEL_TCG_DSM_LOST_H
#define ACCEL_TCG_DSM_LOST_H

#include "exec/hwaddr.h"
#include "exec/mmu-access-type.h"
#include "exec/vaddr.h"
#include "hw/core/cpu.h"

#if defined(CONFIG_DSM) && !defined(CONFIG_USER_ONLY)
extern bool dsm_lost_enabled;

bool dsm_lost_probe_slow(CPUState *cpu, void *host, MMUAccessType type,
                         int mmu_idx);
void dsm_lost_check_slow(CPUState *cpu, CPUTLBEntryFull *full, void *host,
                         vaddr addr, unsigned size, MMUAccessType type,
                         int mmu_idx, uintptr_t ra);
G_NORETURN void dsm_lost_raise(CPUState *cpu, CPUTLBEntryFull *full,
                               vaddr addr, unsigned size, MMUAccessType type,
                               int mmu_idx, uintptr_t ra);

/* Whether a program of the guest would access a lost page at @host, RAM. */
static inline bool dsm_lost_probe(CPUState *cpu, void *host,
                                  MMUAccessType type, int mmu_idx)
{
    return unlikely(dsm_lost_enabled) &&
           unlikely(dsm_lost_probe_slow(cpu, host, type, mmu_idx));
}

/*
 * Before a helper's access to RAM at @host, which @addr is mapped to: does not
 * return if the page is lost and a program of the guest gets an error for it.
 * The helper may be left at the access, too.
 */
static inline void dsm_lost_check(CPUState *cpu, CPUTLBEntryFull *full,
                                  void *host, vaddr addr, unsigned size,
                                  MMUAccessType type, int mmu_idx,
                                  uintptr_t ra)
{
    if (unlikely(dsm_lost_enabled)) {
        dsm_lost_check_slow(cpu, full, host, addr, size, type, mmu_idx, ra);
    }
}
#else
static inline bool dsm_lost_probe(CPUState *cpu, void *host,
                                  MMUAccessType type, int mmu_idx)
{
    return false;
}

static inline void dsm_lost_check(CPUState *cpu, CPUTLBEntryFull *full,
                                  void *host, vaddr addr, unsigned size,
                                  MMUAccessType type, int mmu_idx,
                                  uintptr_t ra)
{
}

static inline G_NORETURN void
dsm_lost_raise(CPUState *cpu, CPUTLBEntryFull *full, vaddr addr, unsigned size,
               MMUAccessType type, int mmu_idx, uintptr_t ra)
{
    g_assert_not_reached();
}
#endif

#endif
