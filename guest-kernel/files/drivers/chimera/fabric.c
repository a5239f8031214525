// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The virtio-fabric device: buffers, queues and interrupts.
 *
 * tx: a fixed set of buffers, split into one pool per message class and one
 * for control, so that no class can take another's room and sending never
 * allocates. Within a pool each peer has its share. Interrupts of the tx queue
 * are off unless somebody waits for room: sent buffers are collected by the
 * next send.
 *
 * rx: every buffer of the ring may be kept for later by msg.c, up to a fixed
 * number per peer and class, and for each of those there is a spare, so the
 * ring is always full again when the interrupt returns.
 *
 * Lost wake-ups (tx): a waiter sets the used event by virtqueue_enable_cb(),
 * which has a full barrier and then looks again for used buffers; the device
 * publishes a used buffer, has a full barrier and looks at the used event. One
 * of them sees the other. There is no callback if a sender has collected all
 * used buffers before the interrupt came, so whoever collects some wakes all
 * waiters; each takes what it needs or enables the callback again. The same
 * pairing ends fabric_rx_poll().
 */
#define pr_fmt(fmt) "chimera: " fmt

#include <linux/ctype.h>
#include <linux/init.h>
#include <linux/interrupt.h>
#include <linux/ktime.h>
#include <linux/module.h>
#include <linux/random.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

#include "internal.h"

/* Of a tx ring's size in descriptors; each buffer takes two. */
#define TX_MIN_RING	32
#define TX_MAX_BUFS	512
#define RX_MIN_RING	16
#define RX_MAX_RING	256
#define EVENT_MAX	64

/* A multiple of the cache line: tx and rx never share one. */
#define BUF_BYTES	ALIGN(VIRTIO_FABRIC_RX_BYTES, 64)

/* Messages handled in one interrupt before the rest is left to a softirq. */
#define RX_BUDGET	128

struct fabric_tx {
	struct list_head link;
	struct chimera_node *node;
	u8 pool;
	struct virtio_fabric_tx_status status;
	struct virtio_fabric_hdr *buf;
};

struct fabric_pool {
	struct list_head free;
	unsigned int quota;	/* of each peer */
	wait_queue_head_t wait;
};

struct fabric {
	struct virtio_device *vdev;
	struct virtqueue *tx_vq, *rx_vq, *event_vq, *echo_vq;
	bool broken;		/* no queue may be touched any more */
	struct work_struct broken_work;

	spinlock_t tx_lock;	/* tx_vq, pools, inflight, bells, ring_due */
	bool ring_due;		/* doorbells wait for room */
	struct work_struct ring_work;
	struct fabric_pool pool[FABRIC_NR_POOLS];
	struct fabric_tx *tx;

	spinlock_t rx_lock;	/* rx_vq, spares */
	struct list_head spare;
	struct chimera_rx *rx;
	struct work_struct rx_work;

	spinlock_t event_lock;	/* event_vq */
	struct virtio_fabric_event *events;
	struct virtio_fabric_event **event_used;	/* handled, to be given back */
	unsigned int nr_events, nr_event_used;

	struct mutex echo_mutex;	/* one round trip at a time */
	spinlock_t echo_lock;	/* echo_vq and the counts */
	u64 echo_sent, echo_done;
	wait_queue_head_t echo_wait;
	u32 *echo_buf;
};

struct chimera_machine *chimera;
struct workqueue_struct *chimera_wq, *chimera_call_wq;

/* ---- tx ---------------------------------------------------------------- */

/* Collect what was sent, and tell who waits for that. */
static void fabric_reap(struct fabric *fab)
{
	struct fabric_tx *tx;
	unsigned int len;
	bool any = false;

	lockdep_assert_held(&fab->tx_lock);
	while ((tx = virtqueue_get_buf(fab->tx_vq, &len))) {
		if (len < sizeof(tx->status) ||
		    (tx->status.status != cpu_to_le32(VIRTIO_FABRIC_TX_OK) &&
		     tx->status.status !=
		     cpu_to_le32(VIRTIO_FABRIC_TX_NODE_DOWN)))
			chimera_drop(tx->node, "sending failed");
		tx->node->tx_inflight[tx->pool]--;
		list_add(&tx->link, &fab->pool[tx->pool].free);
		any = true;
	}
	if (!any)
		return;
	for (int i = 0; i < FABRIC_NR_POOLS; i++)
		/* who is not in the queue yet looks later, under tx_lock */
		if (waitqueue_active(&fab->pool[i].wait))
			wake_up_all(&fab->pool[i].wait);
	if (fab->ring_due)
		queue_work(system_bh_wq, &fab->ring_work);
}

static struct fabric_tx *fabric_take(struct fabric *fab,
				     struct chimera_node *node, u8 pool)
{
	struct fabric_tx *tx;

	lockdep_assert_held(&fab->tx_lock);
	if (fab->broken ||
	    (pool != FABRIC_POOL_CONTROL && !chimera_node_linked(node)))
		return ERR_PTR(-EHOSTDOWN);
	fabric_reap(fab);
	tx = list_first_entry_or_null(&fab->pool[pool].free, struct fabric_tx,
				      link);
	if (!tx)
		return ERR_PTR(-EAGAIN);
	if (pool != FABRIC_POOL_CONTROL) {
		if (node->tx_inflight[pool] >= fab->pool[pool].quota)
			return ERR_PTR(-EAGAIN);
	}
	list_del(&tx->link);
	node->tx_inflight[pool]++;
	tx->node = node;
	return tx;
}

/* As fabric_take(), but on -EAGAIN the interrupt will come. */
static struct fabric_tx *fabric_take_or_arm(struct fabric *fab,
					    struct chimera_node *node, u8 pool)
{
	struct fabric_tx *tx;

	do {
		tx = fabric_take(fab, node, pool);
	} while (tx == ERR_PTR(-EAGAIN) && !virtqueue_enable_cb(fab->tx_vq));
	return tx;
}

/* What fabric_get() waits for: a buffer, or an error. */
static bool fabric_got(struct fabric *fab, struct chimera_node *node, u8 pool,
		       struct fabric_tx **tx)
{
	unsigned long flags;

	spin_lock_irqsave(&fab->tx_lock, flags);
	*tx = fabric_take_or_arm(fab, node, pool);
	spin_unlock_irqrestore(&fab->tx_lock, flags);
	return *tx != ERR_PTR(-EAGAIN);
}

static struct fabric_tx *fabric_get(struct fabric *fab,
				    struct chimera_node *node, u8 pool,
				    unsigned int how, long timeout)
{
	wait_queue_head_t *wait = &fab->pool[pool].wait;
	struct fabric_tx *tx;
	unsigned long flags;
	long ret;

	spin_lock_irqsave(&fab->tx_lock, flags);
	tx = fabric_take(fab, node, pool);
	spin_unlock_irqrestore(&fab->tx_lock, flags);
	if (tx != ERR_PTR(-EAGAIN) || (how & CHIMERA_NOWAIT))
		return tx;

	if (how & CHIMERA_KILLABLE)
		ret = wait_event_killable_timeout(*wait,
						  fabric_got(fab, node, pool,
							     &tx), timeout);
	else
		ret = wait_event_timeout(*wait,
					 fabric_got(fab, node, pool, &tx),
					 timeout);
	if (tx != ERR_PTR(-EAGAIN))
		return tx;
	return ERR_PTR(ret < 0 ? -EINTR : -ETIMEDOUT);
}

static void fabric_put(struct fabric *fab, struct fabric_tx *tx)
{
	lockdep_assert_held(&fab->tx_lock);
	tx->node->tx_inflight[tx->pool]--;
	list_add(&tx->link, &fab->pool[tx->pool].free);
}

/* Queue a filled buffer; the caller notifies the device if *kick. */
static int fabric_queue(struct fabric *fab, struct fabric_tx *tx, u8 cls,
			u32 len, bool *kick)
{
	struct scatterlist out, in, *sgs[] = { &out, &in };
	int err;

	lockdep_assert_held(&fab->tx_lock);
	tx->buf->node = cpu_to_le16(tx->node->index);
	tx->buf->cls = cls;
	tx->buf->reserved = 0;
	tx->buf->len = cpu_to_le32(len);
	tx->status.status = cpu_to_le32(~0u);
	sg_init_one(&out, tx->buf, sizeof(*tx->buf) + len);
	sg_init_one(&in, &tx->status, sizeof(tx->status));

	err = fab->broken ? -EIO :
	      virtqueue_add_sgs(fab->tx_vq, sgs, 1, 1, tx, GFP_ATOMIC);
	if (err) {
		/* Only a broken device has no room for a buffer we own. */
		fabric_put(fab, tx);
		schedule_work(&fab->broken_work);
		return -EHOSTDOWN;
	}
	*kick |= virtqueue_kick_prepare(fab->tx_vq);
	return 0;
}

static int fabric_submit(struct fabric *fab, struct fabric_tx *tx, u8 cls,
			 u32 len)
{
	unsigned long flags;
	bool kick = false;
	int err;

	guard(rcu)();		/* fabric_remove() waits for the notification */
	spin_lock_irqsave(&fab->tx_lock, flags);
	err = fabric_queue(fab, tx, cls, len, &kick);
	spin_unlock_irqrestore(&fab->tx_lock, flags);
	if (kick)
		virtqueue_notify(fab->tx_vq);
	return err;
}

/* Send the doorbells that are due, as far as there is room. */
static void fabric_ring(struct fabric *fab, bool *kick)
{
	struct chimera_node *node;
	struct fabric_tx *tx;
	__le64 bits;

	lockdep_assert_held(&fab->tx_lock);
	fab->ring_due = false;
	for_each_peer(node) {
		if (!node->bells)
			continue;
		if (!chimera_node_linked(node)) {
			node->bells = 0;
			continue;
		}
		tx = fabric_take_or_arm(fab, node, FABRIC_POOL_CONTROL);
		if (IS_ERR(tx)) {
			fab->ring_due = tx == ERR_PTR(-EAGAIN);
			return;
		}
		bits = cpu_to_le64(node->bells);
		node->bells = 0;
		memcpy(tx->buf + 1, &bits, sizeof(bits));
		fabric_queue(fab, tx, VIRTIO_FABRIC_CLASS_DOORBELL,
			     sizeof(bits), kick);
	}
}

void fabric_doorbell(struct chimera_node *node, u64 bits)
{
	struct fabric *fab = chimera->fabric;
	unsigned long flags;
	bool kick = false;

	guard(rcu)();
	spin_lock_irqsave(&fab->tx_lock, flags);
	node->bells |= bits;
	fabric_ring(fab, &kick);
	spin_unlock_irqrestore(&fab->tx_lock, flags);
	if (kick)
		virtqueue_notify(fab->tx_vq);
}

static void fabric_ring_work(struct work_struct *work)
{
	struct fabric *fab = container_of(work, struct fabric, ring_work);
	unsigned long flags;
	bool kick = false;

	spin_lock_irqsave(&fab->tx_lock, flags);
	fabric_ring(fab, &kick);
	spin_unlock_irqrestore(&fab->tx_lock, flags);
	if (kick)
		virtqueue_notify(fab->tx_vq);
}

void fabric_wake_senders(void)
{
	for (int i = 0; i < FABRIC_NR_POOLS; i++)
		wake_up_all(&chimera->fabric->pool[i].wait);
}

static void fabric_tx_done(struct virtqueue *vq)
{
	struct fabric *fab = vq->vdev->priv;
	unsigned long flags;
	bool kick = false;

	spin_lock_irqsave(&fab->tx_lock, flags);
	virtqueue_disable_cb(vq);
	fabric_reap(fab);
	fabric_ring(fab, &kick);
	spin_unlock_irqrestore(&fab->tx_lock, flags);
	if (kick)
		virtqueue_notify(vq);
	/* also if there was nothing: who enabled the callback must do so again */
	fabric_wake_senders();
}

int fabric_send(struct chimera_node *node, u8 cls,
		const struct chimera_hdr *hdr, const struct kvec *vec,
		unsigned int nr_vecs, unsigned int how, long timeout)
{
	struct fabric *fab = chimera->fabric;
	size_t len = sizeof(*hdr);
	struct fabric_tx *tx;
	int err;

	for (unsigned int i = 0; i < nr_vecs; i++)
		len += vec[i].iov_len;
	if (WARN_ON_ONCE(len > VIRTIO_FABRIC_MAX_PAYLOAD))
		return -EMSGSIZE;

	tx = fabric_get(fab, node, cls, how, timeout);
	if (IS_ERR(tx))
		return PTR_ERR(tx);

	len = sizeof(*hdr);
	memcpy(tx->buf + 1, hdr, len);
	for (unsigned int i = 0; i < nr_vecs; i++) {
		memcpy((u8 *)(tx->buf + 1) + len, vec[i].iov_base,
		       vec[i].iov_len);
		len += vec[i].iov_len;
	}

	err = fabric_submit(fab, tx, cls, len);
	if (!err)
		atomic64_inc(&node->sent);
	return err;
}

int fabric_fence(struct chimera_node *node)
{
	const struct virtio_fabric_control ctl = {
		.op = cpu_to_le32(VIRTIO_FABRIC_CONTROL_FENCE),
	};
	struct fabric *fab = chimera->fabric;
	struct fabric_tx *tx;

	tx = fabric_get(fab, node, FABRIC_POOL_CONTROL, 0, CHIMERA_CALL_TIMEOUT);
	if (IS_ERR(tx))
		return PTR_ERR(tx);
	memcpy(tx->buf + 1, &ctl, sizeof(ctl));
	return fabric_submit(fab, tx, VIRTIO_FABRIC_CLASS_CONTROL, sizeof(ctl));
}

/* ---- rx ---------------------------------------------------------------- */

static void fabric_rx_add(struct fabric *fab, struct chimera_rx *rx)
{
	struct scatterlist sg;

	lockdep_assert_held(&fab->rx_lock);
	sg_init_one(&sg, rx->buf, VIRTIO_FABRIC_RX_BYTES);
	if (fab->broken ||
	    virtqueue_add_inbuf(fab->rx_vq, &sg, 1, rx, GFP_ATOMIC))
		list_add(&rx->link, &fab->spare);
}

void fabric_rx_return(struct chimera_rx *rx)
{
	struct fabric *fab = chimera->fabric;
	unsigned long flags;

	spin_lock_irqsave(&fab->rx_lock, flags);
	list_add(&rx->link, &fab->spare);
	spin_unlock_irqrestore(&fab->rx_lock, flags);
}

/* Return: whether there may be more. */
static bool fabric_rx_poll(struct fabric *fab)
{
	struct virtqueue *vq = fab->rx_vq;
	unsigned int budget = RX_BUDGET, len;
	struct chimera_rx *rx, *next;
	unsigned long flags;
	bool kick;

	spin_lock_irqsave(&fab->rx_lock, flags);
	if (fab->broken) {
		spin_unlock_irqrestore(&fab->rx_lock, flags);
		return false;
	}
	do {
		virtqueue_disable_cb(vq);
		while (budget && (rx = virtqueue_get_buf(vq, &len))) {
			budget--;
			next = list_first_entry_or_null(&fab->spare,
							struct chimera_rx,
							link);
			if (chimera_msg_rx(rx, len)) {
				/* kept: there is one spare per message kept */
				if (WARN_ON_ONCE(!next))
					continue;
				list_del(&next->link);
				rx = next;
			}
			fabric_rx_add(fab, rx);
		}
		if (!budget) {
			queue_work(system_bh_wq, &fab->rx_work);
			break;
		}
	} while (!virtqueue_enable_cb(vq));
	kick = virtqueue_kick_prepare(vq);
	spin_unlock_irqrestore(&fab->rx_lock, flags);
	if (kick)
		virtqueue_notify(vq);
	return !budget;
}

static void fabric_rx_done(struct virtqueue *vq)
{
	fabric_rx_poll(vq->vdev->priv);
}

static void fabric_rx_work(struct work_struct *work)
{
	fabric_rx_poll(container_of(work, struct fabric, rx_work));
}

/* ---- events ------------------------------------------------------------ */

/*
 * Give buffers back, half of them at a time: each time costs a kick.
 * Return: whether to kick.
 */
static bool fabric_event_refill(struct fabric *fab)
{
	struct scatterlist sg;

	if (fab->nr_event_used < DIV_ROUND_UP(fab->nr_events, 2))
		return false;
	while (fab->nr_event_used) {
		struct virtio_fabric_event *event =
			fab->event_used[--fab->nr_event_used];

		sg_init_one(&sg, event, sizeof(*event));
		virtqueue_add_inbuf(fab->event_vq, &sg, 1, event, GFP_ATOMIC);
	}
	return virtqueue_kick_prepare(fab->event_vq);
}

static void fabric_event(struct fabric *fab, struct virtio_fabric_event *event)
{
	struct chimera_node *node = chimera_node(le16_to_cpu(event->node));
	u64 data = le64_to_cpu(event->data);

	if (!node || chimera_is_self(node)) {
		pr_warn_ratelimited("event about node %u, which does not exist\n",
				    le16_to_cpu(event->node));
		return;
	}
	switch (le16_to_cpu(event->type)) {
	case VIRTIO_FABRIC_EVENT_STATE:
		/* What the node sent before it went stands in the rx queue. */
		if (data == VIRTIO_FABRIC_DOWN)
			for (int i = 0; i < RX_MAX_RING / RX_BUDGET; i++)
				if (!fabric_rx_poll(fab))
					break;
		if (data > VIRTIO_FABRIC_FENCED)
			chimera_drop(node, "unknown state");
		else
			chimera_node_event(node, data);
		break;
	case VIRTIO_FABRIC_EVENT_DOORBELL:
		chimera_node_doorbell(node, data);
		break;
	default:
		chimera_drop(node, "unknown event");
	}
}

static void fabric_event_done(struct virtqueue *vq)
{
	struct fabric *fab = vq->vdev->priv;
	struct virtio_fabric_event *event;
	unsigned int len;
	unsigned long flags;
	bool kick;

	spin_lock_irqsave(&fab->event_lock, flags);
	if (fab->broken) {
		spin_unlock_irqrestore(&fab->event_lock, flags);
		return;
	}
	do {
		virtqueue_disable_cb(vq);
		while ((event = virtqueue_get_buf(vq, &len))) {
			if (len >= sizeof(*event))
				fabric_event(fab, event);
			else
				pr_warn_ratelimited("short event (%u bytes)\n",
						    len);
			fab->event_used[fab->nr_event_used++] = event;
		}
	} while (!virtqueue_enable_cb(vq));
	kick = fabric_event_refill(fab);
	spin_unlock_irqrestore(&fab->event_lock, flags);
	if (kick)
		virtqueue_notify(vq);
}

/* ---- echo -------------------------------------------------------------- */

static void fabric_echo_done(struct virtqueue *vq)
{
	struct fabric *fab = vq->vdev->priv;
	unsigned int len;
	unsigned long flags;

	spin_lock_irqsave(&fab->echo_lock, flags);
	if (!fab->broken) {
		do {
			virtqueue_disable_cb(vq);
			while (virtqueue_get_buf(vq, &len))
				fab->echo_done++;
		} while (!virtqueue_enable_cb(vq));
	}
	spin_unlock_irqrestore(&fab->echo_lock, flags);
	chimera_wake_all(&fab->echo_wait);
}

bool fabric_has_echo(void)
{
	return chimera->fabric->echo_vq;
}

/* fabric_echo() - one round trip over the echo queue. Killable. */
int fabric_echo(u64 *ret_ns)
{
	struct fabric *fab = chimera->fabric;
	struct scatterlist sg;
	unsigned long flags;
	bool kick = false;
	u64 start, mine;
	long ret;
	int err;

	if (mutex_lock_killable(&fab->echo_mutex))
		return -EINTR;
	start = ktime_get_ns();
	rcu_read_lock();
	spin_lock_irqsave(&fab->echo_lock, flags);
	sg_init_one(&sg, fab->echo_buf, sizeof(*fab->echo_buf));
	err = fab->broken ? -EHOSTDOWN :
	      virtqueue_add_outbuf(fab->echo_vq, &sg, 1, fab, GFP_ATOMIC);
	if (!err) {
		mine = ++fab->echo_sent;
		kick = virtqueue_kick_prepare(fab->echo_vq);
	}
	spin_unlock_irqrestore(&fab->echo_lock, flags);
	if (err) {
		rcu_read_unlock();
		/* -ENOSPC: all that were sent before are unanswered */
		err = err == -ENOSPC ? -ETIMEDOUT : -EHOSTDOWN;
		goto out;
	}
	if (kick)
		virtqueue_notify(fab->echo_vq);
	rcu_read_unlock();
	ret = wait_event_killable_timeout(fab->echo_wait,
					  READ_ONCE(fab->echo_done) >= mine ||
					  READ_ONCE(fab->broken),
					  CHIMERA_PING_TIMEOUT);
	*ret_ns = ktime_get_ns() - start;
	if (ret < 0)
		err = -EINTR;
	else if (ret == 0)
		err = -ETIMEDOUT;
	else if (READ_ONCE(fab->echo_done) < mine)
		err = -EHOSTDOWN;
out:
	mutex_unlock(&fab->echo_mutex);
	return err;
}

/* ---- life of the device ------------------------------------------------ */

/* No queue is touched after this. Return: whether it was so before. */
static bool fabric_stop(struct fabric *fab)
{
	unsigned long flags;
	bool was;

	spin_lock_irqsave(&fab->rx_lock, flags);
	spin_lock(&fab->tx_lock);
	was = fab->broken;
	WRITE_ONCE(fab->broken, true);
	spin_unlock(&fab->tx_lock);
	spin_unlock_irqrestore(&fab->rx_lock, flags);

	/* the users of the other queues look at it under their own locks */
	spin_lock_irqsave(&fab->event_lock, flags);
	spin_unlock_irqrestore(&fab->event_lock, flags);
	spin_lock_irqsave(&fab->echo_lock, flags);
	spin_unlock_irqrestore(&fab->echo_lock, flags);
	return was;
}

/* The fabric is gone: so are the peers, and whoever waits is woken. */
static void fabric_break(struct fabric *fab)
{
	if (fabric_stop(fab))
		return;
	chimera_nodes_gone();
	fabric_wake_senders();
	wake_up_all(&fab->echo_wait);
}

static void fabric_broken_work(struct work_struct *work)
{
	struct fabric *fab = container_of(work, struct fabric, broken_work);

	if (READ_ONCE(fab->broken))
		return;
	pr_err("the device is broken; this node is alone now\n");
	virtio_break_device(fab->vdev);
	fabric_break(fab);
}

static void fabric_config_changed(struct virtio_device *vdev)
{
	struct fabric *fab = vdev->priv;

	if (vdev->config->get_status(vdev) & VIRTIO_CONFIG_S_NEEDS_RESET)
		schedule_work(&fab->broken_work);
}

/*
 * Buffers of one kind; physically contiguous each. Order-3 blocks so that no
 * large contiguous area is needed. Never freed once the device works: the
 * driver stays as long as the kernel does.
 */
static void *fabric_buf_alloc(unsigned int i, void **block)
{
	const unsigned int per_block = (PAGE_SIZE << 3) / BUF_BYTES;

	if (i % per_block == 0)
		*block = alloc_pages_exact(PAGE_SIZE << 3,
					   GFP_KERNEL | __GFP_ZERO);
	return *block ? *block + (i % per_block) * BUF_BYTES : NULL;
}

static int fabric_tx_init(struct fabric *fab, unsigned int nr_peers)
{
	/* shares of the ring in sixteenths */
	static const u8 share[FABRIC_NR_POOLS] = {
		[VIRTIO_FABRIC_CLASS_REPLY]	= 5,
		[VIRTIO_FABRIC_CLASS_ACK]	= 2,
		[VIRTIO_FABRIC_CLASS_REQUEST]	= 4,
		[VIRTIO_FABRIC_CLASS_BULK]	= 4,
		[FABRIC_POOL_CONTROL]			= 1,
	};
	unsigned int total, nr, i, n = 0;
	void *block = NULL;

	if (virtqueue_get_vring_size(fab->tx_vq) < TX_MIN_RING) {
		pr_err("tx queue of %u entries is too small\n",
		       virtqueue_get_vring_size(fab->tx_vq));
		return -EINVAL;
	}
	total = min(virtqueue_get_vring_size(fab->tx_vq) / 2, TX_MAX_BUFS);
	fab->tx = kcalloc(total, sizeof(*fab->tx), GFP_KERNEL);
	if (!fab->tx)
		return -ENOMEM;
	for (int pool = 0; pool < FABRIC_NR_POOLS; pool++) {
		INIT_LIST_HEAD(&fab->pool[pool].free);
		init_waitqueue_head(&fab->pool[pool].wait);
		nr = total * share[pool] / 16;
		fab->pool[pool].quota = max(nr / max(nr_peers, 1u), 1u);
		for (i = 0; i < nr; i++, n++) {
			struct fabric_tx *tx = &fab->tx[n];

			tx->pool = pool;
			tx->buf = fabric_buf_alloc(n, &block);
			if (!tx->buf)
				return -ENOMEM;
			list_add(&tx->link, &fab->pool[pool].free);
		}
	}
	return 0;
}

static int fabric_rx_init(struct fabric *fab, unsigned int nr_peers)
{
	unsigned int ring = virtqueue_get_vring_size(fab->rx_vq);
	unsigned int total;
	void *block = NULL;

	if (ring < RX_MIN_RING) {
		pr_err("rx queue of %u entries is too small\n", ring);
		return -EINVAL;
	}
	ring = min(ring, RX_MAX_RING);
	total = ring + nr_peers * 2 * (CHIMERA_DEFER_CALLS +
				       CHIMERA_DEFER_OTHER);
	fab->rx = kvcalloc(total, sizeof(*fab->rx), GFP_KERNEL);
	if (!fab->rx)
		return -ENOMEM;
	for (unsigned int i = 0; i < total; i++) {
		fab->rx[i].buf = fabric_buf_alloc(i, &block);
		if (!fab->rx[i].buf)
			return -ENOMEM;
		list_add(&fab->rx[i].link, &fab->spare);
	}
	for (unsigned int i = 0; i < ring; i++) {
		struct chimera_rx *rx = list_first_entry(&fab->spare,
							 struct chimera_rx,
							 link);

		list_del(&rx->link);
		spin_lock_irq(&fab->rx_lock);
		fabric_rx_add(fab, rx);
		spin_unlock_irq(&fab->rx_lock);
	}
	return 0;
}

static int fabric_event_init(struct fabric *fab)
{
	fab->nr_events = min(virtqueue_get_vring_size(fab->event_vq),
			     EVENT_MAX);
	fab->events = kcalloc(fab->nr_events, sizeof(*fab->events), GFP_KERNEL);
	fab->event_used = kcalloc(fab->nr_events, sizeof(*fab->event_used),
				  GFP_KERNEL);
	if (!fab->events || !fab->event_used)
		return -ENOMEM;
	while (fab->nr_event_used < fab->nr_events) {
		fab->event_used[fab->nr_event_used] =
			&fab->events[fab->nr_event_used];
		fab->nr_event_used++;
	}
	fabric_event_refill(fab);
	return 0;
}

static int fabric_read_extents(struct virtio_device *vdev,
			       struct chimera_machine *m, u64 ram_bytes)
{
	u64 sum = 0;

	for (int i = 0; i < m->nr_extents; i++) {
		struct chimera_extent *e = &m->extent[i];
		unsigned int at = offsetof(struct virtio_fabric_config, extent) +
				  i * sizeof(struct virtio_fabric_extent);

		e->gpa = virtio_cread64(vdev, at +
			offsetof(struct virtio_fabric_extent, gpa));
		e->offset = virtio_cread64(vdev, at +
			offsetof(struct virtio_fabric_extent, offset));
		e->len = virtio_cread64(vdev, at +
			offsetof(struct virtio_fabric_extent, len));
		if (!PAGE_ALIGNED(e->gpa | e->offset | e->len) || !e->len ||
		    e->gpa + e->len < e->gpa || e->offset > ram_bytes ||
		    e->len > ram_bytes - e->offset)
			return -EINVAL;
		sum += e->len;
	}
	return sum == ram_bytes ? 0 : -EINVAL;
}

static int fabric_read_node(struct virtio_device *vdev,
			    struct chimera_node *node)
{
	unsigned int at = offsetof(struct virtio_fabric_config, node) +
			  node->index * sizeof(struct virtio_fabric_node);

	node->elf_machine = virtio_cread16(vdev, at +
		offsetof(struct virtio_fabric_node, elf_machine));
	node->cpus = virtio_cread32(vdev, at +
		offsetof(struct virtio_fabric_node, cpus));
	node->ram_bytes = virtio_cread64(vdev, at +
		offsetof(struct virtio_fabric_node, ram_bytes));
	node->window_offset = virtio_cread64(vdev, at +
		offsetof(struct virtio_fabric_node, window_offset));
	virtio_cread_bytes(vdev, at +
			   offsetof(struct virtio_fabric_node, name),
			   node->name, VIRTIO_FABRIC_NAME_BYTES);
	for (char *c = node->name; *c; c++)
		if (!isalnum(*c) && *c != '-' && *c != '_' && *c != '.')
			return -EINVAL;
	if (!node->name[0] || !node->cpus || !node->ram_bytes ||
	    !PAGE_ALIGNED(node->ram_bytes | node->window_offset) ||
	    node->ram_bytes >> PAGE_SHIFT >= CHIMERA_SEG_NO_PAGE)
		return -EINVAL;
	return 0;
}

static int fabric_read_config(struct virtio_device *vdev,
			      struct chimera_machine *m)
{
	struct chimera_node *node;
	u16 version;
	int err;

	virtio_cread_le(vdev, struct virtio_fabric_config, version, &version);
	if (version != VIRTIO_FABRIC_VERSION) {
		pr_err("device speaks version %u, this driver %u\n", version,
		       VIRTIO_FABRIC_VERSION);
		return -EPROTO;
	}
	virtio_cread_le(vdev, struct virtio_fabric_config, self, &m->self);
	virtio_cread_le(vdev, struct virtio_fabric_config, nr_nodes,
			&m->nr_nodes);
	virtio_cread_le(vdev, struct virtio_fabric_config, nr_extents,
			&m->nr_extents);
	virtio_cread_le(vdev, struct virtio_fabric_config, coherence,
			&m->coherence);
	m->code = m->coherence ||
		  virtio_has_feature(vdev, VIRTIO_FABRIC_F_CODE);
	virtio_cread_bytes(vdev,
			   offsetof(struct virtio_fabric_config, machine_uuid),
			   m->uuid, sizeof(m->uuid));
	if (!m->nr_nodes || m->nr_nodes > VIRTIO_FABRIC_MAX_NODES ||
	    m->self >= m->nr_nodes || !m->nr_extents ||
	    m->nr_extents > VIRTIO_FABRIC_MAX_EXTENTS || m->coherence > 1) {
		pr_err("device's configuration makes no sense (node %u of %u, %u extents, coherence %u)\n",
		       m->self, m->nr_nodes, m->nr_extents, m->coherence);
		return -EPROTO;
	}
	for (unsigned int i = 0; i < m->nr_nodes; i++) {
		node = chimera_node_create(i);
		if (!node)
			return -ENOMEM;
		m->node[i] = node;
		err = fabric_read_node(vdev, node);
		if (err) {
			pr_err("device's description of node %u makes no sense\n",
			       i);
			return err;
		}
	}
	err = fabric_read_extents(vdev, m, m->node[m->self]->ram_bytes);
	if (err)
		pr_err("device's extents of this node's RAM make no sense\n");
	return err;
}

static int fabric_find_windows(struct virtio_device *vdev,
			       struct chimera_machine *m)
{
	struct virtio_shm_region shm;

	if (m->nr_nodes == 1)
		return 0;
	if (!virtio_get_shm_region(vdev, &shm, VIRTIO_FABRIC_SHM_WINDOWS)) {
		pr_err("device has no windows\n");
		return -ENODEV;
	}
	for (unsigned int i = 0; i < m->nr_nodes; i++) {
		struct chimera_node *node = m->node[i];

		if (i == m->self)
			continue;
		if (node->window_offset > shm.len ||
		    node->ram_bytes > shm.len - node->window_offset) {
			pr_err("window on node %u ends behind the region\n", i);
			return -EINVAL;
		}
		node->window_phys = shm.addr + node->window_offset;
	}
	return 0;
}

static int fabric_find_vqs(struct fabric *fab)
{
	struct virtqueue_info info[] = {
		[VIRTIO_FABRIC_VQ_TX]	 = { "tx", fabric_tx_done },
		[VIRTIO_FABRIC_VQ_RX]	 = { "rx", fabric_rx_done },
		[VIRTIO_FABRIC_VQ_EVENT] = { "event", fabric_event_done },
		[VIRTIO_FABRIC_VQ_ECHO]	 = { "echo", fabric_echo_done },
	};
	struct virtqueue *vq[ARRAY_SIZE(info)] = { };
	bool echo = virtio_has_feature(fab->vdev, VIRTIO_FABRIC_F_ECHO);
	int err;

	err = virtio_find_vqs(fab->vdev, echo ? 4 : 3, vq, info, NULL);
	if (err)
		return err;
	fab->tx_vq = vq[VIRTIO_FABRIC_VQ_TX];
	fab->rx_vq = vq[VIRTIO_FABRIC_VQ_RX];
	fab->event_vq = vq[VIRTIO_FABRIC_VQ_EVENT];
	fab->echo_vq = vq[VIRTIO_FABRIC_VQ_ECHO];
	virtqueue_disable_cb(fab->tx_vq);
	return 0;
}

/*
 * Two descriptors of the ring per message instead of an indirect table, so
 * that sending never allocates.
 */
static int fabric_validate(struct virtio_device *vdev)
{
	__virtio_clear_bit(vdev, VIRTIO_RING_F_INDIRECT_DESC);
	return 0;
}

static int fabric_init_machine(struct fabric *fab, struct chimera_machine *m)
{
	int err;

	err = fabric_read_config(fab->vdev, m);
	if (!err)
		err = fabric_find_windows(fab->vdev, m);
	if (!err)
		err = fabric_find_vqs(fab);
	if (!err)
		err = fabric_tx_init(fab, m->nr_nodes - 1);
	return err;
}

/*
 * A failed probe leaves its memory behind: the machine is being set up, once,
 * and nothing but a broken device or no memory at all makes it fail.
 */
static int fabric_probe(struct virtio_device *vdev)
{
	struct chimera_machine *m;
	struct fabric *fab;
	int err;

	if (chimera) {
		pr_err("a kernel is a node of one machine only\n");
		return -EBUSY;
	}
	m = kzalloc(sizeof(*m), GFP_KERNEL);
	fab = kzalloc(sizeof(*fab), GFP_KERNEL);
	chimera_wq = alloc_workqueue("chimera",
				     WQ_UNBOUND | WQ_MEM_RECLAIM | WQ_HIGHPRI,
				     0);
	chimera_call_wq = alloc_workqueue("chimera-call", WQ_UNBOUND |
					  WQ_MEM_RECLAIM | WQ_HIGHPRI, 0);
	if (!m || !fab || !chimera_wq || !chimera_call_wq) {
		err = -ENOMEM;
		goto err_free;
	}
	do {
		m->boot_id = get_random_u64();
	} while (!m->boot_id);
	m->fabric = fab;
	fab->vdev = vdev;
	vdev->priv = fab;
	spin_lock_init(&fab->tx_lock);
	spin_lock_init(&fab->rx_lock);
	spin_lock_init(&fab->event_lock);
	spin_lock_init(&fab->echo_lock);
	mutex_init(&fab->echo_mutex);
	init_waitqueue_head(&fab->echo_wait);
	INIT_LIST_HEAD(&fab->spare);
	INIT_WORK(&fab->rx_work, fabric_rx_work);
	INIT_WORK(&fab->ring_work, fabric_ring_work);
	INIT_WORK(&fab->broken_work, fabric_broken_work);
	fab->echo_buf = kzalloc(sizeof(*fab->echo_buf), GFP_KERNEL);
	if (!fab->echo_buf) {
		err = -ENOMEM;
		goto err_free;
	}

	err = fabric_init_machine(fab, m);
	if (err)
		goto err_reset;

	/* From here on interrupts may use it. */
	smp_store_release(&chimera, m);

	err = chimera_sysfs_init();
	if (!err)
		err = chimera_seg_init();
	if (!err)
		err = chimera_fused_init();
	if (!err)
		err = chimera_proc_init();
	if (!err)
		err = chimera_dev_init();
	if (!err)
		err = fabric_rx_init(fab, m->nr_nodes - 1);
	if (!err)
		err = fabric_event_init(fab);
	if (err) {
		pr_err("cannot set up the machine: %d\n", err);
		virtio_break_device(vdev);
		fabric_stop(fab);
		virtio_reset_device(vdev);
		vdev->config->del_vqs(vdev);
		return err;
	}

	virtio_device_ready(vdev);
	virtqueue_kick(fab->rx_vq);
	virtqueue_kick(fab->event_vq);
	pr_info("node %u of %u (%s), coherence %s\n", m->self, m->nr_nodes,
		m->node[m->self]->name, m->coherence ? "dsm" : "shared");
	return 0;

err_reset:
	virtio_reset_device(vdev);
	vdev->config->del_vqs(vdev);
err_free:
	if (chimera_call_wq)
		destroy_workqueue(chimera_call_wq);
	if (chimera_wq)
		destroy_workqueue(chimera_wq);
	chimera_wq = chimera_call_wq = NULL;
	vdev->priv = NULL;
	return err;
}

/* The windows lie in the device: nothing of them may be mapped after this. */
static void fabric_remove(struct virtio_device *vdev)
{
	struct fabric *fab = vdev->priv;
	struct chimera_node *node;

	pr_err("the device was removed; this node is alone now\n");
	virtio_break_device(vdev);
	fabric_break(fab);
	cancel_work_sync(&fab->rx_work);
	cancel_work_sync(&fab->ring_work);
	cancel_work_sync(&fab->broken_work);
	for_each_peer(node)
		flush_work(&node->state_work);
	synchronize_rcu();
	virtio_reset_device(vdev);
	vdev->config->del_vqs(vdev);
}

static const struct virtio_device_id fabric_id_table[] = {
	{ VIRTIO_ID_FABRIC, VIRTIO_DEV_ANY_ID },
	{ }
};

static const unsigned int fabric_features[] = {
	VIRTIO_FABRIC_F_ECHO,
	VIRTIO_FABRIC_F_CODE,
};

static struct virtio_driver fabric_driver = {
	.driver.name = "virtio_fabric",
	.driver.suppress_bind_attrs = true,
	.id_table = fabric_id_table,
	.feature_table = fabric_features,
	.feature_table_size = ARRAY_SIZE(fabric_features),
	.validate = fabric_validate,
	.probe = fabric_probe,
	.remove = fabric_remove,
	.config_changed = fabric_config_changed,
};
module_virtio_driver(fabric_driver);
