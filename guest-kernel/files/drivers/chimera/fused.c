// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Fused processes: the service's messages, and what a thread has to do with
 * such processes. Everything is in docs/fused.md.
 */
#define pr_fmt(fmt) "chimera: " fmt

#include <linux/chimera_task.h>
#include <linux/moduleparam.h>
#include <linux/slab.h>

#include "fused.h"

/* ---- nodes that are up and do not answer ------------------------------- */

static unsigned int peer_timeout = 60;
module_param(peer_timeout, uint, 0644);
MODULE_PARM_DESC(peer_timeout, "Seconds after which a node that keeps memory of a process, or takes no messages about one, is given up");

unsigned long fused_patience(void)
{
	return clamp(READ_ONCE(peer_timeout), 1u, 3600u) * HZ;
}

void fused_overdue(struct chimera_node *node, unsigned long since,
		   const char *what)
{
	unsigned long waited = jiffies - since;

	if (waited >= fused_patience())
		chimera_node_lose(node, what);
	else
		pr_warn("node %u (%s): %s, for %lu s\n", node->index,
			node->name, what, waited / HZ);
}

/* ---- messages ---------------------------------------------------------- */

int fused_post(struct chimera_node *node, u8 cls, u8 type, const void *body,
	       u32 len, const void *more, u32 more_len)
{
	const struct kvec vec[] = {
		{ (void *)body, len }, { (void *)more, more_len }
	};
	unsigned long begin = jiffies;
	int err;

	do {
		err = chimera_post(node, cls, CHIMERA_SERVICE_FUSED, type, vec,
				   more ? 2 : 1, 0,
				   min(fused_patience() / 4,
				       (unsigned long)CHIMERA_CALL_TIMEOUT));
		if (err == -ETIMEDOUT)
			fused_overdue(node, begin, "it takes no messages");
	} while (err == -ETIMEDOUT);
	return err;
}

int fused_post_chan(struct chimera_node *node, u8 type, u64 id, u32 channel,
		    u32 arg)
{
	const struct fused_chan msg = {
		.id = cpu_to_le64(id),
		.channel = cpu_to_le32(channel),
		.arg = cpu_to_le32(arg),
	};

	return fused_post(node, VIRTIO_FABRIC_CLASS_REQUEST, type, &msg,
			  sizeof(msg), NULL, 0);
}

void fused_put_words(struct fused_words *msg, u64 id, u32 channel, u32 arg,
		     const u64 *word)
{
	msg->chan = (struct fused_chan) {
		.id = cpu_to_le64(id),
		.channel = cpu_to_le32(channel),
		.arg = cpu_to_le32(arg),
	};
	for (int i = 0; i < CHIMERA_WORDS; i++)
		msg->word[i] = cpu_to_le64(word[i]);
}

int fused_post_words(struct chimera_node *node, u8 type, u64 id, u32 channel,
		     u32 arg, const u64 *word)
{
	struct fused_words msg;

	fused_put_words(&msg, id, channel, arg, word);
	return fused_post(node, VIRTIO_FABRIC_CLASS_REQUEST, type, &msg,
			  sizeof(msg), NULL, 0);
}

/* What each message must look like. */
static const struct {
	u32 len;
	u8 cls;
	bool more;			/* longer is allowed */
} fused_types[] = {
#define ONE(type, class, what) \
	[CHIMERA_FUSED_##type] = { sizeof(what), VIRTIO_FABRIC_CLASS_##class }
	ONE(JOIN, REQUEST, struct fused_join),
	ONE(LEFT, REQUEST, struct fused_left),
	ONE(GONE, REQUEST, __le64),
	ONE(ATTACH, REQUEST, struct fused_words),
	ONE(WORDS, REQUEST, struct fused_words),
	ONE(EVENT, REQUEST, struct fused_event),
	ONE(FAULT, REQUEST, struct fused_fault),
	ONE(PARK, REQUEST, struct fused_chan),
	ONE(RESUME, REQUEST, struct fused_chan),
	ONE(PARKED, REQUEST, struct fused_chan),
	ONE(CLOSE, REQUEST, struct fused_chan),
	ONE(END, REQUEST, struct fused_chan),
	ONE(INVAL, REPLY, struct fused_inval),
	ONE(ACKED, ACK, struct fused_acked),
	ONE(TIME, REQUEST, struct fused_time),
#undef ONE
	[CHIMERA_FUSED_GRANT] = {
		sizeof(struct fused_grant), VIRTIO_FABRIC_CLASS_REPLY, true
	},
};

/* All but JOIN is taken here, with interrupts off. */
static bool fused_rx(struct chimera_rx *rx)
{
	u8 type = rx->hdr->type;

	if (type >= ARRAY_SIZE(fused_types) || !fused_types[type].len ||
	    rx->len < fused_types[type].len ||
	    (rx->len > fused_types[type].len && !fused_types[type].more) ||
	    rx->cls != fused_types[type].cls) {
		chimera_drop(rx->node, "malformed message about a process");
		return true;
	}
	switch (type) {
	case CHIMERA_FUSED_JOIN:
		return false;
	case CHIMERA_FUSED_ACKED:
		return home_acked_rx(rx);
	case CHIMERA_FUSED_LEFT:
	case CHIMERA_FUSED_EVENT:
	case CHIMERA_FUSED_FAULT:
	case CHIMERA_FUSED_PARKED:
	case CHIMERA_FUSED_END:
	case CHIMERA_FUSED_TIME:
		return home_rx(rx);
	default:
		return mirror_rx(rx);
	}
}

static void fused_node_down(struct chimera_node *node)
{
	home_node_down(node);
	mirror_node_down(node);
}

const struct chimera_service chimera_fused_service = {
	.name = "fused",
	.classes = BIT(VIRTIO_FABRIC_CLASS_REQUEST) |
		   BIT(VIRTIO_FABRIC_CLASS_REPLY) |
		   BIT(VIRTIO_FABRIC_CLASS_ACK),
	.atomic = fused_rx,
	.work = home_work,
	.node_changed = home_node_changed,
	.node_down = fused_node_down,
	.window_gone = mirror_window_gone,
};

/* ---- threads ----------------------------------------------------------- */

struct chimera_task *fused_task(void)
{
	struct chimera_task *t = current->chimera;

	if (t)
		return t;
	t = kzalloc(sizeof(*t), GFP_KERNEL_ACCOUNT);
	if (!t)
		return NULL;
	INIT_LIST_HEAD(&t->chans);
	current->chimera = t;
	return t;
}

void chimera_task_release(struct task_struct *tsk)
{
	struct chimera_task *t = tsk->chimera;

	if (t->serve)
		serve_release(t->serve);
	home_task_release(&t->chans);
	tsk->chimera = NULL;
	kfree(t);
}
