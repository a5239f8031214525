// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Messages between programs.
 *
 * An open file of /dev/chimera is an endpoint. The first message to a port
 * opens a pair: an object at the sender (port_out) and one at the receiver
 * (port_in) with a ring of RING_BYTES, allocated then and charged to the
 * receiver. Each message takes a record of the ring, and the sender never has
 * more under way than the ring holds, so a message that arrives always finds
 * room: it is copied in by the interrupt and nothing is ever dropped. RECV
 * gives the room back in portions.
 *
 *   P1 credit at the sender + bytes under way + bytes in the ring + bytes
 *      consumed and not yet returned = RING_BYTES.
 *   P2 What is not returned is less than RING_BYTES / 4, or a CREDIT is on its
 *      way; so an empty ring means that the sender can send: no deadlock.
 *   P3 Messages of a pair are ordered: one class, one ring.
 *
 * Whoever closes tells the other side: CLOSE behind the last message, or RESET
 * to the senders, who get -ECONNREFUSED once and may open a new pair. Pairs on
 * one node work the same way by direct calls.
 *
 * An endpoint lives as long as its file and its pairs; the pairs as long as
 * they are in a list or their work is queued; interrupts find them by handle
 * under RCU.
 */
#define pr_fmt(fmt) "chimera: " fmt

#include <linux/capability.h>
#include <linux/hrtimer.h>
#include <linux/kref.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/xarray.h>

#include "internal.h"

#define PORT_MAX	65535u
#define PORT_DYNAMIC	32768u
#define PORT_USER	1024u		/* those below are the system's */

#define RING_BYTES	65536u
/* The largest record; also what POLLOUT promises. */
#define RECORD_MAX	CHIMERA_PORT_RECORD(CHIMERA_MSG_BYTES)

/* Senders that one endpoint takes at a time: bounds its memory. */
#define PAIRS_MAX	1024

struct port_ep {
	struct kref ref;
	struct rcu_head rcu;
	wait_queue_head_t wait;

	spinlock_t lock;		/* all below, and the pairs' fields */
	u32 port;			/* 0: not bound */
	bool closed;
	bool lost;			/* for POLLERR */
	struct list_head outs;
	struct list_head ins;
	struct list_head ready;		/* ins with a message, next first */
	unsigned int nr_ins;

	struct mutex recv_lock;		/* one takes a message at a time */
	struct mem_cgroup *memcg;
};

enum port_out_state {
	OUT_OPENING,
	OUT_OPEN,
	OUT_FAILED,			/* with .err, until a SEND has said so */
};

struct port_out {
	struct kref ref;
	struct rcu_head rcu;
	struct list_head link;		/* port_ep.outs */
	struct port_ep *ep;
	struct chimera_node *node;
	u32 port;
	u32 handle;			/* ours */
	struct work_struct work;	/* opens, closes */
	struct work_struct free_work;

	enum port_out_state state;
	int err;
	u32 remote;			/* the receiver's handle */
	u32 credit;
};

struct port_in {
	struct kref ref;
	struct rcu_head rcu;
	struct list_head link;		/* port_ep.ins */
	struct list_head ready;		/* port_ep.ready */
	struct port_ep *ep;
	struct chimera_node *node;
	u32 port;
	u32 handle;			/* ours */
	u32 remote;			/* the sender's handle */
	struct work_struct work;	/* returns credit, resets */
	struct work_struct free_work;

	bool ended;			/* CLOSE came, or its node is gone */
	bool dead;			/* out of the list; no ring */
	u32 head, tail;			/* free running */
	u32 consumed;			/* not yet returned */
	u8 *ring;
};

/* Ports and the life of endpoints; process context. */
static DEFINE_MUTEX(port_lock);
static DEFINE_XARRAY_ALLOC1(ports);		/* port -> bound endpoint */
static u32 next_port = PORT_DYNAMIC;

/* handle -> pair. Handles are not used again soon. */
static DEFINE_XARRAY_FLAGS(outs, XA_FLAGS_ALLOC1);
static DEFINE_XARRAY_FLAGS(ins, XA_FLAGS_ALLOC1);
static u32 next_out, next_in;

/* ---- life -------------------------------------------------------------- */

static void ep_free(struct kref *ref)
{
	struct port_ep *ep = container_of(ref, struct port_ep, ref);

	mem_cgroup_put(ep->memcg);
	kfree_rcu(ep, rcu);
}

static void ep_put(struct port_ep *ep)
{
	kref_put(&ep->ref, ep_free);
}

/* The last reference may go in an interrupt; the rest is for a process. */
static void out_free_work(struct work_struct *work)
{
	struct port_out *out = container_of(work, struct port_out, free_work);

	xa_erase(&outs, out->handle);
	ep_put(out->ep);
	kfree_rcu(out, rcu);
}

static void out_free(struct kref *ref)
{
	struct port_out *out = container_of(ref, struct port_out, ref);

	INIT_WORK(&out->free_work, out_free_work);
	queue_work(chimera_wq, &out->free_work);
}

static void out_put(struct port_out *out)
{
	kref_put(&out->ref, out_free);
}

static void out_queue(struct port_out *out)
{
	kref_get(&out->ref);
	if (!queue_work(chimera_call_wq, &out->work))
		out_put(out);		/* the queued one has its own */
}

static void in_free_work(struct work_struct *work)
{
	struct port_in *in = container_of(work, struct port_in, free_work);

	xa_erase(&ins, in->handle);
	kvfree(in->ring);
	ep_put(in->ep);
	kfree_rcu(in, rcu);
}

static void in_free(struct kref *ref)
{
	struct port_in *in = container_of(ref, struct port_in, ref);

	INIT_WORK(&in->free_work, in_free_work);
	queue_work(chimera_wq, &in->free_work);
}

static void in_put(struct port_in *in)
{
	kref_put(&in->ref, in_free);
}

static void in_queue(struct port_in *in)
{
	kref_get(&in->ref);
	if (!queue_work(chimera_call_wq, &in->work))
		in_put(in);
}

/* Take a pair out of its endpoint. The caller drops the list's reference. */
static void in_unlink(struct port_in *in)
{
	lockdep_assert_held(&in->ep->lock);
	in->dead = true;
	in->ep->nr_ins--;
	list_del_init(&in->link);
	list_del_init(&in->ready);
}

struct port_ep *chimera_port_new(void)
{
	struct port_ep *ep = kzalloc(sizeof(*ep), GFP_KERNEL_ACCOUNT);

	if (!ep)
		return ERR_PTR(-ENOMEM);
	kref_init(&ep->ref);
	init_waitqueue_head(&ep->wait);
	spin_lock_init(&ep->lock);
	INIT_LIST_HEAD(&ep->outs);
	INIT_LIST_HEAD(&ep->ins);
	INIT_LIST_HEAD(&ep->ready);
	mutex_init(&ep->recv_lock);
	ep->memcg = get_mem_cgroup_from_mm(current->mm);
	return ep;
}

/* ---- what one side tells the other ------------------------------------- */

static int port_deliver(struct chimera_node *from, u32 handle,
			const struct kvec *data);
static void port_end(struct chimera_node *from, u32 handle);
static void port_credit(struct chimera_node *from, u32 handle, u32 bytes);
static void port_reset(struct chimera_node *from, u32 handle);
static int port_accept(struct chimera_node *from,
		       const struct chimera_port_open *req,
		       struct chimera_port_opened *opened);

static int tell_data(struct chimera_node *node, u32 handle, void *data, u32 len,
		     unsigned int how, long timeout)
{
	struct chimera_port_data head = {
		.handle = cpu_to_le32(handle),
		.len = cpu_to_le32(len),
	};
	const struct kvec vec[] = { { &head, sizeof(head) }, { data, len } };

	if (chimera_is_self(node))
		return port_deliver(node, handle, &vec[1]);
	return chimera_post(node, VIRTIO_FABRIC_CLASS_BULK,
			    CHIMERA_SERVICE_PORT, CHIMERA_PORT_DATA, vec, 2,
			    how, timeout);
}

static int tell_close(struct port_out *out)
{
	struct chimera_port_data head = { .handle = cpu_to_le32(out->remote) };
	const struct kvec vec = { &head, sizeof(head) };

	if (chimera_is_self(out->node)) {
		port_end(out->node, out->remote);
		return 0;
	}
	return chimera_post(out->node, VIRTIO_FABRIC_CLASS_BULK,
			    CHIMERA_SERVICE_PORT, CHIMERA_PORT_CLOSE, &vec, 1,
			    0, CHIMERA_CALL_TIMEOUT);
}

static int tell_credit(struct port_in *in, u8 type, u32 bytes, unsigned int how)
{
	struct chimera_port_credit body = {
		.handle = cpu_to_le32(in->remote),
		.bytes = cpu_to_le32(bytes),
	};
	const struct kvec vec = { &body, sizeof(body) };

	if (chimera_is_self(in->node)) {
		if (type == CHIMERA_PORT_CREDIT)
			port_credit(in->node, in->remote, bytes);
		else
			port_reset(in->node, in->remote);
		return 0;
	}
	return chimera_post(in->node, VIRTIO_FABRIC_CLASS_ACK,
			    CHIMERA_SERVICE_PORT, type, &vec, 1, how,
			    CHIMERA_CALL_TIMEOUT);
}

/* Return what was consumed; what cannot be sent now is left to the work. */
static void in_return_credit(struct port_in *in, unsigned int how)
{
	struct port_ep *ep = in->ep;
	u32 bytes = 0;
	int err;

	spin_lock_irq(&ep->lock);
	if (!in->dead && !in->ended && in->consumed >= RING_BYTES / 4) {
		bytes = in->consumed;
		in->consumed = 0;
	}
	spin_unlock_irq(&ep->lock);
	if (!bytes)
		return;
	err = tell_credit(in, CHIMERA_PORT_CREDIT, bytes, how);
	if (!err || err == -EHOSTDOWN)
		return;
	spin_lock_irq(&ep->lock);
	in->consumed += bytes;
	spin_unlock_irq(&ep->lock);
	if (err == -ETIMEDOUT)
		pr_warn_ratelimited("node %u takes no acknowledgements\n",
				    in->node->index);
	in_queue(in);
}

static void in_work(struct work_struct *work)
{
	struct port_in *in = container_of(work, struct port_in, work);
	bool reset;

	spin_lock_irq(&in->ep->lock);
	reset = in->dead && !in->ended;
	spin_unlock_irq(&in->ep->lock);
	if (!reset)
		in_return_credit(in, 0);
	else if (tell_credit(in, CHIMERA_PORT_RESET, 0, 0) == -ETIMEDOUT)
		in_queue(in);
	in_put(in);
}

/* ---- the sender's side ------------------------------------------------- */

static void out_fail(struct port_out *out, int err)
{
	lockdep_assert_held(&out->ep->lock);
	if (out->state == OUT_FAILED)
		return;
	out->state = OUT_FAILED;
	out->err = err;
	if (!out->ep->closed)
		out->ep->lost = true;
	wake_up_all(&out->ep->wait);
}

static void out_open(struct port_out *out)
{
	struct port_ep *ep = out->ep;
	const struct chimera_port_open req = {
		.handle = cpu_to_le32(out->handle),
		.from_port = cpu_to_le32(ep->port),
		.to_port = cpu_to_le32(out->port),
	};
	struct chimera_port_opened opened = { };
	int ret;

	if (chimera_is_self(out->node)) {
		ret = port_accept(out->node, &req, &opened);
	} else {
		ret = chimera_call(out->node, CHIMERA_SERVICE_PORT,
				   CHIMERA_PORT_OPEN, &req, sizeof(req),
				   &opened, sizeof(opened), 0,
				   CHIMERA_CALL_TIMEOUT);
		if (ret >= 0 && (ret != sizeof(opened) ||
				 le32_to_cpu(opened.window) < RECORD_MAX ||
				 le32_to_cpu(opened.window) > SZ_1G))
			ret = -EPROTO;
	}
	spin_lock_irq(&ep->lock);
	if (ret < 0) {
		out_fail(out, ret);
	} else if (out->state == OUT_OPENING) {
		out->state = OUT_OPEN;
		out->remote = le32_to_cpu(opened.handle);
		out->credit = le32_to_cpu(opened.window);
		wake_up_all(&ep->wait);
	}
	spin_unlock_irq(&ep->lock);
}

/* Opens a new pair; tells the receiver when the endpoint is closed. */
static void out_work(struct work_struct *work)
{
	struct port_out *out = container_of(work, struct port_out, work);
	enum port_out_state state;
	bool closed;

	spin_lock_irq(&out->ep->lock);
	state = out->state;
	closed = out->ep->closed;
	spin_unlock_irq(&out->ep->lock);
	if (state == OUT_OPENING && !closed) {
		out_open(out);
		spin_lock_irq(&out->ep->lock);
		state = out->state;
		closed = out->ep->closed;
		spin_unlock_irq(&out->ep->lock);
	}
	if (closed && state == OUT_OPEN && tell_close(out) == -ETIMEDOUT) {
		pr_warn_ratelimited("node %u takes no messages\n",
				    out->node->index);
		out_queue(out);
	}
	out_put(out);
}

/* The pair to (node, port), with a reference; a new one if there is none. */
static struct port_out *out_get(struct port_ep *ep, struct chimera_node *node,
				u32 port)
{
	struct port_out *out, *new;
	int err;

	spin_lock_irq(&ep->lock);
	list_for_each_entry(out, &ep->outs, link)
		if (out->node == node && out->port == port) {
			kref_get(&out->ref);
			spin_unlock_irq(&ep->lock);
			return out;
		}
	spin_unlock_irq(&ep->lock);

	if (!chimera_is_self(node) && !chimera_node_greeted(node))
		return ERR_PTR(-EHOSTDOWN);
	new = kzalloc(sizeof(*new), GFP_KERNEL_ACCOUNT);
	if (!new)
		return ERR_PTR(-ENOMEM);
	kref_init(&new->ref);
	INIT_WORK(&new->work, out_work);
	new->node = node;
	new->port = port;
	new->ep = ep;
	kref_get(&ep->ref);
	err = xa_alloc_cyclic(&outs, &new->handle, new, xa_limit_31b, &next_out,
			      GFP_KERNEL_ACCOUNT);
	if (err < 0) {
		ep_put(ep);
		kfree(new);
		return ERR_PTR(err);
	}
	spin_lock_irq(&ep->lock);
	list_for_each_entry(out, &ep->outs, link)
		if (out->node == node && out->port == port)
			break;
	if (list_entry_is_head(out, &ep->outs, link)) {
		out = new;
		list_add(&out->link, &ep->outs);
		kref_get(&out->ref);
		new = NULL;
	} else {
		kref_get(&out->ref);
	}
	spin_unlock_irq(&ep->lock);
	if (new)
		out_put(new);		/* another thread was faster */
	else
		out_queue(out);
	return out;
}

enum { TAKE_WAIT = 1 };

/* Take a record's credit. Return: 0, TAKE_WAIT, or the error to report. */
static int out_take(struct port_out *out, u32 record)
{
	struct port_ep *ep = out->ep;
	int ret = TAKE_WAIT;
	bool report = false;

	spin_lock_irq(&ep->lock);
	if (out->state == OUT_FAILED) {
		/* said once; the next SEND starts again */
		ret = out->err;
		report = !list_empty(&out->link);
		list_del_init(&out->link);
	} else if (out->state == OUT_OPEN && out->credit >= record) {
		out->credit -= record;
		ret = 0;
	}
	spin_unlock_irq(&ep->lock);
	if (report)
		out_put(out);
	return ret;
}

static void out_untake(struct port_out *out, u32 record)
{
	spin_lock_irq(&out->ep->lock);
	out->credit += record;
	spin_unlock_irq(&out->ep->lock);
	wake_up_all(&out->ep->wait);
}

static long ns_to_timeout(s64 ns)
{
	if (ns == KTIME_MAX)
		return MAX_SCHEDULE_TIMEOUT;
	return clamp(nsecs_to_jiffies64(ns), 1ull, MAX_SCHEDULE_TIMEOUT - 1ull);
}

static ktime_t deadline(s64 timeout_ns)
{
	if (timeout_ns < 0)
		return KTIME_MAX;
	return ktime_add_safe(ktime_get(), timeout_ns);
}

/* Of a wait_event_interruptible*(). */
static int wait_result(int ret)
{
	return ret == -ETIME ? -ETIMEDOUT : ret ? -EINTR : 0;
}

/* What is left until @until; KTIME_MAX is without limit. */
static ktime_t left_until(ktime_t until)
{
	return until == KTIME_MAX ? until :
	       max(ktime_sub(until, ktime_get()), 0ll);
}

static bool out_took(struct port_out *out, u32 record, int *ret)
{
	*ret = out_take(out, record);
	return *ret != TAKE_WAIT;
}

static int out_send(struct port_out *out, void *data, u32 len, u32 flags,
		    s64 timeout_ns)
{
	bool dontwait = flags & CHIMERA_MSG_DONTWAIT;
	u32 record = CHIMERA_PORT_RECORD(len);
	ktime_t until = deadline(timeout_ns);
	int err, taken;

	if (!out_took(out, record, &taken)) {
		if (dontwait)
			return -EAGAIN;
		err = wait_event_interruptible_hrtimeout(out->ep->wait,
							 out_took(out, record,
								  &taken),
							 left_until(until));
		if (taken == TAKE_WAIT)
			return wait_result(err);
	}
	if (taken)
		return taken;

	err = tell_data(out->node, out->remote, data, len,
			dontwait ? CHIMERA_NOWAIT : CHIMERA_KILLABLE,
			ns_to_timeout(left_until(until)));
	if (err)
		out_untake(out, record);
	return err;
}

static int ep_bind(struct port_ep *ep, u32 port);

int chimera_port_send(struct port_ep *ep, struct chimera_msg __user *arg)
{
	struct chimera_node *node;
	struct chimera_msg msg;
	struct port_out *out;
	void *data = NULL;
	int err;

	if (copy_from_user(&msg, arg, sizeof(msg)))
		return -EFAULT;
	node = chimera_node(msg.node);
	if (!node || !msg.port || msg.port > PORT_MAX || msg.reserved ||
	    (msg.flags & ~CHIMERA_MSG_DONTWAIT))
		return -EINVAL;
	if (msg.len > CHIMERA_MSG_BYTES)
		return -EMSGSIZE;
	if (!READ_ONCE(ep->port)) {
		err = ep_bind(ep, 0);
		if (err < 0 && err != -EINVAL)	/* another thread did */
			return err;
	}
	WRITE_ONCE(ep->lost, false);
	/* copied before any room is taken: the page may be far away */
	if (msg.len) {
		data = memdup_user(u64_to_user_ptr(msg.buf), msg.len);
		if (IS_ERR(data))
			return PTR_ERR(data);
	}
	out = out_get(ep, node, msg.port);
	if (IS_ERR(out)) {
		err = PTR_ERR(out);
	} else {
		err = out_send(out, data, msg.len, msg.flags, msg.timeout_ns);
		out_put(out);
	}
	kfree(data);
	return err;
}

/* The pair with that handle if @from is its other side. Context: RCU. */
static struct port_out *out_find(struct chimera_node *from, u32 handle)
{
	struct port_out *out = xa_load(&outs, handle);

	return out && out->node == from ? out : NULL;
}

static void port_credit(struct chimera_node *from, u32 handle, u32 bytes)
{
	struct port_out *out;
	unsigned long flags;

	guard(rcu)();
	out = out_find(from, handle);
	if (!out)
		return;			/* closed meanwhile */
	spin_lock_irqsave(&out->ep->lock, flags);
	if (bytes <= SZ_1G - min(out->credit, SZ_1G))
		out->credit += bytes;
	else
		chimera_drop(from, "too much credit");
	spin_unlock_irqrestore(&out->ep->lock, flags);
	chimera_wake_all(&out->ep->wait);
}

static void port_reset(struct chimera_node *from, u32 handle)
{
	struct port_out *out;
	unsigned long flags;

	guard(rcu)();
	out = out_find(from, handle);
	if (!out)
		return;
	spin_lock_irqsave(&out->ep->lock, flags);
	out_fail(out, -ECONNREFUSED);
	spin_unlock_irqrestore(&out->ep->lock, flags);
}

/* ---- the receiver's side ----------------------------------------------- */

static int port_accept(struct chimera_node *from,
		       const struct chimera_port_open *req,
		       struct chimera_port_opened *opened)
{
	struct mem_cgroup *old;
	struct port_ep *ep;
	struct port_in *in;
	int err = -ENOMEM;

	mutex_lock(&port_lock);
	ep = xa_load(&ports, le32_to_cpu(req->to_port));
	if (ep)
		kref_get(&ep->ref);
	mutex_unlock(&port_lock);
	if (!ep)
		return -ECONNREFUSED;

	old = set_active_memcg(ep->memcg);
	in = kzalloc(sizeof(*in), GFP_KERNEL_ACCOUNT);
	if (in)
		in->ring = kvmalloc(RING_BYTES, GFP_KERNEL_ACCOUNT);
	set_active_memcg(old);
	if (!in || !in->ring)
		goto err_free;
	kref_init(&in->ref);
	INIT_LIST_HEAD(&in->link);
	INIT_LIST_HEAD(&in->ready);
	INIT_WORK(&in->work, in_work);
	in->ep = ep;			/* takes over the reference */
	in->node = from;
	in->port = le32_to_cpu(req->from_port);
	in->remote = le32_to_cpu(req->handle);
	/* until it is in the list: its handle can be found, or guessed */
	in->dead = in->ended = true;
	err = xa_alloc_cyclic(&ins, &in->handle, in, xa_limit_31b, &next_in,
			      GFP_KERNEL_ACCOUNT);
	if (err < 0)
		goto err_free;

	err = 0;
	spin_lock_irq(&ep->lock);
	if (ep->closed) {
		err = -ECONNREFUSED;
	} else if (ep->nr_ins >= PAIRS_MAX) {
		err = -ENOBUFS;
	} else {
		ep->nr_ins++;
		list_add(&in->link, &ep->ins);
		in->dead = in->ended = false;
	}
	spin_unlock_irq(&ep->lock);
	opened->handle = cpu_to_le32(in->handle);
	opened->window = cpu_to_le32(RING_BYTES);
	if (err)
		in_put(in);
	return err;

err_free:
	if (in)
		kvfree(in->ring);
	kfree(in);
	ep_put(ep);
	return err;
}

/* Copy into the ring at @pos, which wraps. */
static void ring_write(struct port_in *in, u32 pos, const void *data, u32 len)
{
	u32 at = pos % RING_BYTES, first = min(len, RING_BYTES - at);

	memcpy(in->ring + at, data, first);
	memcpy(in->ring, data + first, len - first);
}

static bool ring_to_user(const struct port_in *in, u32 pos, void __user *to,
			 u32 len)
{
	u32 at = pos % RING_BYTES, first = min(len, RING_BYTES - at);

	return !copy_to_user(to, in->ring + at, first) &&
	       !copy_to_user(to + first, in->ring, len - first);
}

/* Any context. Return: 0, or -ECONNREFUSED the receiver is gone. */
static int port_deliver(struct chimera_node *from, u32 handle,
			const struct kvec *data)
{
	u32 record = CHIMERA_PORT_RECORD(data->iov_len);
	u32 len = data->iov_len;
	struct port_in *in;
	unsigned long flags;
	bool fits = true;

	guard(rcu)();
	in = xa_load(&ins, handle);
	if (!in || in->node != from)
		return -ECONNREFUSED;	/* closed; a RESET is under way */
	spin_lock_irqsave(&in->ep->lock, flags);
	if (in->dead || in->ended) {
		spin_unlock_irqrestore(&in->ep->lock, flags);
		return -ECONNREFUSED;
	}
	if (record > RING_BYTES - (in->head - in->tail)) {
		fits = false;
	} else {
		ring_write(in, in->head, &len, sizeof(len));
		ring_write(in, in->head + 8, data->iov_base, len);
		in->head += record;
		if (list_empty(&in->ready))
			list_add_tail(&in->ready, &in->ep->ready);
	}
	spin_unlock_irqrestore(&in->ep->lock, flags);
	if (fits)
		chimera_wake_all(&in->ep->wait);
	else
		chimera_drop(from, "message beyond its window");
	return 0;
}

/* Nothing more will come; what is there can still be received. */
static void in_end(struct port_in *in)
{
	unsigned long flags;
	bool drop = false;

	spin_lock_irqsave(&in->ep->lock, flags);
	if (!in->dead && !in->ended) {
		in->ended = true;
		drop = in->head == in->tail;
		if (drop)
			in_unlink(in);
	}
	spin_unlock_irqrestore(&in->ep->lock, flags);
	if (drop)
		in_put(in);
}

static void port_end(struct chimera_node *from, u32 handle)
{
	struct port_in *in;

	rcu_read_lock();
	in = xa_load(&ins, handle);
	if (in && in->node == from && kref_get_unless_zero(&in->ref)) {
		rcu_read_unlock();
		in_end(in);
		in_put(in);
	} else {
		rcu_read_unlock();
	}
}

/* Take the next message. Return: 0, -EAGAIN none, or why not. */
static int ep_recv_one(struct port_ep *ep, struct chimera_msg *msg)
{
	struct port_in *in;
	u32 len, record;
	int err = 0;
	bool drop;

	lockdep_assert_held(&ep->recv_lock);
	spin_lock_irq(&ep->lock);
	in = list_first_entry_or_null(&ep->ready, struct port_in, ready);
	if (in) {
		/* records are aligned: the length does not wrap */
		memcpy(&len, in->ring + in->tail % RING_BYTES, sizeof(len));
		msg->node = in->node->index;
		msg->port = in->port;
		kref_get(&in->ref);
	}
	spin_unlock_irq(&ep->lock);
	if (!in)
		return -EAGAIN;
	if (len > msg->len) {
		msg->len = len;
		err = -EMSGSIZE;
		goto out;
	}
	/*
	 * Without the lock: only we take records off, and the sender cannot
	 * write over them; a pair with messages stays until they are taken.
	 */
	if (!ring_to_user(in, in->tail + 8, u64_to_user_ptr(msg->buf), len)) {
		err = -EFAULT;
		goto out;
	}
	msg->len = len;
	record = CHIMERA_PORT_RECORD(len);

	spin_lock_irq(&ep->lock);
	in->tail += record;
	in->consumed += record;
	list_del_init(&in->ready);
	if (in->head != in->tail)
		list_add_tail(&in->ready, &ep->ready);	/* others' turn */
	drop = in->ended && in->head == in->tail;
	if (drop)
		in_unlink(in);
	spin_unlock_irq(&ep->lock);
	if (drop)
		in_put(in);
	else
		in_return_credit(in, CHIMERA_NOWAIT);
out:
	in_put(in);
	return err;
}

static bool ep_has_message(struct port_ep *ep)
{
	return !list_empty_careful(&ep->ready);
}

int chimera_port_recv(struct port_ep *ep, struct chimera_msg __user *arg)
{
	struct chimera_msg msg;
	ktime_t until;
	int err;

	if (copy_from_user(&msg, arg, sizeof(msg)))
		return -EFAULT;
	if (msg.reserved || (msg.flags & ~CHIMERA_MSG_DONTWAIT))
		return -EINVAL;
	if (!READ_ONCE(ep->port))
		return -ENOTCONN;
	WRITE_ONCE(ep->lost, false);
	until = deadline(msg.timeout_ns);
	do {
		if (mutex_lock_interruptible(&ep->recv_lock))
			return -EINTR;
		err = ep_recv_one(ep, &msg);
		mutex_unlock(&ep->recv_lock);
		if (err != -EAGAIN || (msg.flags & CHIMERA_MSG_DONTWAIT))
			break;
		err = wait_event_interruptible_hrtimeout(ep->wait,
							 ep_has_message(ep),
							 left_until(until));
		err = wait_result(err);
	} while (!err);
	if (!err || err == -EMSGSIZE)
		if (copy_to_user(arg, &msg, sizeof(msg)))
			return -EFAULT;
	return err;
}

/* ---- endpoints --------------------------------------------------------- */

/* Return: the port, -EADDRINUSE, -EINVAL bound already, -ENOMEM. */
static int ep_bind(struct port_ep *ep, u32 port)
{
	int err;

	guard(mutex)(&port_lock);
	if (ep->port)
		return -EINVAL;
	if (port) {
		err = xa_insert(&ports, port, ep, GFP_KERNEL_ACCOUNT);
		if (err == -EBUSY)
			err = -EADDRINUSE;
	} else {
		err = xa_alloc_cyclic(&ports, &port, ep,
				      XA_LIMIT(PORT_DYNAMIC, PORT_MAX),
				      &next_port, GFP_KERNEL_ACCOUNT);
		if (err == -EBUSY)
			err = -EADDRINUSE;
	}
	if (err < 0)
		return err;
	WRITE_ONCE(ep->port, port);
	return port;
}

int chimera_port_bind(struct port_ep *ep, struct chimera_bind __user *arg)
{
	struct chimera_bind req;
	int port;

	if (copy_from_user(&req, arg, sizeof(req)))
		return -EFAULT;
	if (req.port > PORT_MAX || req.reserved)
		return -EINVAL;
	if (req.port && req.port < PORT_USER && !capable(CAP_NET_BIND_SERVICE))
		return -EACCES;
	port = ep_bind(ep, req.port);
	if (port < 0)
		return port;
	return put_user((u32)port, &arg->port);
}

void chimera_port_close(struct port_ep *ep)
{
	struct port_out *out, *next_o;
	struct port_in *in, *next_i;
	LIST_HEAD(my_outs);
	LIST_HEAD(my_ins);

	mutex_lock(&port_lock);
	if (ep->port)
		xa_erase(&ports, ep->port);
	mutex_unlock(&port_lock);

	spin_lock_irq(&ep->lock);
	ep->closed = true;
	list_splice_init(&ep->outs, &my_outs);
	list_for_each_entry_safe(in, next_i, &ep->ins, link) {
		in_unlink(in);
		list_add(&in->link, &my_ins);
	}
	spin_unlock_irq(&ep->lock);

	/* the pairs' works tell the other sides */
	list_for_each_entry_safe(out, next_o, &my_outs, link) {
		list_del_init(&out->link);
		out_queue(out);
		out_put(out);
	}
	list_for_each_entry_safe(in, next_i, &my_ins, link) {
		list_del_init(&in->link);
		in_queue(in);
		in_put(in);
	}
	ep_put(ep);
}

__poll_t chimera_port_poll(struct port_ep *ep, struct file *file,
			   poll_table *wait)
{
	__poll_t mask = EPOLLOUT | EPOLLWRNORM;
	struct port_out *out;

	poll_wait(file, &ep->wait, wait);
	spin_lock_irq(&ep->lock);
	if (!list_empty(&ep->ready))
		mask |= EPOLLIN | EPOLLRDNORM;
	if (ep->lost)
		mask |= EPOLLERR;
	list_for_each_entry(out, &ep->outs, link)
		if (out->state == OUT_OPENING ||
		    (out->state == OUT_OPEN && out->credit < RECORD_MAX))
			mask &= ~(EPOLLOUT | EPOLLWRNORM);
	spin_unlock_irq(&ep->lock);
	return mask;
}

/* ---- messages from other kernels --------------------------------------- */

static bool port_rx_valid(const struct chimera_rx *rx)
{
	const struct chimera_port_data *data = rx->body;
	u8 cls = rx->cls;

	switch (rx->hdr->type) {
	case CHIMERA_PORT_OPEN:
		return cls == VIRTIO_FABRIC_CLASS_REQUEST &&
		       rx->len == sizeof(struct chimera_port_open);
	case CHIMERA_PORT_DATA:
		return cls == VIRTIO_FABRIC_CLASS_BULK &&
		       rx->len >= sizeof(*data) &&
		       rx->len - sizeof(*data) <= CHIMERA_MSG_BYTES &&
		       rx->len - sizeof(*data) == le32_to_cpu(data->len);
	case CHIMERA_PORT_CLOSE:
		return cls == VIRTIO_FABRIC_CLASS_BULK &&
		       rx->len == sizeof(*data);
	case CHIMERA_PORT_CREDIT:
	case CHIMERA_PORT_RESET:
		return cls == VIRTIO_FABRIC_CLASS_ACK &&
		       rx->len == sizeof(struct chimera_port_credit);
	default:
		return false;
	}
}

static bool port_rx(struct chimera_rx *rx)
{
	const struct chimera_port_data *data = rx->body;
	const struct chimera_port_credit *credit = rx->body;

	if (!port_rx_valid(rx)) {
		chimera_drop(rx->node, "malformed message for a port");
		return true;
	}
	switch (rx->hdr->type) {
	case CHIMERA_PORT_OPEN:
		return false;
	case CHIMERA_PORT_DATA:
		port_deliver(rx->node, le32_to_cpu(data->handle),
			     &(struct kvec) { (void *)(data + 1),
					      le32_to_cpu(data->len) });
		break;
	case CHIMERA_PORT_CLOSE:
		port_end(rx->node, le32_to_cpu(data->handle));
		break;
	case CHIMERA_PORT_CREDIT:
		port_credit(rx->node, le32_to_cpu(credit->handle),
			    le32_to_cpu(credit->bytes));
		break;
	case CHIMERA_PORT_RESET:
		port_reset(rx->node, le32_to_cpu(credit->handle));
		break;
	}
	return true;
}

static void port_work(struct chimera_rx *rx)
{
	struct chimera_port_opened opened;
	const struct kvec vec = { &opened, sizeof(opened) };

	chimera_reply(rx, port_accept(rx->node, rx->body, &opened), &vec, 1, 0);
}

static void port_node_down(struct chimera_node *node)
{
	struct port_out *out;
	struct port_in *in;
	unsigned long i;

	rcu_read_lock();
	xa_for_each(&outs, i, out) {
		if (out->node != node)
			continue;
		spin_lock_irq(&out->ep->lock);
		out_fail(out, -EHOSTDOWN);
		spin_unlock_irq(&out->ep->lock);
	}
	xa_for_each(&ins, i, in) {
		if (in->node != node || !kref_get_unless_zero(&in->ref))
			continue;
		spin_lock_irq(&in->ep->lock);
		if (!in->dead && !in->ended)
			in->ep->lost = true;
		wake_up_all(&in->ep->wait);
		spin_unlock_irq(&in->ep->lock);
		in_end(in);
		in_put(in);
	}
	rcu_read_unlock();
}

const struct chimera_service chimera_port_service = {
	.name = "port",
	.classes = BIT(VIRTIO_FABRIC_CLASS_REQUEST) |
		   BIT(VIRTIO_FABRIC_CLASS_BULK) |
		   BIT(VIRTIO_FABRIC_CLASS_ACK),
	.atomic = port_rx,
	.work = port_work,
	.node_down = port_node_down,
};
