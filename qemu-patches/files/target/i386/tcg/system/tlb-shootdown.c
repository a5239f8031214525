/*
 * Paravirtual TLB shootdown for x86 guests
 *
 * An x86 kernel flushes other processors' TLBs by interrupting them and
 * spinning until all have answered. With more vCPUs than host CPUs it spins
 * away the time that the others need in order to answer. Here the guest writes
 * an MSR instead, and the writer sleeps until each vCPU that is to flush has
 * left the translation block it was in; it flushes before it enters another.
 * Those that are halted are not waited for.
 *
 * It cannot be had without waiting for preempted vCPUs: one that lost its host
 * CPU inside a translation block may still store through an old translation.
 *
 * Nobody is stopped, unlike by tlb_flush_range_by_mmuidx_all_cpus_synced():
 * the writer waits outside the guest's code, so that nobody who waits in turn
 * waits for it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/atomic.h"
#include "qemu/main-loop.h"
#include "qemu/thread.h"
#include "cpu.h"
#include "exec/cputlb.h"
#include "exec/target_page.h"
#include "hw/core/cpu.h"
#include "standard-headers/asm-x86/tcg_para.h"
#include "tcg/tlb-shootdown.h"

/* Those that translate linear addresses */
#define X86_LINEAR_MMUIDX_BITS (BIT(MMU_PHYS_IDX) - 1)

typedef struct Shootdown Shootdown;

/* A vCPU that is to flush. */
typedef struct {
    Shootdown *shootdown;
    CPUState *cpu;
    bool answered; /* it flushed, or is halted and will before it runs */
} Target;

struct Shootdown {
    vaddr addr;
    vaddr len; /* 0: everything */
    int refs; /* the writer's, and one for each target's work */
    int unanswered;
    QemuEvent done; /* unanswered is 0 */
    Target targets[];
};

static void flush_own(CPUState *cpu, vaddr addr, vaddr len)
{
    if (len) {
        tlb_flush_range_by_mmuidx(cpu, addr, len, X86_LINEAR_MMUIDX_BITS,
                                  TARGET_LONG_BITS);
    } else {
        tlb_flush(cpu);
    }
}

static void put(Shootdown *s)
{
    if (qatomic_fetch_dec(&s->refs) == 1) {
        qemu_event_destroy(&s->done);
        g_free(s);
    }
}

static void answer(Target *target)
{
    Shootdown *s = target->shootdown;

    if (!qatomic_xchg(&target->answered, true) &&
        qatomic_fetch_dec(&s->unanswered) == 1) {
        qemu_event_set(&s->done);
    }
}

/*
 * While others have not answered, their vCPUs are to have the host's CPUs: the
 * guest's code may be spinning for what the writer holds.
 */
static void flush_target(CPUState *cpu, run_on_cpu_data data)
{
    Target *target = data.host_ptr;
    Shootdown *s = target->shootdown;

    flush_own(cpu, s->addr, s->len);
    answer(target);
    if (qatomic_read(&s->unanswered)) {
        bql_unlock();
        sched_yield();
        bql_lock();
    }
    put(s);
}

/* Others answer as work of their vCPUs, for which they need the BQL. */
static void wait_for_targets(CPUState *cpu, run_on_cpu_data data)
{
    Shootdown *s = data.host_ptr;

    bql_unlock();
    qemu_event_wait(&s->done);
    bql_lock();
    put(s);
}

static bool is_target(CPUState *other, CPUState *writer, uint64_t except)
{
    uint32_t id = X86_CPU(other)->apic_id;

    return other != writer && (id >= 64 || !extract64(except, id, 1));
}

static int count_targets(CPUState *writer, uint64_t except)
{
    CPUState *other;
    int nr = 0;

    CPU_FOREACH(other) {
        nr += is_target(other, writer, except);
    }
    return nr;
}

/*
 * The order of work keeps two writers from waiting for each other: each puts
 * its own wait behind what it gave to others.
 */
static void flush_others(CPUState *writer, uint64_t except, vaddr addr,
                         vaddr len)
{
    int nr = count_targets(writer, except), n = 0;
    CPUState *other;
    Shootdown *s;

    if (nr == 0) {
        return;
    }
    s = g_malloc(sizeof(*s) + nr * sizeof(s->targets[0]));
    *s = (Shootdown) { .addr = addr, .len = len };
    CPU_FOREACH(other) {
        /* One that was plugged in since they were counted: nothing to flush */
        if (n < nr && is_target(other, writer, except)) {
            s->targets[n++] = (Target) { .shootdown = s, .cpu = other };
        }
    }
    s->refs = n + 1;
    s->unanswered = n;
    qemu_event_init(&s->done, false);
    for (int i = 0; i < n; i++) {
        async_run_on_cpu(s->targets[i].cpu, flush_target,
                         RUN_ON_CPU_HOST_PTR(&s->targets[i]));
    }

    /*
     * Work was given before it is read whether the vCPU runs; one that begins
     * to, says so before it looks whether it is to leave. But one that neither
     * runs nor is halted may be about to step over an atomic instruction.
     */
    smp_mb();
    for (int i = 0; i < n; i++) {
        if (!qatomic_read(&s->targets[i].cpu->running) &&
            qatomic_read(&s->targets[i].cpu->halted)) {
            answer(&s->targets[i]);
        }
    }
    if (qatomic_read(&s->unanswered)) {
        async_run_on_cpu(writer, wait_for_targets, RUN_ON_CPU_HOST_PTR(s));
    } else {
        put(s);
    }
}

/*
 * Every vCPU that may hold a translation of this guest has to be reached from
 * here: vCPUs of other processes, once a guest has such, are to be told
 * before, and waited for after, those of this one.
 */
void x86_tlb_shootdown(CPUX86State *env, uint64_t val)
{
    X86CPU *cpu = env_archcpu(env);
    uint64_t except = env->tcg_tlb_flush_except;
    vaddr addr = val & TARGET_PAGE_MASK;
    vaddr len = (val & TCG_TLB_FLUSH_MAX_PAGES) << TARGET_PAGE_BITS;

    env->tcg_tlb_flush_except = 0;
    if (!cpu->tcg_tlb_flush) {
        return;
    }
    flush_own(CPU(cpu), addr, len);
    if (!cpu->tcg_tlb_flush_local) {
        flush_others(CPU(cpu), except, addr, len);
    }
}
