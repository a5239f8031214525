/*
 * Coherent machines: what the rest of QEMU needs to know about them
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef SYSTEM_DSM_H
#define SYSTEM_DSM_H

#ifdef CONFIG_DSM
#include "exec/cpu-common.h"

/**
 * dsm_active() - other processes may access guest RAM while it runs.
 *
 * Known before the first vCPU is created and true until QEMU exits.
 */
bool dsm_active(void);

/**
 * dsm_note_exclusive_step() - an atomic instruction was executed with this
 * process's vCPUs stopped, which means nothing to other processes.
 *
 * Context: any thread.
 */
void dsm_note_exclusive_step(void);

/**
 * dsm_vcpu_thread_init() - prepare the calling thread for guest memory that
 * other nodes can lose.
 */
void dsm_vcpu_thread_init(void);

/**
 * dsm_idle_wait() - an idle vCPU waits for other nodes too.
 *
 * Waits until @cpu is kicked or something came from another node, which is
 * delivered before this returns.
 *
 * Context: @cpu's thread, BQL held; released while it waits.
 * Return: false if @cpu should wait for a kick alone.
 */
bool dsm_idle_wait(CPUState *cpu);

/**
 * dsm_idle_kick() - part of qemu_cpu_kick().
 *
 * Context: any thread.
 */
void dsm_idle_kick(CPUState *cpu);

/**
 * dsm_code_enable() - other nodes may write to code that this one executes.
 * @ram_bytes: dsm_code_lost() will be told of nothing beyond
 * @execute: called before such pages are read, when they are marked; may wait
 * for other nodes. May be NULL.
 *
 * Context: once, before the first vCPU exists.
 */
void dsm_code_enable(ram_addr_t ram_bytes,
                     void (*execute)(ram_addr_t start, size_t bytes));

/* Does this node have translations of the page at @addr? Any thread. */
bool dsm_code_is_marked(ram_addr_t addr);

/**
 * dsm_code_lost() - this node cannot access, or not execute, these pages any
 * more and is about to say so; no translation of them is started after this has returned.
 * @start: as of the RAM block; a multiple of the page size
 *
 * Context: any thread; takes only a leaf lock and does not wait for vCPUs.
 */
void dsm_code_lost(ram_addr_t start, size_t bytes);

/**
 * dsm_prepare_map() - a device is going to access this memory by system calls,
 * which would fail where a page is lost.
 *
 * Context: a thread that has SIGBUS unblocked: the main loop's, a vCPU's.
 */
void dsm_prepare_map(void *host, size_t bytes, bool write);

/**
 * dsm_lost_enable() - pages of guest RAM can be lost with another node.
 *
 * Context: once, before the first vCPU exists.
 */
void dsm_lost_enable(void);

/* dsm_lost_active() - dsm_lost_enable() was called. */
bool dsm_lost_active(void);

/**
 * dsm_lost_fault() - the calling thread accessed a page that is lost.
 * @host_pc: the instruction that did
 * @host: where
 * @mask: the thread's signal mask at that instruction
 *
 * Context: handler of SIGBUS. Does not return if the guest gets an error.
 */
void dsm_lost_fault(uintptr_t host_pc, const void *host, const sigset_t *mask);

/* dsm_lost_nr_errors() - how often the guest got one. Context: any thread. */
uint64_t dsm_lost_nr_errors(void);
#else
static inline bool dsm_active(void)
{
    return false;
}

static inline void dsm_note_exclusive_step(void)
{
}

static inline void dsm_vcpu_thread_init(void)
{
}

static inline bool dsm_idle_wait(CPUState *cpu)
{
    return false;
}

static inline void dsm_idle_kick(CPUState *cpu)
{
}

static inline void dsm_prepare_map(void *host, size_t bytes, bool write)
{
}

static inline bool dsm_lost_active(void)
{
    return false;
}
#endif

#endif /* SYSTEM_DSM_H */
