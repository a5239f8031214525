// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The names of segments.
 *
 * Each node is the authority on the names of the segments made there and on
 * nothing else. The others keep a copy of its names for look-ups and sysfs,
 * which only its word or its death changes, so no node's death leaves a name
 * or a reservation behind.
 *
 *   N1 Unique: a creator reserves the name at home, then asks every node
 *      whether the name is its own. Two creators ask each other; the one with
 *      the lower index is let through, the other gives up. As each reserves
 *      before it asks, at least one of the two sees the other.
 *   N2 Visible: CREATE returns when every node has confirmed the name.
 *   N3 Gone: an open asks the home, so it never finds a name after UNLINK
 *      has returned, whatever the copies say.
 *   N4 Each peer is told by one work item that compares what it was told with
 *      what is true ('told' and 'acked' in seg_home), so additions and
 *      removals cannot overtake each other and a node that comes late gets all.
 *
 * A copy may be out of date. Two copies may have the same name for a moment
 * (unlinked there, made again elsewhere), so whoever looks a name up tries
 * them all; sysfs shows one.
 */
#define pr_fmt(fmt) "chimera: " fmt

#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/ctype.h>
#include <linux/file.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/sysfs.h>
#include <linux/uaccess.h>
#include <linux/uidgid.h>

#include "seg.h"

/* Names per NAME_ADD, ids per NAME_DEL. */
#define SEG_BATCH (CHIMERA_BODY_BYTES / sizeof(struct chimera_seg_entry))

DEFINE_MUTEX(seg_lock);			/* names, their states, seg_own */
static DEFINE_MUTEX(seg_sysfs_lock);	/* what of them is in sysfs */
static LIST_HEAD(seg_names);		/* all nodes'; newest first */
static LIST_HEAD(seg_own);		/* struct seg_home */
static unsigned int seg_nr_names[VIRTIO_FABRIC_MAX_NODES];
static DECLARE_WAIT_QUEUE_HEAD(seg_told_wait);
static struct kobject *seg_dir;

/* One for each node, so on the queue of the handlers, although it waits. */
static struct seg_teller {
	struct delayed_work work;
	struct chimera_node *node;
	bool synced_said;
} seg_teller[VIRTIO_FABRIC_MAX_NODES];

/* ---- sysfs ------------------------------------------------------------- */

static struct seg_name *to_name(struct kobject *kobj)
{
	return container_of(kobj, struct seg_name, kobj);
}

#define SEG_ATTR(attr, fmt, value)					\
static ssize_t attr##_show(struct kobject *kobj,			\
			   struct kobj_attribute *unused, char *buf)	\
{									\
	const struct seg_name *name = to_name(kobj);			\
									\
	return sysfs_emit(buf, fmt "\n", value);			\
}									\
static const struct kobj_attribute seg_attr_##attr = __ATTR_RO(attr)

SEG_ATTR(size, "%llu", name->size);
SEG_ATTR(uid, "%u", from_kuid_munged(&init_user_ns, name->uid));
SEG_ATTR(gid, "%u", from_kgid_munged(&init_user_ns, name->gid));
SEG_ATTR(mode, "%04o", name->mode);
SEG_ATTR(home, "%u", name->home);
/* the name is in sysfs only as long as it holds its segment */
SEG_ATTR(resident, "%llu", name->seg ? seg_home_resident(name->seg) : 0);

/* At home: the nodes that have it open; elsewhere: this node if it has. */
static ssize_t attached_show(struct kobject *kobj,
			     struct kobj_attribute *unused, char *buf)
{
	const struct seg_name *name = to_name(kobj);

	if (name->seg)
		return sysfs_emit(buf, "%*pbl\n", VIRTIO_FABRIC_MAX_NODES,
				  name->seg->attached);
	if (chimera_seg_remote_attached(name->home, name->id))
		return sysfs_emit(buf, "%u\n", chimera->self);
	return sysfs_emit(buf, "\n");
}

static const struct kobj_attribute seg_attr_attached = __ATTR_RO(attached);

static const struct attribute *const seg_attrs[] = {
	&seg_attr_size.attr,
	&seg_attr_resident.attr,
	&seg_attr_uid.attr,
	&seg_attr_gid.attr,
	&seg_attr_mode.attr,
	&seg_attr_home.attr,
	&seg_attr_attached.attr,
	NULL
};

static void seg_name_release(struct kobject *kobj)
{
	kfree(to_name(kobj));
}

static const struct kobj_type seg_name_type = {
	.release = seg_name_release,
	.sysfs_ops = &kobj_sysfs_ops,
};

static struct seg_name *sysfs_next_dead(void)
{
	struct seg_name *name;

	guard(mutex)(&seg_lock);
	list_for_each_entry(name, &seg_names, link)
		if (name->state == SEG_DEAD) {
			list_del_init(&name->link);
			return name;
		}
	return NULL;
}

/* One that is live while no other of the same name is shown. */
static struct seg_name *sysfs_next_new(void)
{
	struct seg_name *name, *other;
	bool taken;

	guard(mutex)(&seg_lock);
	list_for_each_entry(name, &seg_names, link) {
		if (name->state != SEG_LIVE || name->shown)
			continue;
		taken = false;
		list_for_each_entry(other, &seg_names, link)
			if (other->shown && !strcmp(other->name, name->name))
				taken = true;
		if (!taken) {
			kobject_get(&name->kobj);
			return name;
		}
	}
	return NULL;
}

/*
 * Bring sysfs up to date with seg_names. Removing waits for readers, who may
 * take seg_lock: hence a lock of its own around it.
 */
static void seg_sysfs_sync(void)
{
	struct seg_name *name;

	guard(mutex)(&seg_sysfs_lock);
	while ((name = sysfs_next_dead())) {
		if (name->shown)
			kobject_del(&name->kobj);
		if (name->seg)
			seg_home_put(name->seg);
		name->seg = NULL;
		kobject_put(&name->kobj);
	}
	while ((name = sysfs_next_new())) {
		name->shown = true;
		if (kobject_add(&name->kobj, seg_dir, "%s", name->name) ||
		    sysfs_create_files(&name->kobj, seg_attrs))
			pr_warn_ratelimited("segment %s cannot be shown\n",
					    name->name);
		kobject_put(&name->kobj);
	}
}

/* ---- names ------------------------------------------------------------- */

static bool seg_name_valid(const u8 *s)
{
	size_t len = strnlen(s, CHIMERA_SEG_NAME_BYTES);

	if (!len || len == CHIMERA_SEG_NAME_BYTES || !strcmp(s, ".") ||
	    !strcmp(s, ".."))
		return false;
	for (size_t i = 0; i < len; i++)
		if (!isascii(s[i]) || (!isalnum(s[i]) && !strchr("_.-", s[i])))
			return false;
	return true;
}

static struct seg_name *seg_name_new(const char *s, u16 home, u64 id, u64 size,
				     kuid_t uid, kgid_t gid, u16 mode)
{
	struct seg_name *name = kzalloc(sizeof(*name), GFP_KERNEL_ACCOUNT);

	if (!name)
		return NULL;
	kobject_init(&name->kobj, &seg_name_type);
	INIT_LIST_HEAD(&name->link);
	strscpy_pad(name->name, s);
	name->home = home;
	name->id = id;
	name->size = size;
	name->uid = uid;
	name->gid = gid;
	name->mode = mode;
	return name;
}

/* Context: seg_lock. The list takes over the caller's reference. */
static int seg_name_add(struct seg_name *name)
{
	if (seg_nr_names[name->home] >= SEG_NAMES_MAX)
		return -ENOSPC;
	seg_nr_names[name->home]++;
	list_add(&name->link, &seg_names);
	return 0;
}

/* Context: seg_lock. seg_sysfs_sync() must follow. */
static void seg_name_kill(struct seg_name *name)
{
	if (name->state == SEG_DEAD)
		return;
	name->state = SEG_DEAD;
	seg_nr_names[name->home]--;
}

static struct seg_name *seg_name_find_id(u16 home, u64 id)
{
	struct seg_name *name;

	lockdep_assert_held(&seg_lock);
	list_for_each_entry(name, &seg_names, link)
		if (name->home == home && name->id == id &&
		    name->state != SEG_DEAD)
			return name;
	return NULL;
}

static struct seg_name *seg_name_find_own(const char *s)
{
	struct seg_name *name;

	lockdep_assert_held(&seg_lock);
	list_for_each_entry(name, &seg_names, link)
		if (name->home == chimera->self && name->state != SEG_DEAD &&
		    !strcmp(name->name, s))
			return name;
	return NULL;
}

/*
 * The next entry of that name to try, with a reference: live, and not among
 * the @nr already tried.
 */
static struct seg_name *seg_name_next(const char *s, struct seg_name **tried,
				      unsigned int nr)
{
	struct seg_name *name;
	unsigned int i;

	guard(mutex)(&seg_lock);
	list_for_each_entry(name, &seg_names, link) {
		if (name->state != SEG_LIVE || strcmp(name->name, s))
			continue;
		for (i = 0; i < nr && tried[i] != name; i++)
			;
		if (i == nr) {
			kobject_get(&name->kobj);
			return name;
		}
	}
	return NULL;
}

void seg_fill_stat(const struct seg_name *name, u64 resident,
		   struct chimera_seg_stat *st)
{
	memset(st, 0, sizeof(*st));
	memcpy(st->name, name->name, sizeof(st->name));
	st->size = name->size;
	st->resident = resident;
	st->uid = from_kuid_munged(current_user_ns(), name->uid);
	st->gid = from_kgid_munged(current_user_ns(), name->gid);
	st->mode = name->mode;
	st->home = name->home;
}

/* ---- telling the others ------------------------------------------------ */

static void seg_tell(struct chimera_node *node)
{
	mod_delayed_work(chimera_wq, &seg_teller[node->index].work, 0);
}

static void seg_tell_all(void)
{
	struct chimera_node *node;

	for_each_peer(node)
		if (chimera_node_greeted(node))
			seg_tell(node);
}

/* Drop what is dead and of which no node needs to be told. */
static void seg_own_prune(void)
{
	struct seg_home *seg, *next;
	LIST_HEAD(gone);

	scoped_guard(mutex, &seg_lock)
		list_for_each_entry_safe(seg, next, &seg_own, link)
			if (!seg->name &&
			    bitmap_empty(seg->told, VIRTIO_FABRIC_MAX_NODES))
				list_move(&seg->link, &gone);
	list_for_each_entry_safe(seg, next, &gone, link) {
		list_del_init(&seg->link);
		seg_home_put(seg);
	}
}

struct seg_batch {
	struct seg_home *seg[SEG_BATCH];
	unsigned int nr;
	u8 type;
	u32 len;
	union {
		struct chimera_seg_entry add[SEG_BATCH];
		__le64 del[SEG_BATCH];
	};
};

/* What @node is to be told next. Removals first: a name may come again. */
static void seg_batch_fill(struct seg_batch *b, unsigned int node)
{
	struct chimera_seg_entry *e;
	struct seg_home *seg;

	b->nr = 0;
	guard(mutex)(&seg_lock);
	b->type = CHIMERA_SEG_NAME_DEL;
	list_for_each_entry(seg, &seg_own, link) {
		if (seg->name || !test_bit(node, seg->told) ||
		    b->nr == SEG_BATCH)
			continue;
		seg_home_get(seg);
		b->del[b->nr] = cpu_to_le64(seg->id);
		b->seg[b->nr++] = seg;
	}
	b->len = b->nr * sizeof(b->del[0]);
	if (b->nr)
		return;
	b->type = CHIMERA_SEG_NAME_ADD;
	list_for_each_entry(seg, &seg_own, link) {
		if (!seg->name || seg->name->state != SEG_LIVE ||
		    test_bit(node, seg->acked) || b->nr == SEG_BATCH)
			continue;
		seg_home_get(seg);
		set_bit(node, seg->told);
		e = &b->add[b->nr];
		memset(e, 0, sizeof(*e));
		memcpy(e->name, seg->name->name, sizeof(e->name));
		e->id = cpu_to_le64(seg->id);
		e->size = cpu_to_le64(seg->name->size);
		e->uid = cpu_to_le32(from_kuid(&init_user_ns, seg->name->uid));
		e->gid = cpu_to_le32(from_kgid(&init_user_ns, seg->name->gid));
		e->mode = cpu_to_le32(seg->name->mode);
		b->seg[b->nr++] = seg;
	}
	b->len = b->nr * sizeof(b->add[0]);
}

static void seg_batch_done(struct seg_batch *b, unsigned int node, bool told)
{
	mutex_lock(&seg_lock);
	for (unsigned int i = 0; told && i < b->nr; i++) {
		if (b->type == CHIMERA_SEG_NAME_ADD) {
			set_bit(node, b->seg[i]->acked);
		} else {
			clear_bit(node, b->seg[i]->told);
			clear_bit(node, b->seg[i]->acked);
		}
	}
	mutex_unlock(&seg_lock);
	for (unsigned int i = 0; i < b->nr; i++)
		seg_home_put(b->seg[i]);
}

static void seg_teller_work(struct work_struct *work)
{
	struct seg_teller *t = container_of(to_delayed_work(work),
					    struct seg_teller, work);
	struct chimera_node *node = t->node;
	struct seg_batch *b;
	int err = 0;

	b = kmalloc(sizeof(*b), GFP_KERNEL);
	if (!b) {
		err = -ENOMEM;
		goto again;
	}
	while (!err && chimera_node_greeted(node)) {
		seg_batch_fill(b, node->index);
		if (!b->nr)
			break;
		err = chimera_call(node, CHIMERA_SERVICE_SEG, b->type, b->add,
				   b->len, NULL, 0, 0, CHIMERA_CALL_TIMEOUT);
		if (err == -ENOSPC || err == -EPROTO || err == -EINVAL) {
			/* it cannot be told; asking again does not help */
			pr_warn_ratelimited("node %u refuses names: %d\n",
					    node->index, err);
			err = 0;
		}
		seg_batch_done(b, node->index, !err);
		wake_up_all(&seg_told_wait);
	}
	kfree(b);
	seg_own_prune();
	if (!err && !t->synced_said && chimera_node_greeted(node)) {
		err = chimera_node_tell_synced(node);
		t->synced_said = !err;
	}
again:
	if (err && err != -EHOSTDOWN) {
		pr_warn_ratelimited("node %u cannot be told of segments: %d; again in a moment\n",
				    node->index, err);
		mod_delayed_work(chimera_wq, &t->work, CHIMERA_RETRY_DELAY);
	}
}

/* A condition to wait for: takes no lock. */
static bool seg_told_everybody(struct seg_home *seg)
{
	struct chimera_node *node;

	for_each_peer(node)
		if (chimera_node_greeted(node) &&
		    !test_bit(node->index, seg->acked))
			return false;
	return true;
}

/* Context: process; the segment's memory stays for whoever uses it. */
void seg_name_unlink(struct seg_home *seg)
{
	mutex_lock(&seg_lock);
	if (seg->name) {
		seg_name_kill(seg->name);
		seg->name = NULL;
	}
	mutex_unlock(&seg_lock);
	seg_sysfs_sync();
	seg_tell_all();
	seg_own_prune();
}

/* ---- create ------------------------------------------------------------ */

/* Ask every node whether the name is its own. */
static int seg_ask_all(const struct seg_name *name)
{
	struct chimera_seg_reserve req;
	const struct kvec vec = { &req, sizeof(req) };
	struct chimera_call *call;
	struct chimera_node *node;
	DECLARE_BITMAP(asked, VIRTIO_FABRIC_MAX_NODES) = { };
	int err = 0, ret;

	memcpy(req.name, name->name, sizeof(req.name));
	call = kcalloc(chimera->nr_nodes, sizeof(*call), GFP_KERNEL);
	if (!call)
		return -ENOMEM;
	for_each_peer(node) {
		if (err || !chimera_node_greeted(node))
			continue;
		ret = chimera_call_start(&call[node->index], node,
					 CHIMERA_SERVICE_SEG,
					 CHIMERA_SEG_RESERVE, &vec, 1, NULL, 0,
					 CHIMERA_KILLABLE,
					 CHIMERA_CALL_TIMEOUT);
		if (!ret)
			__set_bit(node->index, asked);
		else if (ret != -EHOSTDOWN)
			err = ret;
	}
	for_each_peer(node) {
		if (!test_bit(node->index, asked))
			continue;
		ret = chimera_call_finish(&call[node->index],
					  CHIMERA_KILLABLE,
					  CHIMERA_CALL_TIMEOUT);
		if (ret < 0 && ret != -EHOSTDOWN && !err)
			err = ret;
	}
	kfree(call);
	return err;
}

static int seg_reserve(struct seg_home *seg, struct seg_name *name)
{
	int err;

	guard(mutex)(&seg_lock);
	if (seg_name_find_own(name->name))
		return -EEXIST;
	err = seg_name_add(name);
	if (err)
		return err;
	kobject_get(&name->kobj);	/* the list's; the caller keeps its own */
	seg_home_get(seg);		/* the name's */
	name->seg = seg;
	seg->name = name;
	seg_home_get(seg);		/* the list's */
	list_add(&seg->link, &seg_own);
	return 0;
}

static int seg_commit(struct seg_name *name)
{
	guard(mutex)(&seg_lock);
	if (name->beaten)
		return -EEXIST;
	name->state = SEG_LIVE;
	return 0;
}

static int seg_publish(struct seg_home *seg, struct seg_name *name)
{
	long left;
	int err;

	err = seg_reserve(seg, name);
	if (err)
		return err;
	err = seg_ask_all(name);
	if (!err)
		err = seg_commit(name);
	if (err)
		goto err_unlink;
	seg_sysfs_sync();
	seg_tell_all();
	left = wait_event_killable_timeout(seg_told_wait,
					   seg_told_everybody(seg),
					   CHIMERA_CALL_TIMEOUT);
	if (left > 0)
		return 0;
	err = left < 0 ? -EINTR : -ETIMEDOUT;
err_unlink:
	seg_name_unlink(seg);
	return err;
}

int chimera_seg_create(struct chimera_seg_create __user *arg)
{
	struct chimera_seg_create req;
	struct seg_home *seg;
	struct seg_name *name;
	struct file *file;
	u64 size;
	int fd, err;

	if (copy_from_user(&req, arg, sizeof(req)))
		return -EFAULT;
	if (!seg_name_valid(req.name) || !req.size || (req.mode & ~0777) ||
	    (req.flags & ~CHIMERA_SEG_PERSIST) || req.reserved[0] ||
	    req.reserved[1])
		return -EINVAL;
	if (req.size > (u64)totalram_pages() << PAGE_SHIFT)
		return -ENOSPC;
	size = PAGE_ALIGN(req.size);

	fd = get_unused_fd_flags(O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return fd;
	seg = seg_home_new(req.name, size, req.mode);
	if (IS_ERR(seg)) {
		err = PTR_ERR(seg);
		goto err_fd;
	}
	name = seg_name_new(req.name, chimera->self, seg->id, size,
			    current_fsuid(), current_fsgid(), req.mode);
	if (!name) {
		err = -ENOMEM;
		goto err_seg;
	}
	file = seg_home_file(seg, name, O_RDWR,
			     !(req.flags & CHIMERA_SEG_PERSIST));
	if (IS_ERR(file)) {
		err = PTR_ERR(file);
		goto err_name;
	}
	err = seg_publish(seg, name);
	if (err)
		fput(file);
	else
		fd_install(fd, file);
err_name:
	kobject_put(&name->kobj);
err_seg:
	seg_home_put(seg);
err_fd:
	if (err)
		put_unused_fd(fd);
	return err ?: fd;
}

/* ---- open, unlink ------------------------------------------------------ */

static int seg_may(const struct seg_name *name, int flags)
{
	unsigned int want = (flags & O_ACCMODE) == O_RDWR ? 6 : 4;
	unsigned int have = name->mode;

	if (uid_eq(current_fsuid(), name->uid))
		have >>= 6;
	else if (in_group_p(name->gid))
		have >>= 3;
	if ((have & want) == want || capable(CAP_DAC_OVERRIDE))
		return 0;
	return -EACCES;
}

/* Unlinks are rare and copies out of date for a moment only. */
#define SEG_TRIES	4

static struct file *seg_open_one(struct seg_name *name, int flags)
{
	struct seg_home *seg = NULL;
	struct file *file;
	int err = seg_may(name, flags);

	if (err)
		return ERR_PTR(err);
	if (name->home != chimera->self)
		return seg_remote_open(name, flags);
	mutex_lock(&seg_lock);
	if (name->state == SEG_LIVE) {
		seg = name->seg;
		seg_home_get(seg);
	}
	mutex_unlock(&seg_lock);
	if (!seg)
		return ERR_PTR(-ENOENT);
	file = seg_home_file(seg, name, flags, false);
	seg_home_put(seg);
	return file;
}

int chimera_seg_open(struct chimera_seg_open __user *arg)
{
	struct seg_name *name, *tried[SEG_TRIES];
	struct file *file = ERR_PTR(-ENOENT);
	struct chimera_seg_open req;
	unsigned int nr = 0;
	int fd;

	if (copy_from_user(&req, arg, sizeof(req)))
		return -EFAULT;
	if (!seg_name_valid(req.name) || req.reserved ||
	    (req.flags != O_RDONLY && req.flags != O_RDWR))
		return -EINVAL;
	fd = get_unused_fd_flags(req.flags | O_CLOEXEC);
	if (fd < 0)
		return fd;
	while (nr < SEG_TRIES && file == ERR_PTR(-ENOENT)) {
		name = seg_name_next(req.name, tried, nr);
		if (!name)
			break;
		tried[nr++] = name;
		file = seg_open_one(name, req.flags);
	}
	while (nr--)
		kobject_put(&tried[nr]->kobj);
	if (IS_ERR(file)) {
		put_unused_fd(fd);
		return PTR_ERR(file);
	}
	fd_install(fd, file);
	return fd;
}

/* At home: unlink by id. Return: 0 or -ENOENT. */
static int seg_unlink_own(u64 id)
{
	struct seg_home *seg = seg_home_find(id);
	bool there;

	if (!seg)
		return -ENOENT;
	mutex_lock(&seg_lock);
	there = seg->name && seg->name->state == SEG_LIVE;
	mutex_unlock(&seg_lock);
	if (there)
		seg_name_unlink(seg);
	seg_home_put(seg);
	return there ? 0 : -ENOENT;
}

static int seg_unlink_one(struct seg_name *name)
{
	__le64 id = cpu_to_le64(name->id);
	int err;

	if (!uid_eq(current_fsuid(), name->uid) && !capable(CAP_FOWNER))
		return -EPERM;
	if (name->home == chimera->self)
		return seg_unlink_own(name->id);
	err = chimera_call(chimera->node[name->home], CHIMERA_SERVICE_SEG,
			   CHIMERA_SEG_UNLINK_ID, &id, sizeof(id), NULL, 0,
			   CHIMERA_KILLABLE, CHIMERA_CALL_TIMEOUT);
	if (!err || err == -ENOENT) {
		/* the home will tell; not later than this call returns */
		mutex_lock(&seg_lock);
		seg_name_kill(name);
		mutex_unlock(&seg_lock);
		seg_sysfs_sync();
	}
	return err;
}

int chimera_seg_unlink(struct chimera_seg_unlink __user *arg)
{
	struct seg_name *name, *tried[SEG_TRIES];
	struct chimera_seg_unlink req;
	unsigned int nr = 0;
	int err = -ENOENT;

	if (copy_from_user(&req, arg, sizeof(req)))
		return -EFAULT;
	if (!seg_name_valid(req.name) || req.reserved)
		return -EINVAL;
	while (nr < SEG_TRIES && err == -ENOENT) {
		name = seg_name_next(req.name, tried, nr);
		if (!name)
			break;
		tried[nr++] = name;
		err = seg_unlink_one(name);
	}
	while (nr--)
		kobject_put(&tried[nr]->kobj);
	return err;
}

/* ---- what the others ask and tell -------------------------------------- */

static int seg_reserve_rx(struct chimera_rx *rx)
{
	const struct chimera_seg_reserve *req = rx->body;
	struct seg_name *name;

	if (rx->len != sizeof(*req) || !seg_name_valid(req->name))
		return -EINVAL;
	guard(mutex)(&seg_lock);
	name = seg_name_find_own(req->name);
	if (!name)
		return 0;
	if (name->state == SEG_RESERVED && rx->node->index < chimera->self) {
		name->beaten = true;
		return 0;
	}
	return -EEXIST;
}

/*
 * The same name was made on two nodes before they had met. The node with the
 * lower index keeps it.
 */
static void seg_resolve(struct chimera_node *node, const char *s)
{
	struct seg_home *seg = NULL;
	struct seg_name *name;

	mutex_lock(&seg_lock);
	name = seg_name_find_own(s);
	if (name && node->index < chimera->self) {
		/* its creator, who has not asked that node, is told later */
		name->beaten = true;
		if (name->state == SEG_LIVE) {
			seg = name->seg;
			seg_home_get(seg);
		}
	}
	mutex_unlock(&seg_lock);
	if (!seg)
		return;
	pr_warn("segment %s was made on node %u too: it is unlinked here\n", s,
		node->index);
	seg_name_unlink(seg);
	seg_home_put(seg);
}

static int seg_add_rx(struct chimera_rx *rx)
{
	const struct chimera_seg_entry *e = rx->body;
	unsigned int nr = rx->len / sizeof(*e);
	struct seg_name *name;
	int err = 0;

	if (!nr || rx->len % sizeof(*e))
		return -EINVAL;
	for (; nr && !err; nr--, e++) {
		if (!seg_name_valid(e->name) || !e->id || !e->size ||
		    !PAGE_ALIGNED(le64_to_cpu(e->size)) ||
		    le64_to_cpu(e->size) > rx->node->ram_bytes ||
		    (le32_to_cpu(e->mode) & ~0777) || e->reserved)
			return -EINVAL;
		name = seg_name_new(e->name, rx->node->index,
				    le64_to_cpu(e->id), le64_to_cpu(e->size),
				    make_kuid(&init_user_ns,
					      le32_to_cpu(e->uid)),
				    make_kgid(&init_user_ns,
					      le32_to_cpu(e->gid)),
				    le32_to_cpu(e->mode));
		if (!name)
			return -ENOMEM;
		name->state = SEG_LIVE;
		mutex_lock(&seg_lock);
		/* told again after a time-out: known already */
		if (!seg_name_find_id(name->home, name->id)) {
			err = seg_name_add(name);
			if (!err)
				name = NULL;
		}
		mutex_unlock(&seg_lock);
		if (name)
			kobject_put(&name->kobj);
		seg_resolve(rx->node, e->name);
	}
	return err;
}

static int seg_del_rx(struct chimera_rx *rx)
{
	const __le64 *id = rx->body;
	unsigned int nr = rx->len / sizeof(*id);
	struct seg_name *name;

	if (!nr || rx->len % sizeof(*id))
		return -EINVAL;
	guard(mutex)(&seg_lock);
	for (; nr; nr--, id++) {
		name = seg_name_find_id(rx->node->index, le64_to_cpu(*id));
		if (name)
			seg_name_kill(name);
	}
	return 0;
}

static int seg_id_rx(struct chimera_rx *rx)
{
	const __le64 *id = rx->body;
	struct seg_home *seg;
	int err = 0;

	if (rx->len != sizeof(*id))
		return -EINVAL;
	if (rx->hdr->type == CHIMERA_SEG_UNLINK_ID)
		return seg_unlink_own(le64_to_cpu(*id));
	seg = seg_home_find(le64_to_cpu(*id));
	if (!seg)
		return -ENOENT;
	if (rx->hdr->type == CHIMERA_SEG_DETACH) {
		seg_home_detach(seg, rx->node);
	} else {
		mutex_lock(&seg_lock);
		/* no name, nobody new: an open after UNLINK finds nothing */
		if (seg->name && seg->name->state == SEG_LIVE)
			seg_home_attach(seg, rx->node);
		else
			err = -ENOENT;
		mutex_unlock(&seg_lock);
	}
	seg_home_put(seg);
	return err;
}

static bool seg_rx(struct chimera_rx *rx)
{
	return rx->hdr->type == CHIMERA_SEG_FAULT && seg_home_fault_atomic(rx);
}

static void seg_work(struct chimera_rx *rx)
{
	int err;

	switch (rx->hdr->type) {
	case CHIMERA_SEG_FAULT:
		if (rx->len == sizeof(struct chimera_seg_fault)) {
			seg_home_fault(rx);
			return;
		}
		err = -EINVAL;
		break;
	case CHIMERA_SEG_RESERVE:
		err = seg_reserve_rx(rx);
		break;
	case CHIMERA_SEG_NAME_ADD:
		err = seg_add_rx(rx);
		seg_sysfs_sync();
		break;
	case CHIMERA_SEG_NAME_DEL:
		err = seg_del_rx(rx);
		seg_sysfs_sync();
		break;
	case CHIMERA_SEG_ATTACH:
	case CHIMERA_SEG_DETACH:
	case CHIMERA_SEG_UNLINK_ID:
		err = seg_id_rx(rx);
		break;
	default:
		err = -EOPNOTSUPP;
	}
	if (err == -EINVAL || err == -EOPNOTSUPP)
		chimera_drop(rx->node, "malformed message about segments");
	chimera_reply(rx, err, NULL, 0, 0);
}

static void seg_node_greeted(struct chimera_node *node)
{
	seg_tell(node);
}

static void seg_node_down(struct chimera_node *node)
{
	struct seg_name *name;
	struct seg_home *seg, *found;

	cancel_delayed_work_sync(&seg_teller[node->index].work);

	mutex_lock(&seg_lock);
	list_for_each_entry(name, &seg_names, link)
		if (name->home == node->index)
			seg_name_kill(name);
	list_for_each_entry(seg, &seg_own, link) {
		clear_bit(node->index, seg->told);
		clear_bit(node->index, seg->acked);
	}
	mutex_unlock(&seg_lock);
	seg_sysfs_sync();
	seg_own_prune();
	wake_up_all(&seg_told_wait);

	/* unlinked segments are in no list: go by id */
	for (u64 id = 0; (found = seg_home_next(&id));) {
		seg_home_detach(found, node);
		seg_home_put(found);
	}
}

const struct chimera_service chimera_seg_service = {
	.name = "segment",
	.classes = BIT(VIRTIO_FABRIC_CLASS_REQUEST),
	.atomic = seg_rx,
	.work = seg_work,
	.node_greeted = seg_node_greeted,
	.node_down = seg_node_down,
	.window_gone = seg_remote_window_gone,
};

int chimera_seg_init(void)
{
	struct kobject *root = chimera_sysfs_root();

	for (unsigned int i = 0; i < chimera->nr_nodes; i++) {
		seg_teller[i].node = chimera->node[i];
		INIT_DELAYED_WORK(&seg_teller[i].work, seg_teller_work);
	}
	seg_dir = kobject_create_and_add("segments", root);
	kobject_put(root);
	if (!seg_dir)
		return -ENOMEM;
	return seg_remote_init();
}
