// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The memory of segments made on this node.
 *
 * It is a shmem file: zeroed, allocated at first touch, charged to who
 * touches it, swapped like any other while only this node uses it. A page that
 * a peer asks for is granted: it gets a reference, which keeps it in its
 * place and in the page cache (migration, reclaim and collapse leave pages
 * with unexpected references alone), is marked dirty, for the peer's writes
 * set no bit here, and its number goes to the peer. Grants end all at once,
 * when the last peer has detached.
 *
 * Invariants:
 *  H1 A granted page is the page of the shmem file at that index. It can
 *     neither be truncated (sealed) nor punched out (no fallocate) nor be
 *     replaced, and grants are made under the folio's lock with its mapping
 *     checked, so no write-out is under way.
 *  H2 A node may only hold pages while its bit is set in 'attached'.
 *  H3 Pages are granted under grant_lock by the worker; the interrupt only
 *     repeats what stands in 'granted'.
 *
 * Nobody gets at the shmem file itself: its inode cannot be opened (through
 * /proc/PID/fd or map_files), descriptors are clones with our operations.
 */
#define pr_fmt(fmt) "chimera: " fmt

#include <linux/fcntl.h>
#include <linux/file.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/sched/mm.h>
#include <linux/shmem_fs.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "seg.h"

/* Segments made here, by id; ids are never used again. */
static DEFINE_XARRAY(seg_ids);

struct seg_home_fd {
	struct seg_home *seg;
	struct seg_name *name;
	bool creator;
};

static int no_open(struct inode *inode, struct file *file)
{
	return -ENXIO;
}

static const struct file_operations no_open_fops = {
	.open = no_open,
};

struct seg_home *seg_home_new(const char *name, u64 size, umode_t mode)
{
	static atomic64_t last_id = ATOMIC64_INIT(0);
	struct seg_home *seg;
	struct inode *inode;
	char label[CHIMERA_SEG_NAME_BYTES + 8];
	int err;

	seg = kzalloc(sizeof(*seg), GFP_KERNEL_ACCOUNT);
	if (!seg)
		return ERR_PTR(-ENOMEM);
	snprintf(label, sizeof(label), "chimera:%s", name);
	seg->shmem = shmem_kernel_file_setup(label, size, VM_NORESERVE);
	if (IS_ERR(seg->shmem)) {
		err = PTR_ERR(seg->shmem);
		kfree(seg);
		return ERR_PTR(err);
	}
	inode = file_inode(seg->shmem);
	inode->i_mode = S_IFREG | mode;
	inode->i_uid = current_fsuid();
	inode->i_gid = current_fsgid();
	inode->i_fop = &no_open_fops;
	SHMEM_I(inode)->seals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW |
				F_SEAL_EXEC;
	/* Granted pages do not move: keep them out of movable areas. */
	mapping_set_gfp_mask(inode->i_mapping, GFP_HIGHUSER);

	kref_init(&seg->ref);
	INIT_LIST_HEAD(&seg->link);
	mutex_init(&seg->grant_lock);
	xa_init(&seg->granted);
	seg->nr_pages = PFN_UP(size);
	seg->memcg = get_mem_cgroup_from_mm(current->mm);
	seg->id = atomic64_inc_return(&last_id);
	err = xa_err(xa_store(&seg_ids, seg->id, seg, GFP_KERNEL));
	if (err) {
		seg_home_put(seg);
		return ERR_PTR(err);
	}
	return seg;
}

static void ungrant_all(struct seg_home *seg)
{
	unsigned long index, pfn;
	void *entry;

	xa_for_each(&seg->granted, index, entry) {
		if (!chimera_region_pfn(xa_to_value(entry), &pfn))
			put_page(pfn_to_page(pfn));
		cond_resched();
	}
	xa_destroy(&seg->granted);
}

static void seg_home_release(struct kref *ref)
{
	struct seg_home *seg = container_of(ref, struct seg_home, ref);

	xa_erase(&seg_ids, seg->id);
	ungrant_all(seg);
	fput(seg->shmem);
	mem_cgroup_put(seg->memcg);
	kfree_rcu(seg, rcu);
}

void seg_home_get(struct seg_home *seg)
{
	kref_get(&seg->ref);
}

void seg_home_put(struct seg_home *seg)
{
	kref_put(&seg->ref, seg_home_release);
}

/* seg_home_find() - the segment with a reference, or NULL. */
struct seg_home *seg_home_find(u64 id)
{
	struct seg_home *seg;

	guard(rcu)();
	seg = xa_load(&seg_ids, id);
	return seg && kref_get_unless_zero(&seg->ref) ? seg : NULL;
}

struct seg_home *seg_home_next(u64 *id)
{
	unsigned long index = *id + 1;
	struct seg_home *seg;

	guard(rcu)();
	xa_for_each_start(&seg_ids, index, seg, index)
		if (kref_get_unless_zero(&seg->ref)) {
			*id = index;
			return seg;
		}
	return NULL;
}

u64 seg_home_resident(struct seg_home *seg)
{
	return (u64)READ_ONCE(file_inode(seg->shmem)->i_mapping->nrpages) <<
	       PAGE_SHIFT;
}

/* ---- descriptors ------------------------------------------------------- */

static int seg_home_release_file(struct inode *inode, struct file *file)
{
	struct seg_home_fd *fd = file->private_data;

	if (fd->creator)
		seg_name_unlink(fd->seg);
	kobject_put(&fd->name->kobj);
	seg_home_put(fd->seg);
	kfree(fd);
	return 0;
}

static int seg_home_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct seg_home_fd *fd = file->private_data;
	int err;

	if (!(vma->vm_flags & VM_MAYSHARE))
		return -EINVAL;
	if ((vma->vm_flags & VM_EXEC) && !seg_may_exec())
		return -EACCES;
	/* shmem's operations on our file: same inode, same pages */
	err = fd->seg->shmem->f_op->mmap(file, vma);
	if (!err)
		vm_flags_mod(vma, VM_DONTEXPAND,
			     seg_may_exec() ? 0 : VM_MAYEXEC);
	return err;
}

static long seg_home_ioctl(struct file *file, unsigned int cmd,
			   unsigned long arg)
{
	struct seg_home_fd *fd = file->private_data;
	struct chimera_seg_stat st;

	if (cmd != CHIMERA_IOC_SEG_STAT)
		return -ENOTTY;
	seg_fill_stat(fd->name, seg_home_resident(fd->seg), &st);
	return copy_to_user((void __user *)arg, &st, sizeof(st)) ? -EFAULT : 0;
}

static const struct file_operations seg_home_fops = {
	.mmap = seg_home_mmap,
	.release = seg_home_release_file,
	.unlocked_ioctl = seg_home_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

struct file *seg_home_file(struct seg_home *seg, struct seg_name *name,
			   int flags, bool creator)
{
	struct seg_home_fd *fd = kzalloc(sizeof(*fd), GFP_KERNEL_ACCOUNT);
	struct file *file;

	if (!fd)
		return ERR_PTR(-ENOMEM);
	file = alloc_file_clone(seg->shmem, flags, &seg_home_fops);
	if (IS_ERR(file)) {
		kfree(fd);
		return file;
	}
	seg_home_get(seg);
	kobject_get(&name->kobj);
	fd->seg = seg;
	fd->name = name;
	fd->creator = creator;
	file->private_data = fd;
	return file;
}

/* ---- peers ------------------------------------------------------------- */

/*
 * seg_home_attach() - @node may ask for pages. Not while ungrant_all() runs:
 * the interrupt would answer from entries whose references are gone.
 */
void seg_home_attach(struct seg_home *seg, struct chimera_node *node)
{
	guard(mutex)(&seg->grant_lock);
	if (!test_and_set_bit(node->index, seg->attached))
		seg_home_get(seg);
}

/* seg_home_detach() - @node has no page mapped any more. May sleep. */
void seg_home_detach(struct seg_home *seg, struct chimera_node *node)
{
	mutex_lock(&seg->grant_lock);
	if (test_and_clear_bit(node->index, seg->attached)) {
		if (bitmap_empty(seg->attached, VIRTIO_FABRIC_MAX_NODES))
			ungrant_all(seg);
		/* the caller has a reference too */
		seg_home_put(seg);
	}
	mutex_unlock(&seg->grant_lock);
}

/* Grant the page in @folio; takes over the caller's reference. */
static int grant_folio(struct seg_home *seg, unsigned long index,
		       struct folio *folio, u32 *ret_page)
{
	struct address_space *mapping = file_inode(seg->shmem)->i_mapping;
	u32 page;
	int err;

	folio_lock(folio);
	if (folio->mapping != mapping || !folio_test_uptodate(folio)) {
		err = -EAGAIN;	/* being swapped out */
	} else {
		folio_mark_dirty(folio);
		err = chimera_region_page(page_to_pfn(folio_file_page(folio,
								      index)),
					  &page);
	}
	folio_unlock(folio);
	if (!err)
		err = xa_err(xa_store(&seg->granted, index, xa_mk_value(page),
				      GFP_KERNEL | __GFP_ACCOUNT));
	if (err)
		folio_put(folio);
	else
		*ret_page = page;
	return err;
}

/*
 * Grant page @index. @alloc: it is wanted, else only if it is there.
 * Context: grant_lock held, memcg set.
 */
static int grant_page(struct seg_home *seg, unsigned long index, bool alloc,
		      u32 *ret_page)
{
	struct address_space *mapping = file_inode(seg->shmem)->i_mapping;
	/* rather fail than kill: the peer's program gets SIGBUS */
	const gfp_t gfp = mapping_gfp_mask(mapping) | __GFP_RETRY_MAYFAIL |
			  __GFP_NOWARN;
	void *entry = xa_load(&seg->granted, index);
	struct folio *folio;
	int err;

	if (entry) {
		*ret_page = xa_to_value(entry);
		return 0;
	}
	do {
		if (alloc)
			folio = shmem_read_folio_gfp(mapping, index, gfp);
		else
			folio = filemap_get_folio(mapping, index);
		if (IS_ERR(folio))
			return PTR_ERR(folio);
		err = grant_folio(seg, index, folio, ret_page);
	} while (err == -EAGAIN && alloc);
	return err;
}

static bool fault_valid(const struct seg_home *seg,
			const struct chimera_seg_fault *req)
{
	u64 index = le64_to_cpu(req->index), start = le64_to_cpu(req->start);
	u32 count = le32_to_cpu(req->count), ahead = le32_to_cpu(req->ahead);

	return count && count <= CHIMERA_SEG_FAULT_PAGES &&
	       start < seg->nr_pages && count <= seg->nr_pages - start &&
	       index >= start && ahead && ahead <= count &&
	       index - start <= count - ahead;
}

/*
 * Answer in the interrupt if all that is wanted has been granted before, to
 * another node or to another mapping.
 */
bool seg_home_fault_atomic(struct chimera_rx *rx)
{
	const struct chimera_seg_fault *req = rx->body;
	__le32 page[CHIMERA_SEG_FAULT_PAGES];
	struct kvec vec = { page };
	unsigned long start, wanted, end;
	struct seg_home *seg;
	void *entry;
	u32 n;

	if (rx->len != sizeof(*req))
		return false;
	guard(rcu)();
	seg = xa_load(&seg_ids, le64_to_cpu(req->id));
	if (!seg || !test_bit(rx->node->index, seg->attached) ||
	    !fault_valid(seg, req))
		return false;
	start = le64_to_cpu(req->start);
	wanted = le64_to_cpu(req->index);
	end = wanted + le32_to_cpu(req->ahead);
	for (n = 0; n < le32_to_cpu(req->count); n++) {
		entry = xa_load(&seg->granted, start + n);
		if (!entry && start + n >= wanted && start + n < end)
			return false;
		page[n] = cpu_to_le32(entry ? (u32)xa_to_value(entry) :
				      CHIMERA_SEG_NO_PAGE);
	}
	vec.iov_len = n * sizeof(*page);
	return chimera_reply(rx, 0, &vec, 1, CHIMERA_NOWAIT) != -EAGAIN;
}

void seg_home_fault(struct chimera_rx *rx)
{
	const struct chimera_seg_fault *req = rx->body;
	__le32 page[CHIMERA_SEG_FAULT_PAGES];
	struct kvec vec = { page };
	unsigned long start, wanted;
	struct mem_cgroup *old;
	struct seg_home *seg;
	u32 n, nr, got;
	int err = 0;

	seg = seg_home_find(le64_to_cpu(req->id));
	if (!seg) {
		chimera_reply(rx, -ENOENT, NULL, 0, 0);
		return;
	}
	if (!fault_valid(seg, req)) {
		chimera_drop(rx->node, "malformed page fault");
		chimera_reply(rx, -EINVAL, NULL, 0, 0);
		goto out;
	}
	start = le64_to_cpu(req->start);
	wanted = le64_to_cpu(req->index);
	nr = le32_to_cpu(req->count);

	old = set_active_memcg(seg->memcg);
	mutex_lock(&seg->grant_lock);
	if (!test_bit(rx->node->index, seg->attached))
		err = -ENOENT;
	/* the wanted one first: only its failure is one */
	if (!err)
		err = grant_page(seg, wanted, true, &got);
	for (n = 0; !err && n < nr; n++) {
		bool alloc = start + n >= wanted &&
			     start + n < wanted + le32_to_cpu(req->ahead);

		if (grant_page(seg, start + n, alloc, &got))
			got = CHIMERA_SEG_NO_PAGE;
		page[n] = cpu_to_le32(got);
	}
	mutex_unlock(&seg->grant_lock);
	set_active_memcg(old);

	vec.iov_len = nr * sizeof(*page);
	chimera_reply(rx, err, &vec, 1, 0);
out:
	seg_home_put(seg);
}
