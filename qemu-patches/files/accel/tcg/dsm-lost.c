/*
 * Pages that are lost with another node
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The host answers an access to a lost page with SIGBUS. If it is a program of
 * the guest that makes the access, the program gets what its architecture has
 * for memory that cannot be read any more: a machine check that can be
 * recovered from on x86, a synchronous external abort on arm. It is raised at
 * the instruction that makes the access, before that has changed anything.
 *
 *   L1 An access in a translation is undone: the handler of SIGBUS unwinds it,
 *      forgets the TLB and leaves the translation. No lock is held there, and
 *      all of the guest's state is in env, for the access might have left the
 *      translation by a page fault of the guest, too. The instruction is
 *      executed again, and as the TLB is empty its access is a helper's.
 *   L2 A helper that does nothing but this access is left in the same way. The
 *      handler knows it by the pages of its lookup: other code accesses the
 *      same page only after another lookup, or, as devices do, under the BQL.
 *   L3 Where a helper looks up the page that L1 or L2 is about, one byte of it
 *      is touched in the way in which it will be accessed, and the handler
 *      returns to there. The helper would leave there if the guest had nothing
 *      mapped, so it can raise the error; and it knows the guest's address.
 *   L4 Helpers that do more than one access, those that store across pages and
 *      the translator touch what they look up at once. If the page is lost
 *      after that, a store may have been made in part.
 *
 * So nothing has to be remembered about pages: the host knows which are lost.
 *
 * Everything else gets zeros (hostmem-dsm-pages.c): the guest's kernel, which
 * would mostly die of the error, devices, and a helper of L4 whose page is lost
 * after the touch, unless it is a store; for that another node must take the
 * page and be lost within the same few instructions.
 */

#include "qemu/osdep.h"
#include "qemu/atomic.h"
#include "qemu/main-loop.h"
#include "qemu/stats64.h"
#include "accel/tcg/cpu-ops.h"
#include "cpu.h"
#include "exec/cpu-common.h"
#include "exec/cputlb.h"
#include "exec/exec-all.h"
#include "hw/core/cpu.h"
#include "tb-internal.h"
#include "system/dsm.h"
#include "tcg/tcg.h"
#include "dsm-lost.h"
#include "trace.h"
#ifdef TARGET_I386
#include "tcg/helper-tcg.h"
#endif
#ifdef TARGET_ARM
#include "internals.h"
#endif

bool dsm_lost_enabled;

static Stat64 dsm_lost_errors;

static __thread struct {
    volatile bool armed;
    sigjmp_buf jmp_env;
} dsm_lost_touch;

/* L2: what the helper that runs has looked up. */
static __thread struct {
    uintptr_t ra;       /* 0: nothing */
    uintptr_t page[2];  /* the last one first */
} dsm_lost_helper;

static __thread uintptr_t dsm_lost_page;    /* L3; 0: none */

#if defined(TARGET_I386)
/* The bank that KVM's errors of this kind are in. */
#define LOST_BANK 9

/* The guest's kernel can learn of a lost page and survive it. */
static bool lost_can_raise(CPUState *cs)
{
    CPUX86State *env = cpu_env(cs);
    uint64_t *bank = env->mce_banks + 4 * LOST_BANK;

    return (env->hflags & HF_CPL_MASK) == 3 &&
           (env->cr[4] & CR4_MCE_MASK) &&
           (env->mcg_cap & MCG_CAP_BANKS_MASK) > LOST_BANK &&
           env->mcg_ctl == ~UINT64_C(0) && bank[0] == ~UINT64_C(0) &&
           !(env->mcg_status & MCG_STATUS_MCIP) &&
           (!IS_AMD_CPU(env) || (env->features[FEAT_8000_0007_EBX] &
                                 CPUID_8000_0007_EBX_SUCCOR));
}

static bool lost_is_user(CPUState *cs, int mmu_idx)
{
    return is_mmu_index_user(mmu_idx);
}

static void lost_join(CPUState *cs, run_on_cpu_data data)
{
    cpu_x86_inject_mce(NULL, X86_CPU(cs), 1, MCI_STATUS_VAL | MCI_STATUS_UC,
                       MCG_STATUS_MCIP | MCG_STATUS_RIPV, 0, 0, 0);
}

/* What cpu_x86_inject_mce() does, but at this very instruction. */
static G_NORETURN void lost_raise(CPUState *cs, CPUTLBEntryFull *full,
                                  hwaddr physaddr, vaddr addr, unsigned size,
                                  MMUAccessType type, int mmu_idx,
                                  uintptr_t ra)
{
    CPUX86State *env = cpu_env(cs);
    uint64_t *bank = env->mce_banks + 4 * LOST_BANK;
    uint64_t status = MCI_STATUS_VAL | MCI_STATUS_UC | MCI_STATUS_EN |
                      MCI_STATUS_MISCV | MCI_STATUS_ADDRV;
    CPUState *other;

    /* All our CPUs have MCG_SER_P, so guests want to see S on all of them. */
    status |= MCI_STATUS_S;
    if (IS_AMD_CPU(env)) {
        status |= MCI_STATUS_POISON;
    } else {
        /* MCACOD: an instruction fetch, a data load */
        status |= MCI_STATUS_AR | (type == MMU_INST_FETCH ? 0x150 : 0x134);
    }
    if (bank[1] & MCI_STATUS_VAL) {
        status |= MCI_STATUS_OVER;
    }
    bank[1] = status;
    bank[2] = physaddr;
    bank[3] = (MCM_ADDR_PHYS << 6) | TARGET_PAGE_BITS;
    env->mcg_status = MCG_STATUS_MCIP | MCG_STATUS_EIPV | MCG_STATUS_RIPV;
    if (env->mcg_ext_ctl & MCG_EXT_CTL_LMCE_EN) {
        env->mcg_status |= MCG_STATUS_LMCE;
    } else if (cpu_x86_support_mca_broadcast(env)) {
        CPU_FOREACH(other) {
            if (other != cs) {
                async_run_on_cpu(other, lost_join, RUN_ON_CPU_NULL);
            }
        }
    }
    raise_exception_ra(env, EXCP12_MCHK, ra);
}
#elif defined(TARGET_ARM)
static bool lost_can_raise(CPUState *cs)
{
    return arm_current_el(cpu_env(cs)) == 0;
}

static bool lost_is_user(CPUState *cs, int mmu_idx)
{
    CPUARMState *env = cpu_env(cs);

    return regime_is_user(env, core_to_arm_mmu_idx(env, mmu_idx));
}

static G_NORETURN void lost_raise(CPUState *cs, CPUTLBEntryFull *full,
                                  hwaddr physaddr, vaddr addr, unsigned size,
                                  MMUAccessType type, int mmu_idx,
                                  uintptr_t ra)
{
    cs->cc->tcg_ops->do_transaction_failed(cs, physaddr, addr, size, type,
                                           mmu_idx, full->attrs, MEMTX_ERROR,
                                           ra);
    g_assert_not_reached();
}
#else
static bool lost_can_raise(CPUState *cs)
{
    return false;
}

static bool lost_is_user(CPUState *cs, int mmu_idx)
{
    return false;
}

static G_NORETURN void lost_raise(CPUState *cs, CPUTLBEntryFull *full,
                                  hwaddr physaddr, vaddr addr, unsigned size,
                                  MMUAccessType type, int mmu_idx,
                                  uintptr_t ra)
{
    g_assert_not_reached();
}
#endif

void dsm_lost_enable(void)
{
    dsm_lost_enabled = true;
}

bool dsm_lost_active(void)
{
    return dsm_lost_enabled;
}

uint64_t dsm_lost_nr_errors(void)
{
    return stat64_get(&dsm_lost_errors);
}

/* Return: false if the page is lost. */
static bool touch(void *host, bool write)
{
    if (sigsetjmp(dsm_lost_touch.jmp_env, 0)) {
        return false;
    }
    dsm_lost_touch.armed = true;
    barrier();
    if (write) {
        /* Changes nothing, but needs the right to write. */
        qatomic_or((volatile uint8_t *)host, 0);
    } else {
        (void)*(volatile uint8_t *)host;
    }
    barrier();
    dsm_lost_touch.armed = false;
    return true;
}

static bool can_raise(CPUState *cpu, int mmu_idx)
{
    return lost_can_raise(cpu) && lost_is_user(cpu, mmu_idx);
}

bool dsm_lost_probe_slow(CPUState *cpu, void *host, MMUAccessType type,
                         int mmu_idx)
{
    if (!can_raise(cpu, mmu_idx)) {
        return false; /* maybe a table walk between two lookups */
    }
    dsm_lost_helper.ra = 0;
    return !touch(host, type == MMU_DATA_STORE);
}

static uintptr_t page_of(const void *host)
{
    return (uintptr_t)host & qemu_real_host_page_mask();
}

static bool touch_first(uintptr_t page, vaddr addr, unsigned size,
                        MMUAccessType type, uintptr_t ra)
{
    return page == dsm_lost_page || !ra ||
           (type == MMU_DATA_STORE && (!(addr & ~TARGET_PAGE_MASK) ||
                                       !((addr + size) & ~TARGET_PAGE_MASK)));
}

void dsm_lost_check_slow(CPUState *cpu, CPUTLBEntryFull *full, void *host,
                         vaddr addr, unsigned size, MMUAccessType type,
                         int mmu_idx, uintptr_t ra)
{
    uintptr_t before = dsm_lost_helper.ra, page = page_of(host);

    dsm_lost_helper.ra = 0;
    if (!can_raise(cpu, mmu_idx)) {
        return;
    }
    if (touch_first(page, addr, size, type, ra)) {
        if (page == dsm_lost_page) {
            dsm_lost_page = 0;
        }
        if (!touch(host, type == MMU_DATA_STORE)) {
            dsm_lost_raise(cpu, full, addr, size, type, mmu_idx, ra);
        }
    }
    dsm_lost_helper.page[1] = before == ra ? dsm_lost_helper.page[0] : 0;
    dsm_lost_helper.page[0] = page;
    dsm_lost_helper.ra = ra;
}

static bool looked_up(const void *host)
{
    uintptr_t page = page_of(host);

    return dsm_lost_helper.ra && !bql_locked() &&
           (dsm_lost_helper.page[0] == page ||
            dsm_lost_helper.page[1] == page);
}

void dsm_lost_raise(CPUState *cpu, CPUTLBEntryFull *full, vaddr addr,
                    unsigned size, MMUAccessType type, int mmu_idx,
                    uintptr_t ra)
{
    hwaddr physaddr = full->phys_addr | (addr & ~TARGET_PAGE_MASK);

    stat64_add(&dsm_lost_errors, 1);
    trace_dsm_lost_raise(cpu->cpu_index, addr, physaddr);
    lost_raise(cpu, full, physaddr, addr, size, type, mmu_idx, ra);
}

void dsm_lost_fault(uintptr_t host_pc, const void *host, const sigset_t *mask)
{
    CPUState *cpu = current_cpu;
    uintptr_t ra;

    if (dsm_lost_touch.armed) {
        dsm_lost_touch.armed = false;
        pthread_sigmask(SIG_SETMASK, mask, NULL);
        siglongjmp(dsm_lost_touch.jmp_env, 1);
    }
    if (!cpu || !cpu->running || !lost_can_raise(cpu)) {
        return;
    }
    if (in_code_gen_buffer((void *)(host_pc - tcg_splitwx_diff))) {
        /* The unwinder expects what follows a call. */
        ra = host_pc + GETPC_ADJ;
    } else if (looked_up(host)) {
        ra = dsm_lost_helper.ra;
    } else {
        return;
    }
    dsm_lost_page = page_of(host);
    pthread_sigmask(SIG_SETMASK, mask, NULL);
    tlb_flush(cpu);
    cpu->exception_index = -1;
    cpu_loop_exit_restore(cpu, ra);
}
