/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Processes on several nodes: what the parts of it share.
 *
 *   fused.c         the service's messages; a thread's part in fused processes
 *   fused-home.c    home: the process, its stubs, its threads' channels
 *   fused-grant.c   home: pages given out and taken back
 *   fused-mirror.c  stub: home's memory mapped here
 *   fused-serve.c   stub: threads that serve home's threads
 *
 * The protocol, its invariants and the lock order: docs/fused.md.
 */
#ifndef _CHIMERA_FUSED_H
#define _CHIMERA_FUSED_H

#include <linux/kref.h>
#include <linux/mmu_notifier.h>
#include <linux/mutex.h>
#include <linux/task_work.h>
#include <linux/xarray.h>

#include "internal.h"

/* A channel's number: which one it is, below a count that seldom repeats. */
#define FUSED_INDEX(channel)	((channel) % CHIMERA_FUSED_CHANNELS)

/*
 * Pages granted around a fault if they are there, a power of two; faults that
 * go upwards bring up to CHIMERA_FUSED_PAGES.
 */
#define FUSED_AROUND		16u
static_assert(FUSED_AROUND <= CHIMERA_FUSED_PAGES);

/* Ranges of native text of one stub. */
#define FUSED_NATIVE		8u

/* ---- home -------------------------------------------------------------- */

/* Processor time, in ns. */
struct fused_used {
	u64 run, user, system;
};

/**
 * struct home_chan - a thread's channel to one node. All under home->lock,
 * but @task_link, @restart_sp, @ahead*, @bad*, which are its thread's.
 * @id:     0: free.
 * @task:   its thread, as long as it is @owned.
 * @owned:  its thread has not given it up.
 * @closed: we said CLOSE.
 * @lost:   the other side said END, or is gone. Free when it is also closed.
 * @runs:   the remote end runs; else it waits for words.
 * @event:  one waits to be taken.
 * @fault:  one waits to be resolved; so the remote end stands still.
 */
struct home_chan {
	struct home_peer *peer;
	struct list_head task_link;
	wait_queue_head_t wait;
	u32 id;
	struct task_struct *task;
	bool owned, closed, lost;
	bool runs, event, fault;
	bool park_sent, parked;
	u32 park_seq;
	u32 event_type;
	u64 word[CHIMERA_WORDS];
	struct fused_used told;		/* by the remote end */
	struct fused_used credited;	/* of it, to the thread */
	u32 fault_seq;
	bool fault_write;
	u64 fault_va;
	enum chimera_lost lost_why;
	u32 lost_status;
	unsigned long restart_sp;	/* of the call that a signal ended */
	u64 ahead_va;			/* next fault of a stream */
	unsigned int ahead;		/* pages it is worth */
	u64 bad_va;			/* last access that was refused */
	int bad_code;
};

/* A node's stub, now or formerly. Stays until the home goes. */
struct home_peer {
	struct fused_home *home;
	struct chimera_node *node;
	bool joined;
	u64 inval[CHIMERA_FUSED_INVALS];	/* unanswered; 0: free */
	u32 last_chan;
	struct home_chan chan[CHIMERA_FUSED_CHANNELS];
};

/**
 * struct fused_home - a process that was FUSEd.
 * @grant_lock: @grants, @inval_seq; orders GRANT and INVAL. Nothing that
 *	    reclaims memory happens under it, nor waits for what might.
 * @grants: 2 MiB of address space -> nodes that may have pages of it mapped
 * @lock:   interrupts off; @peer[], their channels and invalidations, @left[]
 * @left:   a node's stubs up to this number have left
 */
struct fused_home {
	struct kref ref;	/* file, threads with channels */
	struct rcu_work free_work;
	u64 id;
	u64 secret;
	struct mm_struct *mm;	/* ni keeps it from being freed */
	pid_t tgid;
	kuid_t uid;
	struct mmu_interval_notifier ni;

	struct mutex grant_lock;
	struct xarray grants;
	u64 inval_seq;

	spinlock_t lock;
	bool dead;
	wait_queue_head_t inval_wait;
	struct home_peer *peer[VIRTIO_FABRIC_MAX_NODES];
	u64 left[VIRTIO_FABRIC_MAX_NODES];
};

extern const struct mmu_interval_notifier_ops fused_home_ni_ops;

/*
 * One role per mm: a home, or a stub. If a stub's memory were given to peers
 * too, taking it away would wait for their ACKED, and two nodes' stubs could
 * wait for each other.
 */
extern struct mutex fused_homes_lock;
bool mm_is_fused(struct mm_struct *mm);

/* home_find() - under RCU; NULL also when it is ending. */
struct fused_home *home_find(u64 id);
void home_end(struct fused_home *home);
void home_put(struct fused_home *home);
void home_task_release(struct list_head *chans);
bool home_rx(struct chimera_rx *rx);
void home_work(struct chimera_rx *rx);
void home_node_changed(struct chimera_node *node);
void home_node_down(struct chimera_node *node);

/* fused-grant.c */

/**
 * home_resolve() - give the page that @chan's remote end waits for.
 * Context: the channel's thread. Return: 0; -EINTR a fatal signal is pending.
 */
int home_resolve(struct home_chan *chan, u64 va, bool write, u32 seq);
/* home_revoke() - take everything back and grant nothing any more. */
void home_revoke(struct fused_home *home);
bool home_acked_rx(struct chimera_rx *rx);
void home_grants_init(struct fused_home *home);

/* ---- stub -------------------------------------------------------------- */

enum pf_state { PF_NONE, PF_SENT, PF_REPLIED };

/* A serving thread's page fault. */
struct mirror_pf {
	enum pf_state state;
	bool stale;
	bool write;
	u32 seq;
	u64 va;			/* wanted */
	u64 first;		/* of the pages */
	u64 writable;
	u32 count;
	u32 signal;
	u32 page[CHIMERA_FUSED_PAGES];
};

enum serve_state { SERVE_FREE, SERVE_OFFERED, SERVE_ACCEPTED, SERVE_SERVED };

/**
 * struct mirror_chan - the remote end of a channel. All under mirror->lock.
 * @asked:  words are awaited; home may send them once.
 * @ended:  home said CLOSE.
 * @stuck:  the thread should end, and cannot go on.
 * @end_due: END is to be sent by the mirror's work; it frees the channel.
 * @park:   number of the parking that lasts; 0: none.
 */
struct mirror_chan {
	struct fused_mirror *mirror;
	struct list_head offer;
	wait_queue_head_t wait;
	enum serve_state state;
	u32 id;
	u64 arg;
	bool ended, end_due, stuck;
	struct task_struct *task;
	bool asked, words;
	u64 word[CHIMERA_WORDS];
	struct callback_head poke;
	bool poked;
	u32 park;
	struct mirror_pf pf;
};

struct mirror_inval {
	u64 seq;		/* 0: free */
	u64 start, end;
};

/**
 * struct fused_mirror - a stub: home's memory as this node's process has it.
 * @map_lock: held while pages are mapped and while they are taken away.
 *	    Nothing allocates under it.
 * @lock:   interrupts off; the rest
 * @dead:   under both: nothing is mapped any more and nothing will be
 */
struct fused_mirror {
	struct kref ref;	/* file, serving threads, work */
	struct rcu_work free_work;
	struct chimera_node *node;	/* home */
	u64 id;
	u64 nr;			/* of all that this node had; JOIN, LEFT */
	struct mm_struct *mm;
	struct pid *pid;
	struct mmu_notifier mn;
	struct address_space *mapping;

	struct mutex map_lock;
	spinlock_t lock;
	bool dead, left;
	struct work_struct inval_work;
	struct mirror_inval inval[CHIMERA_FUSED_INVALS];
	struct work_struct end_work;
	struct delayed_work again_work;
	struct delayed_work time_work;
	struct list_head offers;
	wait_queue_head_t accept_wait;
	unsigned int nr_native;
	struct chimera_native native[FUSED_NATIVE];
	struct mirror_chan chan[CHIMERA_FUSED_CHANNELS];
};

/* mirror_find() - under RCU. */
struct fused_mirror *mirror_find(struct chimera_node *node, u64 id);
/* mm_is_stub() - fused_homes_lock keeps it from becoming one. */
bool mm_is_stub(struct mm_struct *mm);
void mirror_get(struct fused_mirror *m);
void mirror_put(struct fused_mirror *m);
/* mirror_queue() - any context; the work drops the reference it is given. */
void mirror_queue(struct fused_mirror *m, struct work_struct *work);
/* mirror_kill() - home is lost: the stub is to see nothing of that. */
void mirror_kill(struct fused_mirror *m);
bool mirror_rx(struct chimera_rx *rx);
void mirror_window_gone(struct chimera_node *node);
void mirror_node_down(struct chimera_node *node);

/* fused-serve.c */

long serve_ioctl(struct fused_mirror *m, unsigned int cmd, unsigned long arg);
/* serve_chan() - the channel that the current thread serves of @m, or NULL. */
struct mirror_chan *serve_chan(struct fused_mirror *m);
void serve_release(struct mirror_chan *chan);
/* serve_stuck() - the current thread needs memory of home's after CLOSE. */
void serve_stuck(struct mirror_chan *chan);
void serve_rx(struct fused_mirror *m, struct chimera_rx *rx);
void serve_init(struct fused_mirror *m);
/* serve_poke_all() - the mirror is dead: who serves must notice. */
void serve_poke_all(struct fused_mirror *m);

/* ---- both -------------------------------------------------------------- */

/* A thread's part; task_struct.chimera. Touched by that thread only. */
struct chimera_task {
	struct list_head chans;		/* home_chan.task_link */
	struct mirror_chan *serve;
};

/* fused_task() - the current thread's, made if it has none; NULL: no memory. */
struct chimera_task *fused_task(void);

/* fused_patience() - how long a node may leave us waiting, in jiffies. */
unsigned long fused_patience(void);
/*
 * fused_overdue() - @node has not done what somebody waits for @since then:
 * say so; when it has had its time it is lost. Any context.
 */
void fused_overdue(struct chimera_node *node, unsigned long since,
		   const char *what);

/*
 * fused_post() - one-way message that must not be lost. Waits for room as long
 * as the node is up; never fails for any other reason than that it is not.
 */
int fused_post(struct chimera_node *node, u8 cls, u8 type, const void *body,
	       u32 len, const void *more, u32 more_len);
int fused_post_chan(struct chimera_node *node, u8 type, u64 id, u32 channel,
		    u32 arg);
void fused_put_words(struct fused_words *msg, u64 id, u32 channel, u32 arg,
		     const u64 *word);
int fused_post_words(struct chimera_node *node, u8 type, u64 id, u32 channel,
		     u32 arg, const u64 *word);

/* fused_node_gone() - nothing of it can touch this node's memory any more. */
static inline bool fused_node_gone(const struct chimera_node *node)
{
	return READ_ONCE(node->lost) ||
	       READ_ONCE(node->dev_state) == VIRTIO_FABRIC_FENCED;
}

#endif /* _CHIMERA_FUSED_H */
