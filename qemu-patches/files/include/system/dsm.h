/*
 * Coherent machines: what the rest of QEMU needs to know about them
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef SYSTEM_DSM_H
#define SYSTEM_DSM_H

#ifdef CONFIG_DSM
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
#else
static inline bool dsm_active(void)
{
    return false;
}

static inline void dsm_note_exclusive_step(void)
{
}
#endif

#endif /* SYSTEM_DSM_H */
