// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The nodes of the machine and the state of each.
 *
 *   device says    this kernel does                                 state
 *   ------------   ----------------------------------------------   ------
 *   ABSENT         nothing                                          absent
 *   UP             map the window, say HELLO                        absent
 *    (HELLO came)  calls are allowed; tell our names, say SYNCED    absent
 *    (SYNCED came) everything is allowed                            up
 *   DOWN           fail calls; unmap its memory; FENCE; finish      down
 *                  its messages; services forget the node
 *   FENCED         nothing                                          fenced
 *
 * A node never goes back. What the device says is taken in its interrupt
 * (chimera_node_event); all that may sleep is done by the node's state_work,
 * which looks at where the node should be and takes it there step by step.
 */
#define pr_fmt(fmt) "chimera: " fmt

#include <linux/slab.h>

#include "internal.h"

static int node_say_hello(struct chimera_node *node)
{
	const struct chimera_node_hello hello = {
		.version = cpu_to_le32(CHIMERA_PROTO_VERSION),
		.page_shift = cpu_to_le32(PAGE_SHIFT),
		.boot_id = cpu_to_le64(chimera->boot_id),
	};
	const struct kvec vec = { (void *)&hello, sizeof(hello) };

	return chimera_post(node, VIRTIO_FABRIC_CLASS_REQUEST,
			    CHIMERA_SERVICE_NODE, CHIMERA_NODE_HELLO, &vec, 1,
			    0, CHIMERA_CALL_TIMEOUT);
}

int chimera_node_tell_synced(struct chimera_node *node)
{
	return chimera_post(node, VIRTIO_FABRIC_CLASS_REQUEST,
			    CHIMERA_SERVICE_NODE, CHIMERA_NODE_SYNCED, NULL, 0,
			    0, CHIMERA_CALL_TIMEOUT);
}

static void node_enter(struct chimera_node *node, u8 state)
{
	static const char *const text[] = { "absent", "up", "down", "fenced" };

	WRITE_ONCE(node->state, state);
	pr_info("node %u (%s) is %s\n", node->index, node->name, text[state]);
	chimera_sysfs_state_changed(node);
}

/* Not called again before the node has been greeted or is lost. */
static int node_greet(struct chimera_node *node)
{
	int err = 0;

	if (!node->window)
		err = chimera_window_map(node, node->window_phys,
					 node->ram_bytes);
	if (err) {
		pr_err("node %u: cannot map its memory: %d\n", node->index,
		       err);
		return err;
	}
	err = node_say_hello(node);
	if (!err)
		WRITE_ONCE(node->hello_sent, true);
	return err;
}

static void node_come_up(struct chimera_node *node)
{
	int err;

	if (!node->hello_sent) {
		err = node_greet(node);
		if (err == -EHOSTDOWN)
			return;
		if (err) {
			chimera_node_lose(node, "it cannot be greeted");
			return;
		}
	}
	if (!READ_ONCE(node->greeted))
		return;
	for (int i = 0; i < CHIMERA_NR_SERVICES; i++)
		if (chimera_services[i]->node_greeted)
			chimera_services[i]->node_greeted(node);
	if (READ_ONCE(node->synced) && node->state == VIRTIO_FABRIC_ABSENT)
		node_enter(node, VIRTIO_FABRIC_UP);
}

/* As soon as the device says DOWN, also of a node that was given up before. */
static void node_fence(struct chimera_node *node)
{
	int err;

	if (node->fence_sent ||
	    READ_ONCE(node->dev_state) != VIRTIO_FABRIC_DOWN)
		return;
	err = fabric_fence(node);
	node->fence_sent = !err;
	if (err && err != -EHOSTDOWN)
		pr_err("node %u: cannot be fenced: %d\n", node->index, err);
}

/*
 * The window first, and nothing before it that could wait for memory: who
 * waits until the node is fenced may be in the middle of reclaim.
 */
static void node_go_down(struct chimera_node *node)
{
	chimera_window_retire(node);
	node_fence(node);
	chimera_msg_flush(node);
	for (int i = 0; i < CHIMERA_NR_SERVICES; i++)
		if (chimera_services[i]->node_down)
			chimera_services[i]->node_down(node);
	node_enter(node, VIRTIO_FABRIC_DOWN);
}

static void node_state_work(struct work_struct *work)
{
	struct chimera_node *node = container_of(work, struct chimera_node,
						 state_work);
	u8 want = READ_ONCE(node->dev_state);

	if (READ_ONCE(node->lost) && want == VIRTIO_FABRIC_UP)
		want = VIRTIO_FABRIC_DOWN;
	if (want == VIRTIO_FABRIC_UP)
		node_come_up(node);
	if (want >= VIRTIO_FABRIC_DOWN && node->state < VIRTIO_FABRIC_DOWN)
		node_go_down(node);
	else if (node->state == VIRTIO_FABRIC_DOWN)
		node_fence(node);
	if (want == VIRTIO_FABRIC_FENCED && node->state == VIRTIO_FABRIC_DOWN)
		node_enter(node, VIRTIO_FABRIC_FENCED);
}

static void node_changed(struct chimera_node *node)
{
	for (int i = 0; i < CHIMERA_NR_SERVICES; i++)
		if (chimera_services[i]->node_changed)
			chimera_services[i]->node_changed(node);
}

/* chimera_node_event() - the device says where @node is. Any context. */
void chimera_node_event(struct chimera_node *node, u8 dev_state)
{
	unsigned long flags;
	bool forward;

	spin_lock_irqsave(&node->lock, flags);
	forward = dev_state > node->dev_state;
	if (forward)
		WRITE_ONCE(node->dev_state, dev_state);
	spin_unlock_irqrestore(&node->lock, flags);
	if (!forward)
		return;
	if (dev_state >= VIRTIO_FABRIC_DOWN) {
		chimera_msg_node_down(node);
		node_changed(node);
	}
	queue_work(chimera_wq, &node->state_work);
}

/* chimera_node_lose() - treat @node as down from now on. Any context. */
void chimera_node_lose(struct chimera_node *node, const char *why)
{
	unsigned long flags;
	bool was;

	spin_lock_irqsave(&node->lock, flags);
	was = node->lost;
	WRITE_ONCE(node->lost, true);
	spin_unlock_irqrestore(&node->lock, flags);
	if (was)
		return;
	pr_err("node %u (%s) is lost: %s\n", node->index, node->name, why);
	chimera_msg_node_down(node);
	node_changed(node);
	queue_work(chimera_wq, &node->state_work);
}

/* chimera_nodes_gone() - the device is; every peer with it. */
void chimera_nodes_gone(void)
{
	struct chimera_node *node;

	for_each_peer(node)
		chimera_node_lose(node, "the fabric is gone");
}

u64 chimera_up_mask(void)
{
	u64 mask = 0;

	for (unsigned int i = 0; i < chimera->nr_nodes; i++)
		if (READ_ONCE(chimera->node[i]->state) == VIRTIO_FABRIC_UP)
			mask |= BIT_ULL(i);
	return mask;
}

void chimera_node_doorbell(struct chimera_node *node, u64 bits)
{
	for (int i = 0; i < CHIMERA_NR_SERVICES; i++) {
		const struct chimera_service *svc = chimera_services[i];

		if (bits & svc->doorbell_mask)
			svc->doorbell(node, bits & svc->doorbell_mask);
		bits &= ~svc->doorbell_mask;
	}
	if (bits)
		chimera_drop(node, "doorbell that nobody answers");
}

static void node_hello_rx(struct chimera_rx *rx)
{
	const struct chimera_node_hello *hello = rx->body;
	struct chimera_node *node = rx->node;
	u64 boot_id;

	if (rx->len != sizeof(*hello) || !hello->boot_id) {
		chimera_drop(node, "malformed HELLO");
		return;
	}
	boot_id = le64_to_cpu(hello->boot_id);
	if (le32_to_cpu(hello->version) != CHIMERA_PROTO_VERSION)
		chimera_node_lose(node, "it speaks another protocol version");
	else if (le32_to_cpu(hello->page_shift) != PAGE_SHIFT)
		chimera_node_lose(node, "its pages have another size");
	else if (node->boot_id && node->boot_id != boot_id)
		chimera_node_lose(node, "its kernel was started again");
	if (READ_ONCE(node->lost))
		return;
	node->boot_id = boot_id;
	WRITE_ONCE(node->greeted, true);
	queue_work(chimera_wq, &node->state_work);
}

static bool node_rx(struct chimera_rx *rx)
{
	if (rx->hdr->type == CHIMERA_NODE_HELLO) {
		node_hello_rx(rx);
	} else if (rx->hdr->type == CHIMERA_NODE_SYNCED &&
		   READ_ONCE(rx->node->greeted)) {
		WRITE_ONCE(rx->node->synced, true);
		queue_work(chimera_wq, &rx->node->state_work);
	} else {
		chimera_drop(rx->node, "unknown message about nodes");
	}
	return true;
}

const struct chimera_service chimera_node_service = {
	.name = "node",
	.classes = BIT(VIRTIO_FABRIC_CLASS_REQUEST),
	.atomic = node_rx,
};

/* chimera_node_create() - a node in state ABSENT; the fabric fills the rest. */
struct chimera_node *chimera_node_create(u16 index)
{
	struct chimera_node *node = kzalloc(sizeof(*node), GFP_KERNEL);

	if (!node)
		return NULL;
	node->index = index;
	spin_lock_init(&node->lock);
	init_rwsem(&node->window_sem);
	INIT_WORK(&node->state_work, node_state_work);
	chimera_msg_node_init(node);
	return node;
}
