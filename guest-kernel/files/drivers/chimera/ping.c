// SPDX-License-Identifier: GPL-2.0-or-later
/* Round trips, measured. */
#define pr_fmt(fmt) "chimera: " fmt

#include <linux/ktime.h>
#include <linux/mutex.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "internal.h"

/* Doorbells carry no cookie: one round trip at a time. */
static DEFINE_MUTEX(bell_lock);
static DECLARE_WAIT_QUEUE_HEAD(bell_wait);
static atomic64_t bell_pongs;		/* from bell_node */
static struct chimera_node *bell_node;

static int ping_kernel(struct chimera_node *node, void *buf, u32 bytes,
		       u64 *ret_ns)
{
	u64 start = ktime_get_ns();
	int ret;

	ret = chimera_call(node, CHIMERA_SERVICE_PING, CHIMERA_PING_REQUEST,
			   buf, bytes, buf, bytes, CHIMERA_KILLABLE,
			   CHIMERA_PING_TIMEOUT);
	*ret_ns = ktime_get_ns() - start;
	if (ret < 0)
		return ret;
	return ret == bytes ? 0 : -EPROTO;
}

static int ping_doorbell(struct chimera_node *node, u64 *ret_ns)
{
	u64 start, before;
	long ret;

	if (mutex_lock_killable(&bell_lock))
		return -EINTR;
	WRITE_ONCE(bell_node, node);
	before = atomic64_read(&bell_pongs);
	start = ktime_get_ns();
	fabric_doorbell(node, CHIMERA_BELL_PING);
	ret = wait_event_killable_timeout(bell_wait,
					  atomic64_read(&bell_pongs) != before ||
					  !chimera_node_linked(node),
					  CHIMERA_PING_TIMEOUT);
	*ret_ns = ktime_get_ns() - start;
	if (ret > 0)
		ret = atomic64_read(&bell_pongs) != before ? 0 : -EHOSTDOWN;
	else
		ret = ret ? -EINTR : -ETIMEDOUT;
	WRITE_ONCE(bell_node, NULL);
	mutex_unlock(&bell_lock);
	return ret;
}

static void ping_bell(struct chimera_node *node, u64 bits)
{
	if (bits & CHIMERA_BELL_PING)
		fabric_doorbell(node, CHIMERA_BELL_PONG);
	if ((bits & CHIMERA_BELL_PONG) && READ_ONCE(bell_node) == node) {
		atomic64_inc(&bell_pongs);
		chimera_wake_all(&bell_wait);
	}
}

static void ping_node_down(struct chimera_node *node)
{
	wake_up_all(&bell_wait);
}

/* Answered right here if there is room for the answer. */
static bool ping_rx(struct chimera_rx *rx)
{
	const struct kvec vec = { (void *)rx->body, rx->len };

	if (rx->hdr->type != CHIMERA_PING_REQUEST) {
		chimera_drop(rx->node, "unknown ping");
		return true;
	}
	return chimera_reply(rx, 0, &vec, 1, CHIMERA_NOWAIT) != -EAGAIN;
}

static void ping_work(struct chimera_rx *rx)
{
	const struct kvec vec = { (void *)rx->body, rx->len };

	chimera_reply(rx, 0, &vec, 1, 0);
}

const struct chimera_service chimera_ping_service = {
	.name = "ping",
	.classes = BIT(VIRTIO_FABRIC_CLASS_REQUEST),
	.atomic = ping_rx,
	.work = ping_work,
	.node_down = ping_node_down,
	.doorbell_mask = CHIMERA_BELL_PING | CHIMERA_BELL_PONG,
	.doorbell = ping_bell,
};

int chimera_ping(struct chimera_ping __user *arg)
{
	struct chimera_ping ping;
	struct chimera_node *node;
	void *buf = NULL;
	u64 ns = 0;
	u32 done;
	int err = 0;

	if (copy_from_user(&ping, arg, sizeof(ping)))
		return -EFAULT;
	node = chimera_node(ping.node);
	if (!node || !ping.count || ping.count > 1000000 ||
	    ping.kind > CHIMERA_PING_DOORBELL ||
	    ping.bytes > CHIMERA_MSG_BYTES ||
	    (ping.bytes && ping.kind != CHIMERA_PING_KERNEL))
		return -EINVAL;
	if (ping.kind == CHIMERA_PING_ECHO) {
		if (!fabric_has_echo())
			return -EOPNOTSUPP;
	} else if (chimera_is_self(node)) {
		return -EINVAL;
	} else if (!chimera_node_greeted(node)) {
		return -EHOSTDOWN;
	}
	if (ping.bytes) {
		buf = kzalloc(ping.bytes, GFP_KERNEL);
		if (!buf)
			return -ENOMEM;
	}
	for (done = 0; done < ping.count && !err; done++) {
		if (fatal_signal_pending(current))
			err = -EINTR;
		else if (ping.kind == CHIMERA_PING_KERNEL)
			err = ping_kernel(node, buf, ping.bytes, &ns);
		else if (ping.kind == CHIMERA_PING_ECHO)
			err = fabric_echo(&ns);
		else
			err = ping_doorbell(node, &ns);
		if (err)
			break;
		if (put_user(ns, (u64 __user *)u64_to_user_ptr(ping.samples) +
			     done))
			err = -EFAULT;
		cond_resched();
	}
	if (put_user(done, &arg->done))
		err = -EFAULT;
	kfree(buf);
	return err;
}
