/*
 * Paravirtual TLB shootdown for x86 guests
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef I386_TCG_TLB_SHOOTDOWN_H
#define I386_TCG_TLB_SHOOTDOWN_H

#include "cpu.h"

/**
 * x86_tlb_shootdown() - what a write to MSR_TCG_TLB_FLUSH does.
 * @val: first page and number of pages, see standard-headers/asm-x86/tcg_para.h.
 *
 * env->tcg_tlb_flush_except is what was written to MSR_TCG_TLB_FLUSH_EXCEPT.
 * To be called by the vCPU itself, from a helper that ends its translation
 * block. Does nothing unless the CPU's property tcg-tlb-flush is on.
 */
void x86_tlb_shootdown(CPUX86State *env, uint64_t val);

#endif
