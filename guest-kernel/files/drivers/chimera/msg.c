// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Messages between kernels: dispatch to services, calls and their answers.
 *
 * Bounded by construction: a node has at most CHIMERA_CALLS_MAX calls under
 * way at one peer, and a call that nobody waits for any more keeps its slot
 * until the answer comes or the node is gone. So a peer that keeps the rules
 * never has more than that many requests waiting here, and the receive buffers
 * for them are set aside. Whoever breaks the rules loses messages.
 */
#define pr_fmt(fmt) "chimera: " fmt

#include <linux/sched/signal.h>

#include "internal.h"

const struct chimera_service *const chimera_services[CHIMERA_NR_SERVICES] = {
	[CHIMERA_SERVICE_NODE]	= &chimera_node_service,
	[CHIMERA_SERVICE_PING]	= &chimera_ping_service,
	[CHIMERA_SERVICE_PROC]	= &chimera_proc_service,
	[CHIMERA_SERVICE_SEG]	= &chimera_seg_service,
	[CHIMERA_SERVICE_PORT]	= &chimera_port_service,
	[CHIMERA_SERVICE_FUSED]	= &chimera_fused_service,
};

/* chimera_drop() - count and tell of something unusable from @node. */
void chimera_drop(struct chimera_node *node, const char *why)
{
	atomic64_inc(&node->dropped);
	pr_warn_ratelimited("node %u: %s\n", node->index, why);
}

/* ---- calls ------------------------------------------------------------- */

/* A cookie is the slot's index below a count that never repeats. */
static bool call_slot_take(struct chimera_node *node,
			   struct chimera_call *call)
{
	unsigned long flags;
	bool taken = false;

	spin_lock_irqsave(&node->lock, flags);
	for (unsigned int i = 0; i < CHIMERA_CALLS_MAX; i++) {
		struct chimera_call_slot *slot = &node->slot[i];

		if (slot->cookie)
			continue;
		slot->cookie = ++node->next_cookie * CHIMERA_CALLS_MAX + i;
		slot->call = call;
		call->cookie = slot->cookie;
		taken = true;
		break;
	}
	spin_unlock_irqrestore(&node->lock, flags);
	return taken;
}

static struct chimera_call_slot *call_slot(struct chimera_node *node,
					   u64 cookie)
{
	struct chimera_call_slot *slot = &node->slot[cookie %
						     CHIMERA_CALLS_MAX];

	lockdep_assert_held(&node->lock);
	return cookie && slot->cookie == cookie ? slot : NULL;
}

/* Free the slot whose request was never sent. */
static void call_slot_free(struct chimera_call *call)
{
	struct chimera_node *node = call->node;
	struct chimera_call_slot *slot;
	unsigned long flags;

	spin_lock_irqsave(&node->lock, flags);
	slot = call_slot(node, call->cookie);
	if (slot) {
		slot->cookie = 0;
		slot->call = NULL;
	}
	spin_unlock_irqrestore(&node->lock, flags);
	wake_up(&node->slot_wait);
}

/*
 * What chimera_call_start() waits for: a slot, or that there will be none. A
 * node that is lost never comes back, and chimera_msg_node_down() wakes us.
 */
static bool call_may_go(struct chimera_node *node, struct chimera_call *call,
			bool *taken)
{
	*taken = chimera_node_greeted(node) && call_slot_take(node, call);
	return *taken || !chimera_node_greeted(node);
}

int chimera_call_start(struct chimera_call *call, struct chimera_node *node,
		       u8 service, u8 type, const struct kvec *vec,
		       unsigned int nr_vecs, void *reply, u32 room,
		       unsigned int how, long timeout)
{
	struct chimera_hdr hdr = { .service = service, .type = type };
	bool taken = false;
	long left;
	int err;

	call->node = node;
	call->reply = reply;
	call->room = room;
	call->result = -EHOSTDOWN;
	init_completion(&call->done);

	if (how & CHIMERA_KILLABLE)
		left = wait_event_killable_timeout(node->slot_wait,
						   call_may_go(node, call,
							       &taken),
						   timeout);
	else
		left = wait_event_timeout(node->slot_wait,
					  call_may_go(node, call, &taken),
					  timeout);
	if (!taken)
		return left < 0 ? -EINTR : left == 0 ? -ETIMEDOUT : -EHOSTDOWN;

	hdr.cookie = cpu_to_le64(call->cookie);
	err = fabric_send(node, VIRTIO_FABRIC_CLASS_REQUEST, &hdr, vec, nr_vecs,
			  how, max(left, 1L));
	if (err)
		call_slot_free(call);
	return err;
}

int chimera_call_finish(struct chimera_call *call, unsigned int how,
			long timeout)
{
	struct chimera_node *node = call->node;
	struct chimera_call_slot *slot;
	unsigned long flags;
	long left;

	if (how & CHIMERA_KILLABLE)
		left = wait_for_completion_killable_timeout(&call->done,
							    timeout);
	else
		left = wait_for_completion_timeout(&call->done, timeout);
	if (left > 0)
		return call->result;

	/* Either the answer has just come, or it will find nobody waiting. */
	spin_lock_irqsave(&node->lock, flags);
	slot = call_slot(node, call->cookie);
	if (slot) {
		slot->call = NULL;
		call->result = left < 0 ? -EINTR : -ETIMEDOUT;
	}
	spin_unlock_irqrestore(&node->lock, flags);
	return call->result;
}

int chimera_call(struct chimera_node *node, u8 service, u8 type,
		 const void *body, u32 len, void *reply, u32 room,
		 unsigned int how, long timeout)
{
	const struct kvec vec = { (void *)body, len };
	struct chimera_call call;
	int err;

	err = chimera_call_start(&call, node, service, type, &vec, 1, reply,
				 room, how, timeout);
	return err ?: chimera_call_finish(&call, how, timeout);
}

static void chimera_reply_rx(struct chimera_rx *rx)
{
	struct chimera_node *node = rx->node;
	u32 status = le32_to_cpu(rx->hdr->status);
	struct chimera_call_slot *slot;
	struct chimera_call *call;
	unsigned long flags;

	spin_lock_irqsave(&node->lock, flags);
	slot = call_slot(node, le64_to_cpu(rx->hdr->cookie));
	if (!slot) {
		spin_unlock_irqrestore(&node->lock, flags);
		chimera_drop(node, "answer to nothing");
		return;
	}
	call = slot->call;
	slot->call = NULL;
	slot->cookie = 0;
	if (call) {
		if (status > MAX_ERRNO || rx->len > call->room) {
			call->result = -EPROTO;
		} else if (status) {
			call->result = -(int)status;
		} else {
			memcpy(call->reply, rx->body, rx->len);
			call->result = rx->len;
		}
		/* under the lock: the caller may return as soon as it is not */
		chimera_wake_call(&call->done);
	}
	spin_unlock_irqrestore(&node->lock, flags);
	wake_up(&node->slot_wait);
}

/* ---- sending ----------------------------------------------------------- */

int chimera_reply(const struct chimera_rx *rx, int status,
		  const struct kvec *vec, unsigned int nr_vecs,
		  unsigned int how)
{
	const struct chimera_hdr hdr = {
		.service = rx->hdr->service,
		.type = rx->hdr->type,
		.flags = CHIMERA_HDR_REPLY,
		.status = cpu_to_le32(-status),
		.cookie = rx->hdr->cookie,
	};
	int err;

	if (!hdr.cookie)
		return 0;
	do {
		err = fabric_send(rx->node, VIRTIO_FABRIC_CLASS_REPLY, &hdr,
				  vec, status ? 0 : nr_vecs, how,
				  CHIMERA_CALL_TIMEOUT);
		if (err == -ETIMEDOUT)
			pr_warn_ratelimited("node %u takes no answers\n",
					    rx->node->index);
	} while (err == -ETIMEDOUT);
	return err;
}

int chimera_post(struct chimera_node *node, u8 cls, u8 service, u8 type,
		 const struct kvec *vec, unsigned int nr_vecs,
		 unsigned int how, long timeout)
{
	const struct chimera_hdr hdr = { .service = service, .type = type };

	return fabric_send(node, cls, &hdr, vec, nr_vecs, how, timeout);
}

/* ---- receiving --------------------------------------------------------- */

static bool chimera_defer(struct chimera_rx *rx)
{
	const unsigned int limit =
		rx->cls == VIRTIO_FABRIC_CLASS_REQUEST ||
		rx->cls == VIRTIO_FABRIC_CLASS_REPLY ?
		CHIMERA_DEFER_CALLS : CHIMERA_DEFER_OTHER;
	struct chimera_rxq *rxq = &rx->node->rxq[rx->cls];
	unsigned long flags;
	bool keep = false;

	/* dev_state under the lock: pairs with chimera_node_event() */
	spin_lock_irqsave(&rx->node->lock, flags);
	if (rxq->nr < limit && chimera_node_linked(rx->node)) {
		rxq->nr++;
		list_add_tail(&rx->link, &rxq->list);
		queue_work(chimera_wq, &rxq->work);
		keep = true;
	}
	spin_unlock_irqrestore(&rx->node->lock, flags);
	if (!keep)
		chimera_drop(rx->node, "more messages than agreed");
	return keep;
}

static void chimera_rxq_work(struct work_struct *work)
{
	struct chimera_rxq *rxq = container_of(work, struct chimera_rxq, work);
	struct chimera_node *node = rxq->node;
	struct chimera_rx *rx;

	for (;;) {
		spin_lock_irq(&node->lock);
		rx = list_first_entry_or_null(&rxq->list, struct chimera_rx,
					      link);
		if (rx)
			list_del(&rx->link);
		spin_unlock_irq(&node->lock);
		if (!rx)
			return;
		chimera_services[rx->hdr->service]->work(rx);
		fabric_rx_return(rx);
		spin_lock_irq(&node->lock);
		rxq->nr--;
		spin_unlock_irq(&node->lock);
	}
}

/**
 * chimera_msg_rx() - take one message that the device wrote.
 * @rx:  the buffer.
 * @len: bytes written, as the device says.
 *
 * Context: interrupts off. Return: true if the buffer is kept; then
 * fabric_rx_return() follows.
 */
bool chimera_msg_rx(struct chimera_rx *rx, u32 len)
{
	const struct chimera_service *svc;
	const struct chimera_hdr *hdr;
	struct chimera_node *node;
	u32 payload;

	if (len < sizeof(*rx->buf)) {
		pr_warn_ratelimited("short message (%u bytes)\n", len);
		return false;
	}
	node = chimera_node(le16_to_cpu(rx->buf->node));
	if (!node || chimera_is_self(node)) {
		pr_warn_ratelimited("message from node %u, which does not exist\n",
				    le16_to_cpu(rx->buf->node));
		return false;
	}
	payload = le32_to_cpu(rx->buf->len);
	hdr = (const struct chimera_hdr *)(rx->buf + 1);
	if (rx->buf->cls >= VIRTIO_FABRIC_NR_CLASSES || rx->buf->reserved ||
	    payload != len - sizeof(*rx->buf) ||
	    payload > VIRTIO_FABRIC_MAX_PAYLOAD || payload < sizeof(*hdr) ||
	    hdr->service >= CHIMERA_NR_SERVICES || hdr->reserved ||
	    (hdr->flags & ~CHIMERA_HDR_REPLY)) {
		chimera_drop(node, "malformed message");
		return false;
	}
	atomic64_inc(&node->received);
	rx->node = node;
	rx->cls = rx->buf->cls;
	rx->hdr = hdr;
	rx->body = hdr + 1;
	rx->len = payload - sizeof(*hdr);

	/* the event and the message come by different interrupts */
	if (READ_ONCE(node->dev_state) == VIRTIO_FABRIC_ABSENT)
		chimera_node_event(node, VIRTIO_FABRIC_UP);
	if (!chimera_node_linked(node))
		return false;
	if (!READ_ONCE(node->greeted) &&
	    hdr->service != CHIMERA_SERVICE_NODE) {
		chimera_drop(node, "message before HELLO");
		return false;
	}
	svc = chimera_services[hdr->service];
	if (hdr->flags & CHIMERA_HDR_REPLY ?
	    rx->cls != VIRTIO_FABRIC_CLASS_REPLY :
	    !(svc->classes & BIT(rx->cls))) {
		chimera_drop(node, "message of the wrong class");
		return false;
	}
	if (hdr->flags & CHIMERA_HDR_REPLY) {
		chimera_reply_rx(rx);
		return false;
	}
	if (svc->atomic && svc->atomic(rx))
		return false;
	if (!svc->work) {
		chimera_drop(node, "unexpected message");
		return false;
	}
	return chimera_defer(rx);
}

/* ---- nodes ------------------------------------------------------------- */

void chimera_msg_node_init(struct chimera_node *node)
{
	init_waitqueue_head(&node->slot_wait);
	for (int i = 0; i < VIRTIO_FABRIC_NR_CLASSES; i++) {
		node->rxq[i].node = node;
		INIT_LIST_HEAD(&node->rxq[i].list);
		INIT_WORK(&node->rxq[i].work, chimera_rxq_work);
	}
}

/**
 * chimera_msg_node_down() - no answer will come any more.
 * @node: a node that is not linked any more.
 *
 * Context: any; the node is not linked any more, so no new call gets a slot
 * and keeps it: fabric_send() refuses.
 */
void chimera_msg_node_down(struct chimera_node *node)
{
	unsigned long flags;

	spin_lock_irqsave(&node->lock, flags);
	for (int i = 0; i < CHIMERA_CALLS_MAX; i++) {
		struct chimera_call_slot *slot = &node->slot[i];

		if (slot->call) {
			slot->call->result = -EHOSTDOWN;
			complete(&slot->call->done);
		}
		slot->call = NULL;
		slot->cookie = 0;
	}
	spin_unlock_irqrestore(&node->lock, flags);
	wake_up_all(&node->slot_wait);
	fabric_wake_senders();
}

/* chimera_msg_flush() - wait until no message of a lost node is handled. */
void chimera_msg_flush(struct chimera_node *node)
{
	for (int i = 0; i < VIRTIO_FABRIC_NR_CLASSES; i++)
		flush_work(&node->rxq[i].work);
}
