// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Fused processes at home: pages given to other nodes and taken back.
 *
 * The peers are second MMUs over this process's memory. What they have mapped
 * is nowhere recorded page by page: @grants says which 2 MiB a node may have
 * something of, so that changes elsewhere cost no messages.
 *
 * G1  A page is granted as it is mapped here at that moment: found between
 *     mmu_interval_read_begin() and _retry(), the latter under grant_lock.
 * G2  GRANT and INVAL of a home go to a peer in one ordered class and are
 *     queued under grant_lock. So an INVAL that goes after a GRANT arrives
 *     after it, and a GRANT that goes after an INVAL is of what came later.
 * G3  An invalidation returns, and so lets the page go, when every peer that
 *     may have something of the range has said that it has not, has left, or
 *     cannot reach this node's memory any more.
 * G4  A page is granted for writing only if it is dirty, or mapped writable
 *     and dirty, here: the peer's stores set no bit at home. Whoever cleans a
 *     page of a mapping invalidates it first.
 * G5  Under grant_lock nothing is allocated, and nobody is waited for but
 *     peers' interrupts and the work that acknowledges.
 */
#define pr_fmt(fmt) "chimera: " fmt

#include <linux/mm.h>
#include <linux/pagewalk.h>
#include <linux/sched/signal.h>

#include "fused.h"

#define GRANT_SHIFT	21
/* Behind all user addresses, and no overflow when it is rounded up. */
#define VA_END		(1ul << 56)

/* ---- which node may have what ------------------------------------------ */

static unsigned long node_bit(const struct chimera_node *node)
{
	/* values of an xarray have 63 bits, a node has at most 63 peers */
	return BIT(node->index - (node->index > chimera->self));
}

static void bits_to_nodes(unsigned long bits, unsigned long *nodes)
{
	unsigned int bit;

	for_each_set_bit(bit, &bits, BITS_PER_LONG)
		__set_bit(bit + (bit >= chimera->self), nodes);
}

/* The nodes with grants in the range; those all of whose 2 MiB go are clear. */
static void grants_take(struct fused_home *home, unsigned long start,
			unsigned long end, unsigned long *nodes)
{
	unsigned long index, bits = 0;
	void *entry;

	lockdep_assert_held(&home->grant_lock);
	xa_for_each_range(&home->grants, index, entry, start >> GRANT_SHIFT,
			  (end - 1) >> GRANT_SHIFT) {
		bits |= xa_to_value(entry);
		if (start <= index << GRANT_SHIFT &&
		    end >= (index + 1) << GRANT_SHIFT)
			xa_store(&home->grants, index, xa_mk_value(0),
				 GFP_NOWAIT);
	}
	bits_to_nodes(bits, nodes);
}

static bool grants_any(struct fused_home *home, unsigned long start,
		       unsigned long end)
{
	unsigned long index;
	void *entry;

	xa_for_each_range(&home->grants, index, entry, start >> GRANT_SHIFT,
			  (end - 1) >> GRANT_SHIFT)
		if (xa_to_value(entry))
			return true;
	return false;
}

/* A place for the range's bits; after that storing them cannot fail. */
static int grant_reserve(struct fused_home *home, unsigned long va)
{
	return xa_insert(&home->grants, va >> GRANT_SHIFT, xa_mk_value(0),
			 GFP_KERNEL_ACCOUNT | __GFP_NOWARN) == -ENOMEM ?
	       -ENOMEM : 0;
}

static void grant_note(struct fused_home *home, unsigned long va,
		       const struct chimera_node *node)
{
	void *entry = xa_load(&home->grants, va >> GRANT_SHIFT);
	unsigned long bits = xa_to_value(entry) | node_bit(node);

	lockdep_assert_held(&home->grant_lock);
	if (xa_to_value(entry) != bits)
		xa_store(&home->grants, va >> GRANT_SHIFT, xa_mk_value(bits),
			 GFP_NOWAIT);
}

void home_grants_init(struct fused_home *home)
{
	mutex_init(&home->grant_lock);
	xa_init(&home->grants);
}

/* ---- taking back ------------------------------------------------------- */

/* A place among the invalidations that the peer has to answer. */
static bool inval_start(struct home_peer *peer, u64 seq, bool *ret_needed)
{
	struct fused_home *home = peer->home;
	bool done = false, needed;

	spin_lock_irq(&home->lock);
	/* a node that is down keeps what it has until it is fenced */
	needed = !fused_node_gone(peer->node) &&
		 (peer->joined || !chimera_node_linked(peer->node));
	for (unsigned int i = 0; needed && !done &&
	     i < CHIMERA_FUSED_INVALS; i++) {
		if (peer->inval[i])
			continue;
		peer->inval[i] = seq;
		done = true;
	}
	spin_unlock_irq(&home->lock);
	*ret_needed = needed;
	return done || !needed;
}

static bool inval_done(struct home_peer *peer, u64 seq, bool *unused)
{
	struct fused_home *home = peer->home;
	bool done = true;

	if (fused_node_gone(peer->node))
		return true;
	spin_lock_irq(&home->lock);
	for (unsigned int i = 0; i < CHIMERA_FUSED_INVALS; i++)
		done &= peer->inval[i] != seq;
	spin_unlock_irq(&home->lock);
	return done;
}

/*
 * Waits for the peer, which is owed to the process that changes its memory, or
 * to all who need some. A kernel that is up and does not give the memory back
 * is lost in the end: the waiter may be the one who frees memory for others.
 */
static void inval_await(struct home_peer *peer, u64 seq, bool *ret_needed,
			bool (*done)(struct home_peer *, u64, bool *))
{
	struct fused_home *home = peer->home;
	unsigned long begin = jiffies;
	char what[64];

	while (!wait_event_timeout(home->inval_wait,
				   done(peer, seq, ret_needed),
				   fused_patience() / 4)) {
		snprintf(what, sizeof(what),
			 "it does not give back memory of process %d",
			 home->tgid);
		fused_overdue(peer->node, begin, what);
	}
}

/* Ask the peers that may have something of the range; then inval_wait(). */
static u64 inval_send(struct fused_home *home, unsigned long start,
		      unsigned long end, unsigned long *asked)
{
	DECLARE_BITMAP(nodes, VIRTIO_FABRIC_MAX_NODES) = { };
	struct fused_inval msg;
	struct home_peer *peer;
	unsigned int i;
	bool needed;
	u64 seq;

	lockdep_assert_held(&home->grant_lock);
	start = min(start, VA_END - 1);
	end = min(end, VA_END);
	grants_take(home, start, end, nodes);
	if (bitmap_empty(nodes, VIRTIO_FABRIC_MAX_NODES))
		return 0;
	seq = ++home->inval_seq;
	msg = (struct fused_inval) {
		.id = cpu_to_le64(home->id),
		.seq = cpu_to_le64(seq),
		.start = cpu_to_le64(start),
		.end = cpu_to_le64(end),
	};
	for_each_set_bit(i, nodes, VIRTIO_FABRIC_MAX_NODES) {
		peer = home->peer[i];
		inval_await(peer, seq, &needed, inval_start);
		if (!needed)
			continue;
		__set_bit(i, asked);
		/* if it is down: it gets no answer, but is fenced */
		fused_post(peer->node, VIRTIO_FABRIC_CLASS_REPLY,
			   CHIMERA_FUSED_INVAL, &msg, sizeof(msg), NULL, 0);
	}
	return seq;
}

static void inval_wait(struct fused_home *home, u64 seq,
		       const unsigned long *asked)
{
	unsigned int i;

	for_each_set_bit(i, asked, VIRTIO_FABRIC_MAX_NODES)
		inval_await(home->peer[i], seq, NULL, inval_done);
}

/*
 * The caller may hold mmap_lock for writing, page locks, locks of the reverse
 * mapping, or be the one who frees memory for all others.
 */
static bool home_invalidate(struct mmu_interval_notifier *ni,
			    const struct mmu_notifier_range *range,
			    unsigned long cur_seq)
{
	struct fused_home *home = container_of(ni, struct fused_home, ni);
	DECLARE_BITMAP(asked, VIRTIO_FABRIC_MAX_NODES) = { };
	u64 seq;

	if (!mmu_notifier_range_blockable(range)) {
		/* the OOM killer's helper goes on with something else */
		if (!mutex_trylock(&home->grant_lock))
			return false;
		if (grants_any(home, range->start, range->end)) {
			mutex_unlock(&home->grant_lock);
			return false;
		}
		mmu_interval_set_seq(ni, cur_seq);
		mutex_unlock(&home->grant_lock);
		return true;
	}
	mutex_lock(&home->grant_lock);
	mmu_interval_set_seq(ni, cur_seq);
	seq = inval_send(home, range->start, range->end, asked);
	mutex_unlock(&home->grant_lock);
	inval_wait(home, seq, asked);
	/* the last word about this mm: its pages go next */
	if (range->event == MMU_NOTIFY_RELEASE)
		home_end(home);
	return true;
}

const struct mmu_interval_notifier_ops fused_home_ni_ops = {
	.invalidate = home_invalidate,
};

/* Context: home->dead is set, so that nothing is granted after this. */
void home_revoke(struct fused_home *home)
{
	DECLARE_BITMAP(asked, VIRTIO_FABRIC_MAX_NODES) = { };
	u64 seq;

	mutex_lock(&home->grant_lock);
	seq = inval_send(home, 0, VA_END, asked);
	mutex_unlock(&home->grant_lock);
	inval_wait(home, seq, asked);
}

bool home_acked_rx(struct chimera_rx *rx)
{
	const struct fused_acked *msg = rx->body;
	u64 seq = le64_to_cpu(msg->seq);
	struct fused_home *home;
	struct home_peer *peer;
	unsigned long flags;

	guard(rcu)();
	home = home_find(le64_to_cpu(msg->id));
	if (!home || !seq)
		return true;
	spin_lock_irqsave(&home->lock, flags);
	peer = home->peer[rx->node->index];
	for (unsigned int i = 0; peer && i < CHIMERA_FUSED_INVALS; i++)
		if (peer->inval[i] == seq)
			peer->inval[i] = 0;
	spin_unlock_irqrestore(&home->lock, flags);
	chimera_wake_all(&home->inval_wait);
	return true;
}

/* ---- giving ------------------------------------------------------------ */

struct grant {
	struct fused_grant msg;
	__le32 page[CHIMERA_FUSED_PAGES];
	unsigned long first;
	unsigned long writable;
	unsigned int nr;
};

/* GUP does not grow stacks. Return: 0; -EINTR. */
static int grow_stack(struct mm_struct *mm, unsigned long va)
{
	struct vm_area_struct *vma;

	if (mmap_read_lock_killable(mm))
		return -EINTR;
	vma = find_vma(mm, va);
	if (vma && vma->vm_start > va && (vma->vm_flags & VM_GROWSDOWN)) {
		vma = expand_stack(mm, va);
		if (!vma)	/* and is not locked any more */
			return fatal_signal_pending(current) ? -EINTR : 0;
	}
	mmap_read_unlock(mm);
	return 0;
}

/* Why the access failed, as the processor would have reported it here. */
static u32 refusal(struct mm_struct *mm, unsigned long va, bool write,
		   int err, int *ret_code)
{
	struct vm_area_struct *vma;
	u32 signal = SIGSEGV;

	*ret_code = SEGV_MAPERR;
	if (err == -ENOMEM || err == -EHWPOISON) {
		*ret_code = BUS_ADRERR;
		return SIGBUS;
	}
	mmap_read_lock(mm);
	vma = vma_lookup(mm, va);
	if (vma && !(vma->vm_flags & (write ? VM_WRITE : VM_READ))) {
		*ret_code = SEGV_ACCERR;
	} else if (vma && !(vma->vm_flags & (VM_IO | VM_PFNMAP))) {
		*ret_code = BUS_ADRERR;
		signal = SIGBUS;
	}
	mmap_read_unlock(mm);
	return signal;
}

/* Is the page at @va there, and may it be written without our hearing of it? */
static struct page *look(struct vm_area_struct *vma, unsigned long va,
			 bool *writable)
{
	struct folio_walk fw;
	struct page *page;

	*writable = false;
	if (!folio_walk_start(&fw, vma, va, 0))
		return NULL;
	page = fw.page;
	if (fw.level == FW_LEVEL_PTE)
		*writable = pte_write(fw.pte) && pte_dirty(fw.pte);
#ifdef CONFIG_TRANSPARENT_HUGEPAGE
	else if (fw.level == FW_LEVEL_PMD)
		*writable = pmd_write(fw.pmd) && pmd_dirty(fw.pmd);
#endif
	folio_walk_end(&fw, vma);
	return page;
}

/*
 * What to look at for a fault at @va: what lies around it, and more of what
 * lies ahead when faults go upwards. All of it within 2 MiB.
 */
static void grant_range(struct home_chan *chan, struct grant *g,
			unsigned long va)
{
	const unsigned long around = FUSED_AROUND * PAGE_SIZE;
	unsigned long end = round_up(va + 1, 1ul << GRANT_SHIFT);

	if (va - chan->ahead_va < around)
		chan->ahead = clamp(chan->ahead * 2, FUSED_AROUND,
				    CHIMERA_FUSED_PAGES);
	else
		chan->ahead = FUSED_AROUND;
	g->first = round_down(va, around);
	end = min(g->first + chan->ahead * PAGE_SIZE, end);
	g->nr = (end - g->first) >> PAGE_SHIFT;
	chan->ahead_va = end;
}

/* The page at @va, which we have a reference to, and what is there around. */
static int grant_fill(struct grant *g, struct mm_struct *mm, unsigned long va,
		      bool write, struct page *page)
{
	struct vm_area_struct *vma;
	unsigned long a = g->first;
	struct page *found;
	bool writable;
	u32 number;

	g->writable = 0;
	if (mmap_read_lock_killable(mm))
		return -EINTR;
	vma = vma_lookup(mm, va);
	for (unsigned int i = 0; i < g->nr; i++, a += PAGE_SIZE) {
		g->page[i] = cpu_to_le32(CHIMERA_FUSED_NO_PAGE);
		if (!vma || a < vma->vm_start || a >= vma->vm_end)
			continue;
		found = look(vma, a, &writable);
		if (a == va) {
			/* else it has just changed, and we begin again */
			writable = write || (writable && found == page);
			found = page;
		}
		if (!found || chimera_region_page(page_to_pfn(found), &number))
			continue;
		g->page[i] = cpu_to_le32(number);
		if (writable)
			g->writable |= BIT(i);
	}
	mmap_read_unlock(mm);
	return 0;
}

/*
 * The answer: what stands in @g, or a signal. Context: grant_lock held. After
 * this the remote end runs, and may have its next fault here at once.
 */
static void grant_send(struct home_chan *chan, struct grant *g, u32 seq,
		       u32 signal)
{
	struct fused_home *home = chan->peer->home;

	g->msg = (struct fused_grant) {
		.chan.id = cpu_to_le64(home->id),
		.chan.channel = cpu_to_le32(chan->id),
		.chan.arg = cpu_to_le32(seq),
		.va = cpu_to_le64(g->first),
		.writable = cpu_to_le64(g->writable),
		.count = cpu_to_le32(signal ? 0 : g->nr),
		.signal = cpu_to_le32(signal),
	};
	spin_lock_irq(&home->lock);
	chan->fault = false;
	spin_unlock_irq(&home->lock);
	fused_post(chan->peer->node, VIRTIO_FABRIC_CLASS_REPLY,
		   CHIMERA_FUSED_GRANT, &g->msg, sizeof(g->msg), g->page,
		   signal ? 0 : g->nr * sizeof(*g->page));
}

static void refuse(struct home_chan *chan, u64 va, bool write, u32 seq, int err)
{
	struct fused_home *home = chan->peer->home;
	struct grant g = { };
	u32 signal;

	signal = refusal(home->mm, va, write, err, &chan->bad_code);
	chan->bad_va = va;
	mutex_lock(&home->grant_lock);
	grant_send(chan, &g, seq, signal);
	mutex_unlock(&home->grant_lock);
}

int home_resolve(struct home_chan *chan, u64 va, bool write, u32 seq)
{
	struct fused_home *home = chan->peer->home;
	struct mm_struct *mm = home->mm;
	unsigned long ni_seq;
	struct page *page;
	struct grant g;
	bool dead;
	long n;

	if (va >= TASK_SIZE) {
		refuse(chan, va, write, seq, -EFAULT);
		return 0;
	}
	if (grow_stack(mm, va))
		return -EINTR;
	if (grant_reserve(home, va)) {
		refuse(chan, va, write, seq, -ENOMEM);
		return 0;
	}
	grant_range(chan, &g, va);
	for (;;) {
		ni_seq = mmu_interval_read_begin(&home->ni);
		n = get_user_pages_unlocked(va, 1, &page,
					    write ? FOLL_WRITE : 0);
		if (fatal_signal_pending(current)) {
			if (n == 1)
				put_page(page);
			return -EINTR;
		}
		if (n != 1) {
			refuse(chan, va, write, seq, n);
			return 0;
		}
		if (grant_fill(&g, mm, va, write, page)) {
			put_page(page);
			return -EINTR;
		}
		mutex_lock(&home->grant_lock);
		if (!mmu_interval_read_retry(&home->ni, ni_seq))
			break;
		mutex_unlock(&home->grant_lock);
		put_page(page);
	}
	spin_lock_irq(&home->lock);
	dead = home->dead || chan->lost;
	spin_unlock_irq(&home->lock);
	if (!dead) {
		grant_note(home, va, chan->peer->node);
		grant_send(chan, &g, seq, 0);
	}
	mutex_unlock(&home->grant_lock);
	put_page(page);
	return 0;
}
