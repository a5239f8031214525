/*
 * The frequencies of clocks of x86 vCPUs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef I386_TCG_CLOCKS_H
#define I386_TCG_CLOCKS_H

/* The local APIC's timer counts QEMU's virtual clock, in ns. */
#define X86_APIC_TIMER_KHZ 1000000

/*
 * x86_tsc_khz() - the frequency of the TSC.
 *
 * Context: any thread. The same for as long as the process lives.
 */
uint32_t x86_tsc_khz(void);

#endif
