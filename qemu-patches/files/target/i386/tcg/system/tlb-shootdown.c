/*
 * Paravirtual TLB shootdown for x86 guests
 *
 * An x86 kernel flushes other processors' TLBs by interrupting them and
 * spinning until all have answered. With more vCPUs than host CPUs it spins
 * away the time that the others need in order to answer. Here the guest writes
 * one MSR instead, and the writer sleeps until every other vCPU has left the
 * translation block it was in; each flushes before it enters another one.
 * A vCPU that is halted answers when it wakes up.
 *
 * It cannot be had without waiting for preempted vCPUs: one that lost its host
 * CPU inside a translation block may still store through an old translation.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/cputlb.h"
#include "exec/target_page.h"
#include "standard-headers/asm-x86/tcg_para.h"
#include "tcg/tlb-shootdown.h"

/* Those that translate linear addresses */
#define X86_LINEAR_MMUIDX_BITS (BIT(MMU_PHYS_IDX) - 1)

/*
 * Every vCPU that may hold a translation of this guest has to be reached from
 * here: vCPUs of other processes, once a guest has such, are to be told
 * before, and waited for after, those of this one.
 */
void x86_tlb_shootdown(CPUX86State *env, uint64_t val)
{
    X86CPU *cpu = env_archcpu(env);
    vaddr addr = val & TARGET_PAGE_MASK;
    vaddr pages = val & TCG_TLB_FLUSH_MAX_PAGES;

    if (!cpu->tcg_tlb_flush) {
        return;
    }
    if (cpu->tcg_tlb_flush_local) {
        tlb_flush(CPU(cpu));
    } else if (pages == 0) {
        tlb_flush_all_cpus_synced(CPU(cpu));
    } else {
        tlb_flush_range_by_mmuidx_all_cpus_synced(CPU(cpu), addr,
                                                  pages * TARGET_PAGE_SIZE,
                                                  X86_LINEAR_MMUIDX_BITS,
                                                  TARGET_LONG_BITS);
    }
}
