/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Named segments. seg.c has the names: who owns which, told to all nodes.
 * seg-home.c has the memory of the segments made here, seg-remote.c the
 * mappings of those made elsewhere.
 */
#ifndef _CHIMERA_SEG_H
#define _CHIMERA_SEG_H

#include <linux/kobject.h>
#include <linux/kref.h>
#include <linux/mutex.h>
#include <linux/xarray.h>

#include "internal.h"

/* Names that one node may have at a time. */
#define SEG_NAMES_MAX	4096

enum seg_name_state {
	SEG_RESERVED,		/* own: its creator asks the other nodes */
	SEG_LIVE,
	SEG_DEAD,		/* unlinked; goes when sysfs has dropped it */
};

/**
 * struct seg_name - an entry in the list of names; every node has all of them.
 *
 * Belongs to its home: it comes and goes by the home's word or the home's
 * death only. seg_lock protects the list and the state.
 */
struct seg_name {
	struct list_head link;		/* seg_names */
	struct kobject kobj;		/* its reference count too */
	enum seg_name_state state;
	bool shown;			/* in sysfs; under seg_sysfs_lock */
	bool beaten;			/* RESERVED: a lower node wants it */
	u16 home;
	u64 id;
	u64 size;
	kuid_t uid;
	kgid_t gid;
	u16 mode;
	struct seg_home *seg;		/* home is here: holds a reference */
	char name[CHIMERA_SEG_NAME_BYTES];
};

extern struct mutex seg_lock;

/**
 * struct seg_home - a segment whose memory is here.
 *
 * References: its name (as long as it is not DEAD), its entry in seg_own
 * (until every node was told of the name's death), every open descriptor,
 * every attached node.
 *
 * @told:    nodes that were or are being sent the name.
 * @acked:   nodes that have confirmed to know it.
 * @attached: nodes that may ask for pages.
 * @granted: page index -> page number in the region. A page in it has a
 *	     reference that keeps it where it is. Under @grant_lock; read in
 *	     interrupts under RCU.
 */
struct seg_home {
	struct kref ref;
	struct list_head link;		/* seg_own */
	u64 id;
	unsigned long nr_pages;
	struct file *shmem;
	struct mem_cgroup *memcg;
	struct seg_name *name;		/* NULL when DEAD; seg_lock */
	DECLARE_BITMAP(told, VIRTIO_FABRIC_MAX_NODES);
	DECLARE_BITMAP(acked, VIRTIO_FABRIC_MAX_NODES);
	DECLARE_BITMAP(attached, VIRTIO_FABRIC_MAX_NODES);
	struct mutex grant_lock;	/* granted, changes of attached */
	struct xarray granted;
	struct rcu_head rcu;
};

/* Code that another node writes must not be executed from an old translation. */
static inline bool seg_may_exec(void)
{
	return chimera->code;
}

/* seg.c */
void seg_name_unlink(struct seg_home *seg);
void seg_fill_stat(const struct seg_name *name, u64 resident,
		   struct chimera_seg_stat *st);
bool chimera_seg_remote_attached(u16 home, u64 id);

/* seg-home.c */
struct seg_home *seg_home_new(const char *name, u64 size, umode_t mode);
void seg_home_get(struct seg_home *seg);
void seg_home_put(struct seg_home *seg);
struct seg_home *seg_home_find(u64 id);
/* The first segment with an id above *id, with a reference; sets *id. */
struct seg_home *seg_home_next(u64 *id);
/* A descriptor's file; holds a reference on @seg. @creator: unlinks it. */
struct file *seg_home_file(struct seg_home *seg, struct seg_name *name,
			   int flags, bool creator);
u64 seg_home_resident(struct seg_home *seg);
void seg_home_attach(struct seg_home *seg, struct chimera_node *node);
void seg_home_detach(struct seg_home *seg, struct chimera_node *node);
bool seg_home_fault_atomic(struct chimera_rx *rx);
void seg_home_fault(struct chimera_rx *rx);

/* seg-remote.c */
int seg_remote_init(void);
struct file *seg_remote_open(struct seg_name *name, int flags);
void seg_remote_window_gone(struct chimera_node *node);

#endif /* _CHIMERA_SEG_H */
