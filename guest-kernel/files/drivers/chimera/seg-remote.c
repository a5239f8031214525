// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Mappings of segments made on other nodes.
 *
 * The memory has no struct pages here. Page numbers are asked for at the first
 * touch, kept as long as anybody has the segment open, and mapped into the
 * window on the home's memory by VM_PFNMAP. The descriptors of one segment
 * share an inode, so that unmap_mapping_range() finds all mappings.
 *
 * Invariants:
 *  R1 'pages' holds only what the home has granted since the last ATTACH, and
 *     is emptied before DETACH is sent: at that time no file is open, so there
 *     is no mapping and no fault.
 *  R2 A page is mapped only under the home's window_sem with the window there.
 *     chimera_window_retire() takes the window away under the same lock and
 *     zaps afterwards: no mapping survives, later faults get SIGBUS.
 *  R3 Nothing allocates under window_sem: page tables are there before, and
 *     only neighbours under the same page table are mapped along. So retiring
 *     a window never waits for memory.
 *  R4 A segment has one seg_remote, which is on the list as long as it lives:
 *     a second one's DETACH would take the first one's pages away.
 *  R5 attach_lock orders ATTACH and DETACH; both go out in one class, so the
 *     home sees them in that order.
 */
#define pr_fmt(fmt) "chimera: " fmt

#include <linux/file.h>
#include <linux/hash.h>
#include <linux/mm.h>
#include <linux/mount.h>
#include <linux/pseudo_fs.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "seg.h"

#define CHIMERA_FS_MAGIC	0x63686d72	/* "chmr" */

/* Pages mapped around a fault, and most that are allocated ahead. */
#define SEG_AROUND	16ul
#define SEG_AHEAD_MAX	64u
static_assert(SEG_AROUND + SEG_AHEAD_MAX <= CHIMERA_SEG_FAULT_PAGES);

#define SEG_FAULT_LOCKS	8
#define SEG_STREAMS	8

/* First touches that go upwards page by page. */
struct seg_stream {
	unsigned long next;
	unsigned int ahead;
};

struct seg_remote {
	struct kref ref;		/* files, work, seg_remotes' users */
	struct list_head link;		/* seg_remotes */
	struct seg_name *name;
	struct chimera_node *node;
	struct inode *inode;
	unsigned long nr_pages;
	struct xarray pages;		/* index -> page number at home */

	struct mutex attach_lock;	/* the next two, ATTACH and DETACH */
	unsigned int files;
	bool attached;			/* the home may think so */
	struct delayed_work detach_work;

	struct mutex fault_lock[SEG_FAULT_LOCKS];	/* one asks for all */
	spinlock_t stream_lock;
	struct seg_stream stream[SEG_STREAMS];
	unsigned int next_stream;
};

static LIST_HEAD(seg_remotes);
static DEFINE_MUTEX(seg_remotes_lock);
static struct vfsmount *seg_mnt;

/* ---- faults ------------------------------------------------------------ */

/* How many pages from @index on to ask for, wanted or not. */
static unsigned int seg_ahead(struct seg_remote *r, unsigned long index)
{
	struct seg_stream *s;
	unsigned int ahead;

	spin_lock(&r->stream_lock);
	for (s = r->stream; s < r->stream + SEG_STREAMS; s++)
		if (s->ahead && s->next == index)
			break;
	if (s < r->stream + SEG_STREAMS) {
		s->ahead = min(s->ahead * 2, SEG_AHEAD_MAX);
	} else {
		s = &r->stream[r->next_stream++ % SEG_STREAMS];
		s->ahead = 1;
	}
	ahead = min_t(unsigned long, s->ahead, r->nr_pages - index);
	s->next = index + ahead;
	spin_unlock(&r->stream_lock);
	return ahead;
}

/* Ask the home for page @index and its neighbours. */
static int seg_ask(struct seg_remote *r, unsigned long index)
{
	unsigned int ahead = seg_ahead(r, index);
	unsigned long start = round_down(index, SEG_AROUND);
	unsigned long end = min(max(start + SEG_AROUND, index + ahead),
				r->nr_pages);
	const struct chimera_seg_fault req = {
		.id = cpu_to_le64(r->name->id),
		.index = cpu_to_le64(index),
		.start = cpu_to_le64(start),
		.count = cpu_to_le32(end - start),
		.ahead = cpu_to_le32(ahead),
	};
	__le32 page[SEG_AROUND + SEG_AHEAD_MAX];
	int ret;

	ret = chimera_call(r->node, CHIMERA_SERVICE_SEG, CHIMERA_SEG_FAULT,
			   &req, sizeof(req), page, sizeof(page),
			   CHIMERA_KILLABLE, CHIMERA_FAULT_TIMEOUT);
	if (ret == -ETIMEDOUT)
		pr_warn_ratelimited("node %u gives no page of segment %s\n",
				    r->node->index, r->name->name);
	if (ret < 0)
		return ret;
	if (ret != (end - start) * sizeof(*page)) {
		chimera_drop(r->node, "malformed answer to a page fault");
		return -EPROTO;
	}
	for (unsigned long i = start; i < end; i++) {
		u32 p = le32_to_cpu(page[i - start]);

		if (p == CHIMERA_SEG_NO_PAGE)
			continue;
		if (p >= r->node->ram_bytes >> PAGE_SHIFT) {
			chimera_drop(r->node, "page behind the end of its memory");
			return -EPROTO;
		}
		ret = xa_err(xa_store(&r->pages, i, xa_mk_value(p),
				      GFP_KERNEL | __GFP_ACCOUNT));
		if (ret)
			return ret;
	}
	return xa_load(&r->pages, index) ? 0 : -EPROTO;
}

/* seg_ask() once for all who want pages of the same neighbourhood. */
static int seg_get_page(struct seg_remote *r, unsigned long index)
{
	struct mutex *lock = &r->fault_lock[(index / SEG_AROUND) %
					    SEG_FAULT_LOCKS];
	int err = 0;

	if (mutex_lock_killable(lock))
		return -EINTR;
	if (!xa_load(&r->pages, index))
		err = seg_ask(r, index);
	mutex_unlock(lock);
	return err;
}

/* Map what is known of the neighbourhood under the same page table. */
static vm_fault_t seg_map(struct seg_remote *r, struct vm_fault *vmf)
{
	struct vm_area_struct *vma = vmf->vma;
	unsigned long addr = vmf->address & PAGE_MASK;
	unsigned long pmd = addr & PMD_MASK;
	unsigned long back = min(vmf->pgoff % SEG_AROUND,
				 (addr - max(vma->vm_start, pmd)) >> PAGE_SHIFT);
	unsigned long first = addr - (back << PAGE_SHIFT);
	/* addresses from here on: the last byte of the address space is none */
	unsigned long last = min(vma->vm_end - 1, pmd + PMD_SIZE - 1);
	unsigned long index = vmf->pgoff - back, pfn, a;
	vm_fault_t ret = VM_FAULT_SIGBUS, one;
	pgprot_t prot = vma->vm_page_prot;
	void *entry;

	/* young and dirty at once: or arm64 faults again at the first write */
	if ((vma->vm_flags & (VM_WRITE | VM_SHARED)) == (VM_WRITE | VM_SHARED))
		prot = pte_pgprot(pte_mkdirty(pte_mkyoung(pfn_pte(0, prot))));

	down_read(&r->node->window_sem);
	if (!r->node->window)
		goto out;
	for (a = first; a < last && index < r->nr_pages; a += PAGE_SIZE, index++) {
		if (a > addr + SEG_AHEAD_MAX * PAGE_SIZE)
			break;
		entry = xa_load(&r->pages, index);
		if (!entry || chimera_window_pfn(r->node, xa_to_value(entry),
						 &pfn))
			continue;
		one = vmf_insert_pfn_prot(vma, a, pfn, prot);
		if (a == addr)
			ret = one;
		else if (one & VM_FAULT_ERROR)
			break;
	}
out:
	up_read(&r->node->window_sem);
	return ret;
}

static vm_fault_t seg_fault(struct vm_fault *vmf)
{
	struct vm_area_struct *vma = vmf->vma;
	struct seg_remote *r = vma->vm_private_data;
	struct file *file;
	int err;

	if (vmf->pgoff >= r->nr_pages)
		return VM_FAULT_SIGBUS;
	if (!xa_load(&r->pages, vmf->pgoff)) {
		/* Rather wait without mmap_lock; the file keeps @r. */
		if (fault_flag_allow_retry_first(vmf->flags)) {
			if (vmf->flags & FAULT_FLAG_RETRY_NOWAIT)
				return VM_FAULT_RETRY;
			file = get_file(vma->vm_file);
			release_fault_lock(vmf);
			/* an error comes again in the second try */
			seg_get_page(r, vmf->pgoff);
			fput(file);
			return VM_FAULT_RETRY;
		}
		err = seg_get_page(r, vmf->pgoff);
		if (err == -EINTR)
			return VM_FAULT_NOPAGE;	/* and die */
		if (err)
			return VM_FAULT_SIGBUS;
	}
	if (pte_alloc(vma->vm_mm, vmf->pmd))
		return VM_FAULT_OOM;
	return seg_map(r, vmf);
}

/* For ptrace and /proc/PID/mem: only pages that are known here. */
static int seg_access(struct vm_area_struct *vma, unsigned long addr, void *buf,
		      int len, int write)
{
	struct seg_remote *r = vma->vm_private_data;
	unsigned long index = vma->vm_pgoff + PHYS_PFN(addr - vma->vm_start);
	unsigned int offset = offset_in_page(addr);
	void *entry = xa_load(&r->pages, index), *at;
	unsigned long pfn;
	int ret = -EIO;

	if (!entry && index < r->nr_pages && !seg_get_page(r, index))
		entry = xa_load(&r->pages, index);
	len = min_t(int, len, PAGE_SIZE - offset);
	down_read(&r->node->window_sem);
	if (entry && r->node->window &&
	    !chimera_window_pfn(r->node, xa_to_value(entry), &pfn)) {
		at = r->node->window + (xa_to_value(entry) << PAGE_SHIFT) +
		     offset;
		if (write)
			memcpy(at, buf, len);
		else
			memcpy(buf, at, len);
		ret = len;
	}
	up_read(&r->node->window_sem);
	return ret;
}

static const struct vm_operations_struct seg_remote_vm_ops = {
	.fault = seg_fault,
	.access = seg_access,
};

void seg_remote_window_gone(struct chimera_node *node)
{
	struct seg_remote *r;

	guard(mutex)(&seg_remotes_lock);
	list_for_each_entry(r, &seg_remotes, link)
		if (r->node == node && r->inode)
			unmap_mapping_range(r->inode->i_mapping, 0, 0, 1);
}

/* ---- attach and detach ------------------------------------------------- */

static void seg_remote_free(struct kref *ref)
{
	struct seg_remote *r = container_of(ref, struct seg_remote, ref);

	list_del(&r->link);
	mutex_unlock(&seg_remotes_lock);
	iput(r->inode);
	xa_destroy(&r->pages);
	kobject_put(&r->name->kobj);
	kfree(r);
}

static void seg_remote_put(struct seg_remote *r)
{
	kref_put_mutex(&r->ref, seg_remote_free, &seg_remotes_lock);
}

static int seg_call_id(struct seg_remote *r, u8 type, unsigned int how)
{
	__le64 id = cpu_to_le64(r->name->id);

	return chimera_call(r->node, CHIMERA_SERVICE_SEG, type, &id,
			    sizeof(id), NULL, 0, how, CHIMERA_CALL_TIMEOUT);
}

static void seg_detach_work(struct work_struct *work)
{
	struct seg_remote *r = container_of(to_delayed_work(work),
					    struct seg_remote, detach_work);
	int err = 0;

	mutex_lock(&r->attach_lock);
	if (!r->files && r->attached) {
		xa_destroy(&r->pages);
		err = seg_call_id(r, CHIMERA_SEG_DETACH, 0);
		if (err != -ETIMEDOUT)
			r->attached = false;
	}
	mutex_unlock(&r->attach_lock);
	if (err == -ETIMEDOUT) {
		pr_warn_ratelimited("node %u does not let go of segment %s; again in a moment\n",
				    r->node->index, r->name->name);
		kref_get(&r->ref);
		if (!queue_delayed_work(chimera_call_wq, &r->detach_work,
					CHIMERA_RETRY_DELAY))
			seg_remote_put(r);
	}
	seg_remote_put(r);
}

/* Context: attach_lock held. */
static void seg_detach_later(struct seg_remote *r)
{
	kref_get(&r->ref);
	if (!queue_delayed_work(chimera_call_wq, &r->detach_work, 0))
		kref_put(&r->ref, seg_remote_free);	/* never the last */
}

static int seg_remote_release(struct inode *inode, struct file *file)
{
	struct seg_remote *r = file->private_data;

	mutex_lock(&r->attach_lock);
	if (!--r->files)
		seg_detach_later(r);
	mutex_unlock(&r->attach_lock);
	seg_remote_put(r);
	return 0;
}

static int seg_remote_mmap(struct file *file, struct vm_area_struct *vma)
{
	if (!(vma->vm_flags & VM_MAYSHARE))
		return -EINVAL;
	if ((vma->vm_flags & VM_EXEC) && !seg_may_exec())
		return -EACCES;
	vm_flags_mod(vma, VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP,
		     seg_may_exec() ? 0 : VM_MAYEXEC);
	vma->vm_ops = &seg_remote_vm_ops;
	vma->vm_private_data = file->private_data;
	return 0;
}

static long seg_remote_ioctl(struct file *file, unsigned int cmd,
			     unsigned long arg)
{
	struct seg_remote *r = file->private_data;
	struct chimera_seg_stat st;

	if (cmd != CHIMERA_IOC_SEG_STAT)
		return -ENOTTY;
	seg_fill_stat(r->name, 0, &st);
	return copy_to_user((void __user *)arg, &st, sizeof(st)) ? -EFAULT : 0;
}

static const struct file_operations seg_remote_fops = {
	.mmap = seg_remote_mmap,
	.release = seg_remote_release,
	.unlocked_ioctl = seg_remote_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static int no_open(struct inode *inode, struct file *file)
{
	return -ENXIO;
}

static const struct file_operations no_open_fops = {
	.open = no_open,
};

static int no_setattr(struct mnt_idmap *idmap, struct dentry *dentry,
		      struct iattr *attr)
{
	return -EPERM;
}

static const struct inode_operations seg_inode_ops = {
	.setattr = no_setattr,
};

static struct inode *seg_inode(const struct seg_name *name)
{
	struct inode *inode = new_inode(seg_mnt->mnt_sb);

	if (!inode)
		return NULL;
	inode->i_ino = get_next_ino();
	inode->i_mode = S_IFREG | name->mode;
	inode->i_uid = name->uid;
	inode->i_gid = name->gid;
	inode->i_size = name->size;
	inode->i_op = &seg_inode_ops;
	inode->i_fop = &no_open_fops;
	simple_inode_init_ts(inode);
	return inode;
}

static struct seg_remote *seg_remote_new(struct seg_name *name)
{
	struct seg_remote *r = kzalloc(sizeof(*r), GFP_KERNEL_ACCOUNT);

	if (!r)
		return NULL;
	r->inode = seg_inode(name);
	if (!r->inode) {
		kfree(r);
		return NULL;
	}
	kref_init(&r->ref);
	INIT_LIST_HEAD(&r->link);
	kobject_get(&name->kobj);
	r->name = name;
	r->node = chimera->node[name->home];
	r->nr_pages = PHYS_PFN(name->size);
	xa_init(&r->pages);
	mutex_init(&r->attach_lock);
	INIT_DELAYED_WORK(&r->detach_work, seg_detach_work);
	for (int i = 0; i < SEG_FAULT_LOCKS; i++)
		mutex_init(&r->fault_lock[i]);
	spin_lock_init(&r->stream_lock);
	return r;
}

static struct seg_remote *seg_remote_find(u16 home, u64 id)
{
	struct seg_remote *r;

	lockdep_assert_held(&seg_remotes_lock);
	list_for_each_entry(r, &seg_remotes, link)
		if (r->name->home == home && r->name->id == id)
			return r;
	return NULL;
}

/* The one object of that segment, with a reference. */
static struct seg_remote *seg_remote_get(struct seg_name *name)
{
	/* nothing allocates under the lock: window_gone() takes it */
	struct seg_remote *new = seg_remote_new(name), *r;

	if (!new)
		return NULL;
	mutex_lock(&seg_remotes_lock);
	r = seg_remote_find(name->home, name->id);
	if (r)
		kref_get(&r->ref);
	else
		list_add(&new->link, &seg_remotes);
	mutex_unlock(&seg_remotes_lock);
	if (!r)
		return new;
	seg_remote_put(new);	/* never on the list: nobody has seen it */
	return r;
}

bool chimera_seg_remote_attached(u16 home, u64 id)
{
	struct seg_remote *r;

	guard(mutex)(&seg_remotes_lock);
	r = seg_remote_find(home, id);
	return r && READ_ONCE(r->files);
}

struct file *seg_remote_open(struct seg_name *name, int flags)
{
	struct seg_remote *r = seg_remote_get(name);
	char label[CHIMERA_SEG_NAME_BYTES + 8];
	struct file *file;
	int err;

	if (!r)
		return ERR_PTR(-ENOMEM);
	snprintf(label, sizeof(label), "chimera:%s", name->name);
	if (mutex_lock_killable(&r->attach_lock)) {
		seg_remote_put(r);
		return ERR_PTR(-EINTR);
	}
	err = seg_call_id(r, CHIMERA_SEG_ATTACH, CHIMERA_KILLABLE);
	if (!err || err == -ETIMEDOUT || err == -EINTR)
		r->attached = true;
	if (!err) {
		ihold(r->inode);
		file = alloc_file_pseudo(r->inode, seg_mnt, label, flags,
					 &seg_remote_fops);
		if (IS_ERR(file)) {
			err = PTR_ERR(file);
			iput(r->inode);
		}
	}
	if (!err) {
		file->private_data = r;		/* takes over our reference */
		r->files++;
	} else if (!r->files && r->attached) {
		seg_detach_later(r);
	}
	mutex_unlock(&r->attach_lock);
	if (!err)
		return file;
	seg_remote_put(r);
	return ERR_PTR(err);
}

/* ---- the file system behind the descriptors ---------------------------- */

static int seg_fs_init_context(struct fs_context *fc)
{
	return init_pseudo(fc, CHIMERA_FS_MAGIC) ? 0 : -ENOMEM;
}

static struct file_system_type seg_fs_type = {
	.name = "chimera",
	.init_fs_context = seg_fs_init_context,
	.kill_sb = kill_anon_super,
};

static void chimera_file_inode_init(struct inode *inode)
{
	inode->i_ino = get_next_ino();
	inode->i_mode = S_IFREG | 0600;
	inode->i_uid = current_fsuid();
	inode->i_gid = current_fsgid();
	inode->i_op = &seg_inode_ops;
	inode->i_fop = &no_open_fops;
	simple_inode_init_ts(inode);
}

struct file *chimera_file(const char *label, int flags,
			  const struct file_operations *fops)
{
	struct inode *inode = new_inode(seg_mnt->mnt_sb);
	struct file *file;

	if (!inode)
		return ERR_PTR(-ENOMEM);
	chimera_file_inode_init(inode);
	file = alloc_file_pseudo(inode, seg_mnt, label, flags, fops);
	if (IS_ERR(file))
		iput(inode);
	return file;
}

int seg_remote_init(void)
{
	seg_mnt = kern_mount(&seg_fs_type);
	return PTR_ERR_OR_ZERO(seg_mnt);
}
