// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Guest of QEMU's TCG: paravirtual TLB shootdown, and clocks whose frequency
 * need not be measured
 *
 * A write to MSR_TCG_TLB_FLUSH flushes other CPUs' TLBs before the next
 * instruction. It says nothing to those CPUs' kernels:
 *
 * - Their tlb_gen stays behind. That is safe, for a generation behind only
 *   means a flush too many. The writing CPU keeps its own up to date.
 * - No interrupt arrives, so that interrupts off no longer keep page tables
 *   from being freed under a walk that takes no lock. Hence page tables are
 *   freed by RCU; see native_tlb_remove_table().
 *
 * Left out are CPUs that are lazy or use another address space. They catch up
 * by tlb_gen before they use this one, even if page tables were freed: unlike a
 * processor, TCG neither accesses memory speculatively nor remembers where page
 * tables are. A CPU that enters the address space concurrently is found as in
 * native_flush_tlb_multi(): the generation was raised before the mask was read,
 * and it does these in the other order.
 */
#define pr_fmt(fmt) "tcg: " fmt

#include <linux/cpumask.h>
#include <linux/init.h>
#include <linux/mm.h>
#include <linux/percpu.h>
#include <linux/smp.h>

#include <asm/apic.h>
#include <asm/cpuid.h>
#include <asm/msr.h>
#include <asm/paravirt.h>
#include <asm/tcg_guest.h>
#include <asm/tlb.h>
#include <asm/tlbflush.h>
#include <asm/x86_init.h>
#include <uapi/asm/tcg_para.h>

#include <trace/events/tlb.h>

static bool needs_flush(int cpu, const struct flush_tlb_info *info)
{
	struct mm_struct *mm = per_cpu(cpu_tlbstate.loaded_mm, cpu);

	/* Against the order in which switch_mm_irqs_off() writes them */
	smp_rmb();
	if (per_cpu(cpu_tlbstate_shared.is_lazy, cpu))
		return false;
	return !info->mm || mm == info->mm || mm == LOADED_MM_SWITCHING;
}

/* Return: what MSR_TCG_TLB_FLUSH_EXCEPT takes */
static u64 left_out(const struct cpumask *cpumask,
		    const struct flush_tlb_info *info)
{
	u64 mask = ~0ULL;
	int cpu;

	for_each_cpu(cpu, cpumask) {
		u32 id = cpu_physical_id(cpu);

		if (id < BITS_PER_TYPE(mask) && needs_flush(cpu, info))
			mask &= ~BIT_ULL(id);
	}
	return mask;
}

static void tcg_flush_tlb_multi(const struct cpumask *cpumask,
				const struct flush_tlb_info *info)
{
	unsigned long pages = (info->end - info->start) >> PAGE_SHIFT;
	bool all = info->end == TLB_FLUSH_ALL || pages > TCG_TLB_FLUSH_MAX_PAGES;
	struct mm_struct *mm;
	unsigned long flags;
	u64 gen;
	u16 asid;

	count_vm_tlb_event(NR_TLB_REMOTE_FLUSH);
	trace_tlb_flush(TLB_REMOTE_SEND_IPI, all ? TLB_FLUSH_ALL : pages);

	/* Neither a switch nor another CPU's flush may come between */
	local_irq_save(flags);
	mm = this_cpu_read(cpu_tlbstate.loaded_mm);
	asid = this_cpu_read(cpu_tlbstate.loaded_mm_asid);
	native_wrmsrl(MSR_TCG_TLB_FLUSH_EXCEPT, left_out(cpumask, info));
	if (all) {
		/* What is raised later than this is not covered by the flush */
		gen = atomic64_read(&mm->context.tlb_gen);
		native_wrmsrl(MSR_TCG_TLB_FLUSH, 0);
	} else {
		gen = info->new_tlb_gen;
		native_wrmsrl(MSR_TCG_TLB_FLUSH, (info->start & PAGE_MASK) | pages);
		/* The flush of one range leads from one generation to the next */
		if (mm != info->mm ||
		    this_cpu_read(cpu_tlbstate.ctxs[asid].tlb_gen) + 1 != gen)
			mm = &init_mm;
	}
	if (mm != &init_mm && !this_cpu_read(cpu_tlbstate_shared.is_lazy))
		this_cpu_write(cpu_tlbstate.ctxs[asid].tlb_gen, gen);
	local_irq_restore(flags);
}

static u32 __init tcg_detect(void)
{
	return hypervisor_cpuid_base("TCGTCGTCGTCG", 1);
}

static unsigned long tcg_tsc_khz(void)
{
	return cpuid_ebx(TCG_CPUID_FEATURES);
}

/*
 * Measuring takes moments of one clock and of another for the same, which they
 * are not if the host takes the vCPU's processor away in between: the guest's
 * time then passes many times too fast or too slowly.
 */
static void __init tcg_init_platform(void)
{
	u32 eax, tsc_khz, apic_khz, edx;

	cpuid(TCG_CPUID_FEATURES, &eax, &tsc_khz, &apic_khz, &edx);
	if (!(eax & TCG_FEATURE_CLOCKS))
		return;

	x86_platform.calibrate_tsc = tcg_tsc_khz;
	x86_platform.calibrate_cpu = tcg_tsc_khz;
	setup_force_cpu_cap(X86_FEATURE_TSC_KNOWN_FREQ);
	setup_force_cpu_cap(X86_FEATURE_TSC_RELIABLE);
	lapic_timer_period = apic_khz * 1000 / HZ;
	pr_info("TSC has %u kHz, APIC timers %u kHz\n", tsc_khz, apic_khz);
}

/* Before calls through pv_ops are patched to direct ones */
static void __init tcg_guest_late_init(void)
{
	if (!(cpuid_eax(TCG_CPUID_FEATURES) & TCG_FEATURE_TLB_FLUSH) ||
	    num_possible_cpus() == 1)
		return;

	pv_ops.mmu.flush_tlb_multi = tcg_flush_tlb_multi;
	pv_ops.mmu.tlb_remove_table = tlb_remove_table;
	pr_info("TLB shootdown without interrupts\n");
}

/*
 * TCG emulates hardware and is to be taken for it in every other respect:
 * hence the type of no hypervisor.
 */
const __initconst struct hypervisor_x86 x86_hyper_tcg = {
	.name			= "TCG",
	.detect			= tcg_detect,
	.type			= X86_HYPER_NATIVE,
	.init.init_platform	= tcg_init_platform,
	.init.guest_late_init	= tcg_guest_late_init,
};
