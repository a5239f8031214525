// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Windows on the peers' memory, and which page is which.
 *
 * A page of the machine is (node, page number in the node's region). The own
 * region lies in this node's physical memory as the device's extents say, a
 * peer's lies behind the device's BAR in one piece. Each window is mapped
 * write-back into the kernel as long as the node is there: for the kernel's
 * own accesses, and because x86 gives user mappings of these addresses the
 * memory type that this mapping has reserved.
 */
#define pr_fmt(fmt) "chimera: " fmt

#include <linux/io.h>
#include <linux/mm.h>
#ifdef CONFIG_X86_PAT
#include <asm/memtype.h>
#endif

#include "internal.h"

/*
 * x86 asks the MTRRs, and firmware that sets none up makes all device memory
 * uncached: right, but slow where a processor heeds it. CONFIG_MTRR=n helps.
 */
static bool window_uncached(phys_addr_t base)
{
#ifdef CONFIG_X86_PAT
	return pat_pfn_immune_to_uc_mtrr(PHYS_PFN(base));
#else
	return false;
#endif
}

int chimera_window_map(struct chimera_node *node, phys_addr_t base, u64 len)
{
	void *window;

	if (chimera_is_self(node))
		return -EINVAL;
	window = memremap(base, len, MEMREMAP_WB);
	if (!window)
		return -ENOMEM;
	if (window_uncached(base))
		pr_warn("node %u: its memory is mapped uncached\n",
			node->index);
	down_write(&node->window_sem);
	node->window = window;
	up_write(&node->window_sem);
	return 0;
}

/**
 * chimera_window_retire() - leave no mapping of @node's memory behind.
 * @node: a node that is down.
 *
 * Whoever maps a page of it holds window_sem from looking at node->window
 * until the page is mapped, so after the first step nobody adds any, and the
 * services find all there are.
 */
void chimera_window_retire(struct chimera_node *node)
{
	void *window;

	down_write(&node->window_sem);
	window = node->window;
	node->window = NULL;
	up_write(&node->window_sem);

	for (int i = 0; i < CHIMERA_NR_SERVICES; i++)
		if (chimera_services[i]->window_gone)
			chimera_services[i]->window_gone(node);
	if (window)
		memunmap(window);
}

int chimera_region_page(unsigned long pfn, u32 *ret_page)
{
	u64 gpa = PFN_PHYS(pfn);

	for (int i = 0; i < chimera->nr_extents; i++) {
		const struct chimera_extent *e = &chimera->extent[i];

		if (gpa >= e->gpa && gpa - e->gpa < e->len) {
			*ret_page = (e->offset + (gpa - e->gpa)) >> PAGE_SHIFT;
			return 0;
		}
	}
	return -ERANGE;
}

int chimera_region_pfn(u32 page, unsigned long *ret_pfn)
{
	u64 offset = (u64)page << PAGE_SHIFT;

	for (int i = 0; i < chimera->nr_extents; i++) {
		const struct chimera_extent *e = &chimera->extent[i];

		if (offset >= e->offset && offset - e->offset < e->len) {
			*ret_pfn = PHYS_PFN(e->gpa + (offset - e->offset));
			return 0;
		}
	}
	return -ERANGE;
}

int chimera_window_pfn(const struct chimera_node *node, u32 page,
		       unsigned long *ret_pfn)
{
	lockdep_assert_held(&node->window_sem);
	if (page >= node->ram_bytes >> PAGE_SHIFT)
		return -ERANGE;
	*ret_pfn = PHYS_PFN(node->window_phys) + page;
	return 0;
}
