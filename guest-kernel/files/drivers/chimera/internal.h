/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The driver's own interfaces. Who calls whom:
 *
 *   dev.c (ioctls), sysfs.c, proc.c
 *   seg.c seg-home.c seg-remote.c | port.c | ping.c      services
 *   msg.c     calls and answers, dispatch to services
 *   node.c    state of every node    window.c    their memory
 *   fabric.c  the virtio device
 *
 * Lock order, who may wait for whom, and which barrier pairs with which:
 * docs/fabric.md.
 */
#ifndef _CHIMERA_INTERNAL_H
#define _CHIMERA_INTERNAL_H

#include <linux/completion.h>
#include <linux/device.h>
#include <linux/fs.h>
#include <linux/list.h>
#include <linux/poll.h>
#include <linux/rwsem.h>
#include <linux/sched.h>
#include <linux/spinlock.h>
#include <linux/uio.h>
#include <linux/virtio_fabric.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "proto.h"

struct fabric;
struct chimera_call;

/* Send buffers: one pool for each class of messages, one for control. */
#define FABRIC_POOL_CONTROL	VIRTIO_FABRIC_NR_CLASSES
#define FABRIC_NR_POOLS		(VIRTIO_FABRIC_NR_CLASSES + 1)

/* Time limits of what a node waits for. */
#define CHIMERA_CALL_TIMEOUT	(10 * HZ)	/* an answer */
#define CHIMERA_FAULT_TIMEOUT	(30 * HZ)	/* a page: home may reclaim */
#define CHIMERA_QUERY_TIMEOUT	(5 * HZ)	/* statistics */
#define CHIMERA_PING_TIMEOUT	(1 * HZ)
#define CHIMERA_RETRY_DELAY	(1 * HZ)	/* before asking again */

/*
 * Deferred messages that a node keeps per peer and class. One more than calls:
 * the place of a request is free a moment after its answer has gone, when the
 * peer may have sent the next one.
 */
#define CHIMERA_DEFER_CALLS	(CHIMERA_CALLS_MAX + 1)	/* REQUEST, REPLY */
#define CHIMERA_DEFER_OTHER	4			/* ACK, BULK */

struct chimera_rxq {
	struct chimera_node *node;
	struct list_head list;		/* struct chimera_rx.link */
	unsigned int nr;		/* with the one being worked on */
	struct work_struct work;
};

struct chimera_call_slot {
	struct chimera_call *call;	/* NULL: nobody waits any more */
	u64 cookie;			/* 0: free */
};

/**
 * struct chimera_node - one node of the machine, the own one too.
 * @dev_state: what the device said last; only moves forward.
 * @greeted:   its kernel said HELLO.
 * @hello_sent: so did we; after both it can be called.
 * @synced:    its kernel said SYNCED: its segments' names are known here.
 * @lost:      its kernel broke the protocol and is treated as down.
 * @fence_sent, @state: written by @state_work only; users see the latter.
 * @lock:      dev_state, rxq, call slots. Leaf but for fabric.tx_lock.
 * @window_sem: read: @window stays and mappings of it may be added.
 *	       Written once, to take the window away.
 */
struct chimera_node {
	u16 index;
	u16 elf_machine;
	u32 cpus;
	u64 ram_bytes;
	u64 window_offset;
	char name[VIRTIO_FABRIC_NAME_BYTES + 1];

	spinlock_t lock;	/* see above */
	u8 dev_state;
	bool greeted;
	bool synced;
	bool lost;
	bool hello_sent;
	bool fence_sent;
	u64 boot_id;
	u8 state;
	struct work_struct state_work;
	struct device dev;

	struct rw_semaphore window_sem;
	phys_addr_t window_phys;
	void *window;

	struct chimera_rxq rxq[VIRTIO_FABRIC_NR_CLASSES];
	struct chimera_call_slot slot[CHIMERA_CALLS_MAX];
	u64 next_cookie;
	wait_queue_head_t slot_wait;

	/* under fabric.tx_lock */
	u16 tx_inflight[FABRIC_NR_POOLS];
	u64 bells;			/* rung, not yet sent */

	atomic64_t sent;
	atomic64_t received;
	atomic64_t dropped;		/* malformed, unexpected, too many */
};

struct chimera_extent {
	u64 gpa;
	u64 offset;
	u64 len;
};

/* Set up by the probe of the one device; stays as long as the kernel runs. */
struct chimera_machine {
	struct fabric *fabric;
	u16 self;
	u16 nr_nodes;
	u16 nr_extents;
	u32 coherence;
	bool code;		/* that other nodes write can be executed */
	u8 uuid[16];
	u64 boot_id;
	struct chimera_extent extent[VIRTIO_FABRIC_MAX_EXTENTS];
	struct chimera_node *node[VIRTIO_FABRIC_MAX_NODES];
};

extern struct chimera_machine *chimera;
/* Handlers and states of nodes: works whose number the machine bounds. */
extern struct workqueue_struct *chimera_wq;
/* Works that wait for a peer and of which programs can make any number. */
extern struct workqueue_struct *chimera_call_wq;

static inline struct chimera_node *chimera_node(unsigned int index)
{
	return index < chimera->nr_nodes ? chimera->node[index] : NULL;
}

static inline bool chimera_is_self(const struct chimera_node *node)
{
	return node->index == chimera->self;
}

/* The peer that follows node @index; -1 for the first. */
static inline struct chimera_node *chimera_next_peer(int index)
{
	while (++index < chimera->nr_nodes)
		if (index != chimera->self)
			return chimera->node[index];
	return NULL;
}

#define for_each_peer(peer)						\
	for (peer = chimera_next_peer(-1); peer;			\
	     peer = chimera_next_peer((peer)->index))

/* A message can be sent to it. */
static inline bool chimera_node_linked(const struct chimera_node *node)
{
	return READ_ONCE(node->dev_state) == VIRTIO_FABRIC_UP &&
	       !READ_ONCE(node->lost);
}

/* Its kernel answers calls. */
static inline bool chimera_node_greeted(const struct chimera_node *node)
{
	return chimera_node_linked(node) && READ_ONCE(node->greeted) &&
	       READ_ONCE(node->hello_sent);
}

/*
 * Wake who waits for what an interrupt has just brought. On an idle processor
 * it is run right here: no other one has to be woken first, which costs as
 * much as half of the round trip.
 */
static inline void chimera_wake_call(struct completion *done)
{
	if (is_idle_task(current))
		complete_on_current_cpu(done);
	else
		complete(done);
}

static inline void chimera_wake_all(struct wait_queue_head *wait)
{
	if (is_idle_task(current))
		__wake_up_on_current_cpu(wait, TASK_NORMAL, NULL);
	else
		wake_up_all(wait);
}

/* One received message; valid until its handler returns. */
struct chimera_rx {
	struct list_head link;
	struct chimera_node *node;	/* from */
	struct virtio_fabric_hdr *buf;
	const struct chimera_hdr *hdr;
	const void *body;
	u32 len;			/* of the body */
	u8 cls;
};

/**
 * struct chimera_service - who handles the messages of one service.
 * @classes: bits of the classes its messages may have, besides answers.
 * @atomic: tried first, in the interrupt or with interrupts off, in order of
 *	    arrival. True: handled. May be NULL.
 * @work:   the messages that @atomic left, in process context, in order per
 *	    (peer, class). May allocate; must never wait for a peer's answer,
 *	    or two nodes could wait for each other. May be NULL.
 * @node_greeted, @node_down: process context, serialised per node; node_down
 *	    comes once, when none of its messages is being handled any more.
 * @node_changed: any context; the node is down, or lost, or fenced now.
 * @window_gone: nothing new can be mapped of the node's memory; on return
 *	    nothing is.
 * @doorbell: atomic; the bits of this service that were rung.
 */
struct chimera_service {
	const char *name;
	u8 classes;
	bool (*atomic)(struct chimera_rx *rx);
	void (*work)(struct chimera_rx *rx);
	void (*node_greeted)(struct chimera_node *node);
	void (*node_down)(struct chimera_node *node);
	void (*node_changed)(struct chimera_node *node);
	void (*window_gone)(struct chimera_node *node);
	u64 doorbell_mask;
	void (*doorbell)(struct chimera_node *node, u64 bits);
};

extern const struct chimera_service chimera_node_service;
extern const struct chimera_service chimera_ping_service;
extern const struct chimera_service chimera_proc_service;
extern const struct chimera_service chimera_seg_service;
extern const struct chimera_service chimera_port_service;
extern const struct chimera_service chimera_fused_service;
extern const struct chimera_service *const
	chimera_services[CHIMERA_NR_SERVICES];

/* fabric.c */

#define CHIMERA_NOWAIT		BIT(0)	/* atomic context */
#define CHIMERA_KILLABLE	BIT(1)	/* a fatal signal ends the wait */

/**
 * fabric_send() - hand one message to the device.
 * @flags: CHIMERA_NOWAIT, CHIMERA_KILLABLE.
 * @timeout: jiffies to wait for room; not used with NOWAIT.
 *
 * Messages to one (node, class) arrive in the order of these calls.
 * Return: 0; -EAGAIN no room (NOWAIT); -ETIMEDOUT; -EINTR; -EHOSTDOWN.
 */
int fabric_send(struct chimera_node *node, u8 cls,
		const struct chimera_hdr *hdr, const struct kvec *vec,
		unsigned int nr_vecs, unsigned int flags, long timeout);
/* fabric_doorbell() - ring; any context; never fails for want of room. */
void fabric_doorbell(struct chimera_node *node, u64 bits);
int fabric_fence(struct chimera_node *node);
void fabric_rx_return(struct chimera_rx *rx);
void fabric_wake_senders(void);
bool fabric_has_echo(void);
int fabric_echo(u64 *ret_ns);

/* msg.c */

struct chimera_call {
	void *reply;
	u32 room;
	int result;		/* bytes of the answer, or -errno */
	struct chimera_node *node;
	u64 cookie;
	struct completion done;
};

/**
 * chimera_call_start() - send a request; chimera_call_finish() must follow.
 * @reply, @room: where the answer's body goes. A longer one is -EPROTO.
 *
 * Return: 0; -EHOSTDOWN; -ETIMEDOUT, -EINTR it was not sent.
 */
int chimera_call_start(struct chimera_call *call, struct chimera_node *node,
		       u8 service, u8 type, const struct kvec *vec,
		       unsigned int nr_vecs, void *reply, u32 room,
		       unsigned int flags, long timeout);
/**
 * chimera_call_finish() - wait for the answer.
 *
 * After -ETIMEDOUT and -EINTR the peer may still have handled, or still
 * handle, the request; the answer is dropped when it comes.
 * Return: bytes of the answer's body; the peer's -errno; -EHOSTDOWN,
 * -ETIMEDOUT, -EINTR, -EPROTO.
 */
int chimera_call_finish(struct chimera_call *call, unsigned int flags,
			long timeout);
int chimera_call(struct chimera_node *node, u8 service, u8 type,
		 const void *body, u32 len, void *reply, u32 room,
		 unsigned int flags, long timeout);
/**
 * chimera_reply() - answer the request in @rx.
 * @status: 0 or -errno.
 *
 * Return: 0; with NOWAIT -EAGAIN when there is no room now. Otherwise waits
 * as long as the requester is up; it is its receive window that is full.
 */
int chimera_reply(const struct chimera_rx *rx, int status,
		  const struct kvec *vec, unsigned int nr_vecs,
		  unsigned int flags);
/* One-way message; as fabric_send(). */
int chimera_post(struct chimera_node *node, u8 cls, u8 service, u8 type,
		 const struct kvec *vec, unsigned int nr_vecs,
		 unsigned int flags, long timeout);

bool chimera_msg_rx(struct chimera_rx *rx, u32 len);
void chimera_msg_node_init(struct chimera_node *node);
void chimera_msg_node_down(struct chimera_node *node);
void chimera_msg_flush(struct chimera_node *node);
void chimera_drop(struct chimera_node *node, const char *why);

/* node.c */

struct chimera_node *chimera_node_create(u16 index);
void chimera_node_event(struct chimera_node *node, u8 dev_state);
void chimera_node_doorbell(struct chimera_node *node, u64 bits);
void chimera_node_lose(struct chimera_node *node, const char *why);
void chimera_nodes_gone(void);
/* chimera_node_tell_synced() - all names were told to @node. Process context. */
int chimera_node_tell_synced(struct chimera_node *node);
u64 chimera_up_mask(void);

/* window.c */

int chimera_window_map(struct chimera_node *node, phys_addr_t base, u64 len);
void chimera_window_retire(struct chimera_node *node);
/**
 * chimera_region_page() - where a page of own memory lies in the own region.
 * Return: 0, or -ERANGE it is not part of the region.
 */
int chimera_region_page(unsigned long pfn, u32 *ret_page);
/**
 * chimera_region_pfn() - the reverse; -ERANGE no such page.
 */
int chimera_region_pfn(u32 page, unsigned long *ret_pfn);
/**
 * chimera_window_pfn() - the page of @node's region as this node sees it.
 * Context: window_sem held for reading and node->window not NULL.
 * Return: 0; -ERANGE no such page.
 */
int chimera_window_pfn(const struct chimera_node *node, u32 page,
		       unsigned long *ret_pfn);

/* sysfs.c */

int chimera_sysfs_init(void);
void chimera_sysfs_state_changed(struct chimera_node *node);
struct kobject *chimera_sysfs_root(void);

/* proc.c */

int chimera_proc_init(void);
int chimera_proc_mem(struct chimera_node *node, u64 *ret_total_kb,
		     u64 *ret_free_kb);

/* dev.c */

int chimera_dev_init(void);

/* inject.c */

#ifdef CONFIG_CHIMERA_INJECT
void chimera_inject_init(void);
#else
static inline void chimera_inject_init(void)
{
}
#endif

/* ping.c */

int chimera_ping(struct chimera_ping __user *arg);

/* seg.c */

int chimera_seg_init(void);
/* chimera_file() - a descriptor's file with an inode, so mappings, of its own. */
struct file *chimera_file(const char *label, int flags,
			  const struct file_operations *fops);
int chimera_seg_create(struct chimera_seg_create __user *arg);
int chimera_seg_open(struct chimera_seg_open __user *arg);
int chimera_seg_unlink(struct chimera_seg_unlink __user *arg);

/* port.c */

struct port_ep;

struct port_ep *chimera_port_new(void);
void chimera_port_close(struct port_ep *ep);
int chimera_port_bind(struct port_ep *ep, struct chimera_bind __user *arg);
int chimera_port_send(struct port_ep *ep, struct chimera_msg __user *arg);
int chimera_port_recv(struct port_ep *ep, struct chimera_msg __user *arg);
__poll_t chimera_port_poll(struct port_ep *ep, struct file *file,
			   poll_table *wait);

/* fused-home.c, fused-mirror.c */

int chimera_fuse(struct chimera_fuse __user *arg);
int chimera_join(struct chimera_join __user *arg);
int chimera_fused_init(void);
/*
 * chimera_fused_tasks() - a line for each channel of this node's processes.
 * Return: its length with the NUL left out; with @room too small, cut off at
 * a line's end; with @room 0, what it needs.
 */
size_t chimera_fused_tasks(char *buf, size_t room);

#endif /* _CHIMERA_INTERNAL_H */
