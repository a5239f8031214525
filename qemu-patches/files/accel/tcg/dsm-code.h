/*
 * Code that other nodes write: what TCG calls. See dsm-code.c.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef ACCEL_TCG_DSM_CODE_H
#define ACCEL_TCG_DSM_CODE_H

#include "exec/cpu-common.h"
#include "qemu/atomic.h"

#if defined(CONFIG_DSM) && !defined(CONFIG_USER_ONLY)
extern bool dsm_code_pending;

/* The target page at @addr is about to be read for translation. */
void dsm_code_mark(ram_addr_t addr);

/* Drop what was lost. Context: vCPU thread, outside of a translation. */
void dsm_code_drain(void);

/* Before a vCPU starts a translation. */
static inline void dsm_code_check(void)
{
    if (unlikely(qatomic_read(&dsm_code_pending))) {
        dsm_code_drain();
    }
}

/* Gain the right to write at @addr. Context: no page is locked. */
void dsm_code_own(ram_addr_t addr);
#else
static inline void dsm_code_mark(ram_addr_t addr)
{
}

static inline void dsm_code_check(void)
{
}

static inline void dsm_code_own(ram_addr_t addr)
{
}
#endif

#endif
