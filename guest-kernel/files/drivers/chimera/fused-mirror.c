// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Fused processes on another node than home: home's memory in the stub.
 *
 * The pages have no struct pages here; they are mapped into the window on
 * home's memory. A page fault asks home for the page by the channel that the
 * faulting thread serves, and waits without mmap_lock. Home takes pages back
 * by INVAL.
 *
 * M1  What was granted is mapped under map_lock, and only if no INVAL that
 *     came after the GRANT touches it (@stale, under lock).
 * M2  ACKED goes when, under map_lock, the range was unmapped. So every page
 *     that a GRANT before the INVAL allowed is not mapped any more and will
 *     not be.
 * M3  Nothing allocates under map_lock or window_sem: page tables are there
 *     before. So an ACKED never waits for memory, nor for mmap_lock.
 * M4  Pages are mapped only with the window there and the mirror not dead,
 *     both looked at under their locks, which are taken before all is zapped.
 */
#define pr_fmt(fmt) "chimera: " fmt

#include <linux/compat.h>
#include <linux/file.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "fused.h"

/* Stubs on this node, by home's node and id. */
static struct xarray mirrors[VIRTIO_FABRIC_MAX_NODES];
/* With a rescuer of its own: who frees memory at home waits for it. */
static struct workqueue_struct *inval_wq;

struct fused_mirror *mirror_find(struct chimera_node *node, u64 id)
{
	return xa_load(&mirrors[node->index], id);
}

bool mm_is_stub(struct mm_struct *mm)
{
	struct fused_mirror *m;
	unsigned long id;

	lockdep_assert_held(&fused_homes_lock);
	guard(rcu)();
	for (unsigned int i = 0; i < chimera->nr_nodes; i++)
		xa_for_each(&mirrors[i], id, m)
			if (m->mm == mm)
				return true;
	return false;
}

static void mirror_free_work(struct work_struct *work)
{
	struct fused_mirror *m = container_of(to_rcu_work(work),
					      struct fused_mirror, free_work);

	put_pid(m->pid);
	mmdrop(m->mm);
	kvfree(m);
}

static void mirror_release_ref(struct kref *ref)
{
	struct fused_mirror *m = container_of(ref, struct fused_mirror, ref);

	INIT_RCU_WORK(&m->free_work, mirror_free_work);
	queue_rcu_work(system_unbound_wq, &m->free_work);
}

void mirror_get(struct fused_mirror *m)
{
	kref_get(&m->ref);
}

void mirror_put(struct fused_mirror *m)
{
	kref_put(&m->ref, mirror_release_ref);
}

/* ---- faults ------------------------------------------------------------ */

void mirror_kill(struct fused_mirror *m)
{
	kill_pid(m->pid, SIGKILL, 1);
}

/* What the thread has been told about this access; 0: nothing that helps. */
static vm_fault_t mirror_map(struct fused_mirror *m, struct mirror_pf *pf,
			     struct vm_fault *vmf, u64 va, bool write)
{
	struct vm_area_struct *vma = vmf->vma;
	pgprot_t ro = vm_get_page_prot(vma->vm_flags & ~VM_WRITE);
	pgprot_t rw = vm_get_page_prot(vma->vm_flags);
	vm_fault_t ret = 0, one;
	unsigned long pfn, addr;
	bool writable;
	u64 page_va;

	/* young and dirty at once: or arm64 faults again at the first write */
	ro = pte_pgprot(pte_mkyoung(pfn_pte(0, ro)));
	rw = pte_pgprot(pte_mkdirty(pte_mkyoung(pfn_pte(0, rw))));

	guard(mutex)(&m->map_lock);
	spin_lock_irq(&m->lock);
	if (pf->state == PF_REPLIED && pf->va == va && pf->write == write &&
	    !pf->stale)
		ret = pf->signal == SIGSEGV ? VM_FAULT_SIGSEGV :
		      pf->signal ? VM_FAULT_SIGBUS : VM_FAULT_NOPAGE;
	pf->state = PF_NONE;
	spin_unlock_irq(&m->lock);
	if (ret != VM_FAULT_NOPAGE)
		return ret;

	guard(rwsem_read)(&m->node->window_sem);
	ret = VM_FAULT_SIGBUS;
	if (!m->node->window)		/* it is to see nothing of that */
		mirror_kill(m);
	if (m->dead || !m->node->window)
		return ret;
	for (u32 i = 0; i < pf->count; i++) {
		page_va = pf->first + i * PAGE_SIZE;
		addr = vmf->address + (page_va - va);
		if (addr < vma->vm_start || addr >= vma->vm_end ||
		    (addr ^ vmf->address) & PMD_MASK ||
		    chimera_window_pfn(m->node, pf->page[i], &pfn))
			continue;
		writable = pf->writable & BIT_ULL(i);
		if (page_va == va && (vmf->flags & FAULT_FLAG_MKWRITE))
			zap_vma_ptes(vma, addr & PAGE_MASK, PAGE_SIZE);
		one = vmf_insert_pfn_prot(vma, addr & PAGE_MASK, pfn,
					  writable ? rw : ro);
		if (page_va == va)
			ret = one;
	}
	return ret;
}

/* Ask home, and wait until it has answered or there is no use in it. */
static void mirror_ask(struct fused_mirror *m, struct mirror_chan *chan, u64 va,
		       bool write)
{
	struct mirror_pf *pf = &chan->pf;
	struct fused_fault msg = {
		.chan.id = cpu_to_le64(m->id),
		.chan.channel = cpu_to_le32(chan->id),
		.va = cpu_to_le64(va),
		.flags = cpu_to_le32(write ? CHIMERA_FUSED_WRITE : 0),
	};

	spin_lock_irq(&m->lock);
	if (chan->ended || m->dead) {
		spin_unlock_irq(&m->lock);
		return;
	}
	pf->state = PF_SENT;
	pf->stale = false;
	pf->va = va;
	pf->write = write;
	msg.chan.arg = cpu_to_le32(++pf->seq);
	spin_unlock_irq(&m->lock);
	if (fused_post(m->node, VIRTIO_FABRIC_CLASS_REQUEST,
		       CHIMERA_FUSED_FAULT, &msg, sizeof(msg), NULL, 0))
		return;
	wait_event_killable(chan->wait,
			    READ_ONCE(pf->state) == PF_REPLIED ||
			    READ_ONCE(chan->ended) || READ_ONCE(m->dead));
}

static vm_fault_t mirror_fault(struct vm_fault *vmf)
{
	struct vm_area_struct *vma = vmf->vma;
	struct fused_mirror *m = vma->vm_private_data;
	bool write = vmf->flags & FAULT_FLAG_WRITE;
	u64 va = (u64)vmf->pgoff << PAGE_SHIFT;
	struct mirror_chan *chan = serve_chan(m);
	struct file *file;
	vm_fault_t ret;

	/* only a thread of home can give pages to its other end */
	if (!chan || READ_ONCE(m->dead))
		return VM_FAULT_SIGBUS;
	if (READ_ONCE(chan->ended)) {	/* the kernel itself goes on */
		if (!(vmf->flags & FAULT_FLAG_USER))
			return VM_FAULT_SIGBUS;
		serve_stuck(chan);
		return VM_FAULT_NOPAGE;
	}
	if (pte_alloc(vma->vm_mm, vmf->pmd))
		return VM_FAULT_OOM;
	ret = mirror_map(m, &chan->pf, vmf, va, write);
	if (ret)
		return ret;
	if (fault_flag_allow_retry_first(vmf->flags)) {
		if (vmf->flags & FAULT_FLAG_RETRY_NOWAIT)
			return VM_FAULT_RETRY;
		file = get_file(vma->vm_file);
		release_fault_lock(vmf);
		mirror_ask(m, chan, va, write);
		fput(file);
		/* the caller of pfn_mkwrite() goes on unless it sees NOPAGE */
		return VM_FAULT_RETRY |
		       (vmf->flags & FAULT_FLAG_MKWRITE ? VM_FAULT_NOPAGE : 0);
	}
	/* what came was taken back meanwhile: let it fault again */
	if (vmf->flags & FAULT_FLAG_TRIED)
		return VM_FAULT_NOPAGE;
	mirror_ask(m, chan, va, write);
	return mirror_map(m, &chan->pf, vmf, va, write) ?: VM_FAULT_NOPAGE;
}

/*
 * For debuggers of the stub: pages that are mapped here. Others are home's to
 * give, where all of the memory can be read.
 */
static int mirror_access(struct vm_area_struct *vma, unsigned long addr,
			 void *buf, int len, int write)
{
	struct fused_mirror *m = vma->vm_private_data;
	struct follow_pfnmap_args args = { .vma = vma, .address = addr };
	unsigned int offset = offset_in_page(addr);
	int ret = -EFAULT;
	void *at;

	len = min_t(int, len, PAGE_SIZE - offset);
	guard(rwsem_read)(&m->node->window_sem);
	if (!m->node->window || follow_pfnmap_start(&args))
		return -EFAULT;
	/* it stays mapped, and so home's, until the end */
	if (!write || args.writable) {
		at = m->node->window + PFN_PHYS(args.pfn) -
		     m->node->window_phys + offset;
		if (write)
			memcpy(at, buf, len);
		else
			memcpy(buf, at, len);
		ret = len;
	}
	follow_pfnmap_end(&args);
	return ret;
}

static const struct vm_operations_struct mirror_vm_ops = {
	.fault = mirror_fault,
	.pfn_mkwrite = mirror_fault,
	.access = mirror_access,
};

static void grant_rx(struct fused_mirror *m, struct chimera_rx *rx)
{
	const struct fused_grant *msg = rx->body;
	const __le32 *page = (const __le32 *)(msg + 1);
	u32 channel = le32_to_cpu(msg->chan.channel);
	u32 count = le32_to_cpu(msg->count), signal = le32_to_cpu(msg->signal);
	u64 first = le64_to_cpu(msg->va);
	struct mirror_chan *chan = &m->chan[FUSED_INDEX(channel)];
	struct mirror_pf *pf = &chan->pf;

	lockdep_assert_held(&m->lock);
	if (count > CHIMERA_FUSED_PAGES ||
	    rx->len != sizeof(*msg) + count * sizeof(*page) ||
	    (signal && (count || (signal != SIGSEGV && signal != SIGBUS))) ||
	    !PAGE_ALIGNED(first)) {
		chimera_drop(m->node, "malformed grant of pages");
		return;
	}
	if (!channel || chan->id != channel || pf->state != PF_SENT ||
	    pf->seq != le32_to_cpu(msg->chan.arg))
		return;		/* its thread is gone */
	pf->first = first;
	pf->count = count;
	pf->signal = signal;
	pf->writable = le64_to_cpu(msg->writable);
	for (u32 i = 0; i < count; i++)
		pf->page[i] = le32_to_cpu(page[i]);
	WRITE_ONCE(pf->state, PF_REPLIED);
	chimera_wake_all(&chan->wait);
}

/* ---- taking back ------------------------------------------------------- */

void mirror_queue(struct fused_mirror *m, struct work_struct *work)
{
	/* none: it has left, and that answers for everything */
	if (!kref_get_unless_zero(&m->ref))
		return;
	if (!queue_work(inval_wq, work))
		mirror_put(m);
}

static void inval_rx(struct fused_mirror *m, const struct fused_inval *msg)
{
	u64 start = le64_to_cpu(msg->start), end = le64_to_cpu(msg->end);
	struct mirror_inval *inval = NULL;
	struct mirror_pf *pf;

	lockdep_assert_held(&m->lock);
	for (unsigned int i = 0; i < CHIMERA_FUSED_INVALS && !inval; i++)
		if (!m->inval[i].seq)
			inval = &m->inval[i];
	if (!inval || !msg->seq || start >= end || end > LLONG_MAX) {
		chimera_drop(m->node, "malformed or excess invalidation");
		return;
	}
	for (unsigned int i = 0; i < CHIMERA_FUSED_CHANNELS; i++) {
		pf = &m->chan[i].pf;
		if (pf->state == PF_REPLIED && pf->first < end &&
		    start < pf->first + pf->count * PAGE_SIZE)
			pf->stale = true;
	}
	inval->seq = le64_to_cpu(msg->seq);
	inval->start = start;
	inval->end = end;
	mirror_queue(m, &m->inval_work);
}

static bool inval_next(struct fused_mirror *m, struct mirror_inval *ret)
{
	struct mirror_inval *first = NULL;

	spin_lock_irq(&m->lock);
	for (unsigned int i = 0; i < CHIMERA_FUSED_INVALS; i++)
		if (m->inval[i].seq &&
		    (!first || m->inval[i].seq < first->seq))
			first = &m->inval[i];
	if (first)
		*ret = *first;
	spin_unlock_irq(&m->lock);
	return first;
}

/* Its place is free before home hears that it is. */
static void inval_free(struct fused_mirror *m, u64 seq)
{
	spin_lock_irq(&m->lock);
	for (unsigned int i = 0; i < CHIMERA_FUSED_INVALS; i++)
		if (m->inval[i].seq == seq)
			m->inval[i].seq = 0;
	spin_unlock_irq(&m->lock);
}

static void mirror_inval_work(struct work_struct *work)
{
	struct fused_mirror *m = container_of(work, struct fused_mirror,
					      inval_work);
	struct mirror_inval inval;
	struct fused_acked msg;

	while (inval_next(m, &inval)) {
		mutex_lock(&m->map_lock);
		if (!m->dead)
			unmap_mapping_range(m->mapping, inval.start,
					    inval.end - inval.start, 1);
		mutex_unlock(&m->map_lock);
		inval_free(m, inval.seq);
		msg.id = cpu_to_le64(m->id);
		msg.seq = cpu_to_le64(inval.seq);
		fused_post(m->node, VIRTIO_FABRIC_CLASS_ACK,
			   CHIMERA_FUSED_ACKED, &msg, sizeof(msg), NULL, 0);
	}
	mirror_put(m);
}

/*
 * Nothing is mapped after this, and never will be; nor is the file's mapping
 * looked at any more.
 */
static void mirror_die(struct fused_mirror *m)
{
	mutex_lock(&m->map_lock);
	if (!m->dead) {
		spin_lock_irq(&m->lock);
		WRITE_ONCE(m->dead, true);
		spin_unlock_irq(&m->lock);
		unmap_mapping_range(m->mapping, 0, 0, 1);
	}
	mutex_unlock(&m->map_lock);
	serve_poke_all(m);
}

static struct fused_mirror *mirror_next(struct chimera_node *node,
					unsigned long *id)
{
	struct fused_mirror *m;

	guard(rcu)();
	xa_for_each_start(&mirrors[node->index], *id, m, *id)
		if (kref_get_unless_zero(&m->ref))
			return m;
	return NULL;
}

void mirror_window_gone(struct chimera_node *node)
{
	struct fused_mirror *m;

	for (unsigned long id = 0; (m = mirror_next(node, &id)); id++) {
		/* first: a stub is to see nothing of what follows */
		mirror_kill(m);
		mirror_die(m);
		mirror_put(m);
	}
}

void mirror_node_down(struct chimera_node *node)
{
	struct fused_mirror *m;

	for (unsigned long id = 0; (m = mirror_next(node, &id)); id++) {
		mirror_kill(m);
		mirror_put(m);
	}
}

/* ---- messages ---------------------------------------------------------- */

/* What comes too late, for a stub or a channel that is gone, is nothing. */
bool mirror_rx(struct chimera_rx *rx)
{
	const struct fused_chan *msg = rx->body;
	struct fused_mirror *m;
	unsigned long flags;

	guard(rcu)();
	m = mirror_find(rx->node, le64_to_cpu(msg->id));
	if (!m)
		return true;
	spin_lock_irqsave(&m->lock, flags);
	switch (rx->hdr->type) {
	case CHIMERA_FUSED_GRANT:
		grant_rx(m, rx);
		break;
	case CHIMERA_FUSED_INVAL:
		inval_rx(m, rx->body);
		break;
	case CHIMERA_FUSED_GONE:
		mirror_kill(m);
		break;
	default:
		serve_rx(m, rx);
	}
	spin_unlock_irqrestore(&m->lock, flags);
	return true;
}

/* ---- the descriptor ---------------------------------------------------- */

/*
 * The stub's memory goes, or its descriptor was closed: tell home, once. All
 * that came before is undone then, so LEFT answers every INVAL as well.
 */
static void mirror_leave(struct fused_mirror *m, bool joined)
{
	struct fused_left msg = {
		.id = cpu_to_le64(m->id),
		.nr = cpu_to_le64(m->nr),
	};
	bool was;

	spin_lock_irq(&m->lock);
	was = m->left;
	m->left = true;
	spin_unlock_irq(&m->lock);
	if (was)
		return;
	mirror_die(m);
	/* its own last thread, and not who looked at it in /proc */
	if (task_tgid(current) == m->pid)
		msg.status = cpu_to_le32(current->signal->flags &
					 SIGNAL_GROUP_EXIT ?
					 current->signal->group_exit_code :
					 current->exit_code);
	if (joined)
		fused_post(m->node, VIRTIO_FABRIC_CLASS_REQUEST,
			   CHIMERA_FUSED_LEFT, &msg, sizeof(msg), NULL, 0);
	xa_erase(&mirrors[m->node->index], m->id);
}

static void mirror_mm_release(struct mmu_notifier *mn, struct mm_struct *mm)
{
	mirror_leave(container_of(mn, struct fused_mirror, mn), true);
}

static const struct mmu_notifier_ops mirror_mn_ops = {
	.release = mirror_mm_release,
};

static int mirror_release(struct inode *inode, struct file *file)
{
	struct fused_mirror *m = file->private_data;

	/* calls mirror_mm_release() unless that has been done */
	mmu_notifier_unregister(&m->mn, m->mm);
	mirror_put(m);
	return 0;
}

static int mirror_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct fused_mirror *m = file->private_data;

	if (!(vma->vm_flags & VM_MAYSHARE) ||
	    vma->vm_pgoff != PHYS_PFN(vma->vm_start))
		return -EINVAL;
	if (vma->vm_flags & VM_EXEC)
		return -EACCES;
	if (vma->vm_mm != m->mm)
		return -EPERM;
	vm_flags_mod(vma, VM_IO | VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP |
		     VM_DONTCOPY, VM_MAYEXEC);
	vma->vm_ops = &mirror_vm_ops;
	vma->vm_private_data = m;
	return 0;
}

static long mirror_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct fused_mirror *m = file->private_data;

	if (current->mm != m->mm)
		return -EPERM;
	return serve_ioctl(m, cmd, arg);
}

static const struct file_operations mirror_fops = {
	.owner = THIS_MODULE,
	.mmap = mirror_mmap,
	.release = mirror_release,
	.unlocked_ioctl = mirror_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static struct fused_mirror *mirror_new(struct chimera_node *node, u64 id)
{
	struct fused_mirror *m = kvzalloc(sizeof(*m), GFP_KERNEL_ACCOUNT);

	if (!m)
		return NULL;
	kref_init(&m->ref);
	m->node = node;
	m->id = id;
	m->mm = current->mm;
	mmgrab(m->mm);
	m->pid = get_pid(task_tgid(current));
	m->mn.ops = &mirror_mn_ops;
	mutex_init(&m->map_lock);
	spin_lock_init(&m->lock);
	INIT_WORK(&m->inval_work, mirror_inval_work);
	serve_init(m);
	return m;
}

/* A mirror that messages find, with its file, before home knows of it. */
static struct file *mirror_open(struct chimera_node *node, u64 id)
{
	static atomic64_t last_nr = ATOMIC64_INIT(0);
	struct fused_mirror *m = mirror_new(node, id);
	struct file *file;
	int err;

	if (!m)
		return ERR_PTR(-ENOMEM);
	err = mmu_notifier_register(&m->mn, m->mm);
	if (err) {
		mirror_put(m);
		return ERR_PTR(err);
	}
	file = chimera_file("chimera:stub", O_RDWR, &mirror_fops);
	if (IS_ERR(file)) {
		m->left = true;
		mmu_notifier_unregister(&m->mn, m->mm);
		mirror_put(m);
		return file;
	}
	m->mapping = file->f_mapping;
	file->private_data = m;
	scoped_guard(mutex, &fused_homes_lock)
		err = mm_is_fused(m->mm) ? -EPERM :
		      xa_insert(&mirrors[node->index], id, m, GFP_KERNEL);
	if (err) {
		m->left = true;
		fput(file);
		return ERR_PTR(err == -EBUSY ? -EALREADY : err);
	}
	/* only now: this home has heard LEFT of all stubs before */
	m->nr = atomic64_inc_return(&last_nr);
	return file;
}

/*
 * Home may have taken a JOIN that failed for us, or may yet do so: it hears
 * that we left, or takes the next one for the word.
 */
static int mirror_join(struct chimera_node *node, struct fused_mirror *m,
		       u64 secret)
{
	const struct fused_join msg = {
		.id = cpu_to_le64(m->id),
		.nr = cpu_to_le64(m->nr),
		.secret = cpu_to_le64(secret),
		.uid = cpu_to_le32(from_kuid(&init_user_ns, current_euid())),
	};
	int ret = chimera_call(node, CHIMERA_SERVICE_FUSED, CHIMERA_FUSED_JOIN,
			       &msg, sizeof(msg), NULL, 0, CHIMERA_KILLABLE,
			       CHIMERA_CALL_TIMEOUT);

	if (ret < 0)
		mirror_leave(m, ret == -ETIMEDOUT || ret == -EINTR);
	return ret;
}

int chimera_join(struct chimera_join __user *arg)
{
	struct chimera_join req;
	struct chimera_node *node;
	struct file *file;
	int fd, err;

	if (copy_from_user(&req, arg, sizeof(req)))
		return -EFAULT;
	node = chimera_node(req.home);
	if (memchr_inv(req.reserved, 0, sizeof(req.reserved)) || !node ||
	    chimera_is_self(node))
		return -EINVAL;
	if (!chimera_node_greeted(node))
		return -EHOSTDOWN;
	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0)
		return fd;
	file = mirror_open(node, req.id);
	if (IS_ERR(file)) {
		put_unused_fd(fd);
		return PTR_ERR(file);
	}
	err = mirror_join(node, file->private_data, req.secret);
	if (err) {
		put_unused_fd(fd);
		fput(file);
		return err;
	}
	fd_install(fd, file);
	return fd;
}

int chimera_fused_init(void)
{
	for (unsigned int i = 0; i < VIRTIO_FABRIC_MAX_NODES; i++)
		xa_init(&mirrors[i]);
	inval_wq = alloc_workqueue("chimera-inval",
				   WQ_UNBOUND | WQ_MEM_RECLAIM | WQ_HIGHPRI, 0);
	return inval_wq ? 0 : -ENOMEM;
}
