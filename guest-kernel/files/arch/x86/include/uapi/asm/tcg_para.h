/* SPDX-License-Identifier: ((GPL-2.0-or-later WITH Linux-syscall-note) OR BSD-3-Clause) */
/*
 * What QEMU's TCG offers an x86 guest beyond the hardware it emulates. One
 * text for QEMU and the guest kernel; described in docs/tlb-shootdown.md and,
 * the clocks, in docs/qemu.md.
 */
#ifndef _ASM_X86_TCG_PARA_H
#define _ASM_X86_TCG_PARA_H

/* CPUID leaf of TCG's signature, "TCGTCGTCGTCG" in EBX, ECX, EDX */
#define TCG_CPUID_SIGNATURE		0x40000000
/* EAX: features */
#define TCG_CPUID_FEATURES		0x40000001
#define TCG_FEATURE_TLB_FLUSH		(1 << 0)
/*
 * EBX is the frequency of the TSC, which is the same on all vCPUs, ECX that of
 * the clock that the local APICs' timers divide; both in kHz.
 */
#define TCG_FEATURE_CLOCKS		(1 << 1)

/*
 * Both write only, exist if TCG_FEATURE_TLB_FLUSH is set, and have numbers in
 * the range that no processor will ever implement.
 *
 * MSR_TCG_TLB_FLUSH: flush translations of linear addresses on all vCPUs,
 * global ones and those of all address spaces included. When the next
 * instruction runs no vCPU uses an old one any more. Bits 63:12 are the first
 * page's address, bits 11:0 the number of pages of 4 KiB; with 0 pages
 * everything is flushed.
 *
 * MSR_TCG_TLB_FLUSH_EXCEPT: the vCPUs that the next such write may leave out;
 * bit N is the one with local APIC ID N. The writer flushes nevertheless. That
 * write, and a reset, sets it to 0 again.
 */
#define MSR_TCG_TLB_FLUSH		0x400000f0
#define TCG_TLB_FLUSH_MAX_PAGES		0xfff
#define MSR_TCG_TLB_FLUSH_EXCEPT	0x400000f1

#endif /* _ASM_X86_TCG_PARA_H */
