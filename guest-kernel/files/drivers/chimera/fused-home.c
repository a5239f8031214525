// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Fused processes at home: the process, the stubs that joined it, and its
 * threads' channels to them.
 *
 * A channel is free, or it is its thread's (@owned), or it waits for the other
 * side to be done with it as well (@closed, not @lost). Each side says so once,
 * CLOSE here, END there, and the channel is free when both have.
 */
#define pr_fmt(fmt) "chimera: " fmt

#include <linux/anon_inodes.h>
#include <linux/compat.h>
#include <linux/file.h>
#include <linux/ptrace.h>
#include <linux/random.h>
#include <linux/sched/cputime.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/sched/task_stack.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "fused.h"

/* Homes that live, by id; ids are never used again. */
static DEFINE_XARRAY(fused_homes);
DEFINE_MUTEX(fused_homes_lock);

struct fused_home *home_find(u64 id)
{
	return xa_load(&fused_homes, id);
}

static void home_free_work(struct work_struct *work)
{
	struct fused_home *home = container_of(to_rcu_work(work),
					       struct fused_home, free_work);

	for (int i = 0; i < VIRTIO_FABRIC_MAX_NODES; i++)
		kvfree(home->peer[i]);
	xa_destroy(&home->grants);
	kfree(home);
}

static void home_release_ref(struct kref *ref)
{
	struct fused_home *home = container_of(ref, struct fused_home, ref);

	INIT_RCU_WORK(&home->free_work, home_free_work);
	queue_rcu_work(system_unbound_wq, &home->free_work);
}

void home_put(struct fused_home *home)
{
	kref_put(&home->ref, home_release_ref);
}

/* ---- channels: what interrupts do -------------------------------------- */

static void chan_lose(struct home_chan *chan, enum chimera_lost why, u32 status)
{
	lockdep_assert_held(&chan->peer->home->lock);
	if (!chan->id || chan->lost)
		return;
	chan->lost = true;
	chan->lost_why = why;
	chan->lost_status = status;
	if (!chan->owned && chan->closed)
		chan->id = 0;
	chimera_wake_all(&chan->wait);
}

/* The stub is gone: so are its channels, and nothing of home is mapped. */
static void peer_lose(struct home_peer *peer, enum chimera_lost why, u32 status)
{
	lockdep_assert_held(&peer->home->lock);
	peer->joined = false;
	for (int i = 0; i < CHIMERA_FUSED_CHANNELS; i++)
		chan_lose(&peer->chan[i], why, status);
	if (why == CHIMERA_LOST_STUB)
		memset(peer->inval, 0, sizeof(peer->inval));
	chimera_wake_all(&peer->home->inval_wait);
}

/*
 * Time that the remote end used is the thread's. Nobody but the scheduler
 * changes what it has used while it runs; then it is credited later.
 */
static int credit_task(struct task_struct *task, void *arg)
{
	struct home_chan *chan = arg;
	struct fused_used *told = &chan->told, *done = &chan->credited;

	if (task != current && READ_ONCE(task->on_cpu))
		return -EAGAIN;
	task->se.sum_exec_runtime += told->run - done->run;
	account_group_exec_runtime(task, told->run - done->run);
	task->utime += told->user - done->user;
	account_group_user_time(task, told->user - done->user);
	task->stime += told->system - done->system;
	account_group_system_time(task, told->system - done->system);
	*done = *told;
	return 0;
}

static void chan_credit(struct home_chan *chan)
{
	lockdep_assert_held(&chan->peer->home->lock);
	if (chan->owned && memcmp(&chan->told, &chan->credited,
				  sizeof(chan->told)))
		task_call_func(chan->task, credit_task, chan);
}

/* What comes late, or from a clock that goes backwards, is less: nothing. */
static void cpu_rx(struct home_chan *chan, const struct fused_cpu *msg)
{
	struct fused_used *told = &chan->told;

	told->run = max(told->run, le64_to_cpu(msg->run));
	told->user = max(told->user, le64_to_cpu(msg->user));
	told->system = max(told->system, le64_to_cpu(msg->system));
	chan_credit(chan);
}

static void event_rx(struct home_chan *chan, const struct fused_event *event_msg)
{
	const struct fused_words *msg = &event_msg->words;
	u32 event = le32_to_cpu(msg->chan.arg);

	if (!chan->runs || chan->fault || event < CHIMERA_EVENT_MESSAGE ||
	    event > CHIMERA_EVENT_FAULT) {
		chimera_drop(chan->peer->node, "event of a thread that waits");
		return;
	}
	chan->event_type = event;
	for (int i = 0; i < CHIMERA_WORDS; i++)
		chan->word[i] = le64_to_cpu(msg->word[i]);
	cpu_rx(chan, &event_msg->cpu);
	chan->runs = false;
	chan->event = true;
	chimera_wake_all(&chan->wait);
}

static void fault_rx(struct home_chan *chan, const struct fused_fault *msg)
{
	u32 flags = le32_to_cpu(msg->flags);

	if (!chan->runs || chan->fault || msg->reserved ||
	    flags & ~CHIMERA_FUSED_WRITE) {
		chimera_drop(chan->peer->node, "fault of a thread that waits");
		return;
	}
	chan->fault_seq = le32_to_cpu(msg->chan.arg);
	chan->fault_va = le64_to_cpu(msg->va) & PAGE_MASK;
	chan->fault_write = flags & CHIMERA_FUSED_WRITE;
	chan->fault = true;
	chimera_wake_all(&chan->wait);
}

static void parked_rx(struct home_chan *chan, u32 seq)
{
	if (chan->park_sent && chan->park_seq == seq) {
		chan->parked = true;
		chimera_wake_all(&chan->wait);
	}
}

/* Its JOIN may wait for home_work(), or never have been sent. */
static void left_rx(struct fused_home *home, unsigned int node,
		    const struct fused_left *msg)
{
	struct home_peer *peer = home->peer[node];

	home->left[node] = max(home->left[node], le64_to_cpu(msg->nr));
	if (peer && peer->joined)
		peer_lose(peer, CHIMERA_LOST_STUB, le32_to_cpu(msg->status));
}

/* What comes too late, for a process or a channel that is gone, is nothing. */
bool home_rx(struct chimera_rx *rx)
{
	const struct fused_chan *msg = rx->body;
	struct fused_home *home;
	struct home_peer *peer;
	struct home_chan *chan;
	unsigned long flags;
	u32 channel;

	guard(rcu)();
	home = home_find(le64_to_cpu(msg->id));
	if (!home)
		return true;
	spin_lock_irqsave(&home->lock, flags);
	if (rx->hdr->type == CHIMERA_FUSED_LEFT) {
		left_rx(home, rx->node->index, rx->body);
		goto out;
	}
	peer = home->peer[rx->node->index];
	if (!peer)
		goto out;
	channel = le32_to_cpu(msg->channel);
	chan = &peer->chan[FUSED_INDEX(channel)];
	if (!channel || chan->id != channel || chan->lost)
		goto out;
	switch (rx->hdr->type) {
	case CHIMERA_FUSED_EVENT:
		event_rx(chan, rx->body);
		break;
	case CHIMERA_FUSED_FAULT:
		fault_rx(chan, rx->body);
		break;
	case CHIMERA_FUSED_TIME:
		cpu_rx(chan, &((const struct fused_time *)rx->body)->cpu);
		break;
	case CHIMERA_FUSED_PARKED:
		parked_rx(chan, le32_to_cpu(msg->arg));
		break;
	case CHIMERA_FUSED_END:
		chan_lose(chan, CHIMERA_LOST_THREAD, le32_to_cpu(msg->arg));
		break;
	}
out:
	spin_unlock_irqrestore(&home->lock, flags);
	return true;
}

/* ---- stubs ------------------------------------------------------------- */

static struct home_peer *peer_new(struct fused_home *home,
				  struct chimera_node *node)
{
	struct home_peer *peer = kvzalloc(sizeof(*peer), GFP_KERNEL_ACCOUNT);

	if (!peer)
		return NULL;
	peer->home = home;
	peer->node = node;
	for (int i = 0; i < CHIMERA_FUSED_CHANNELS; i++) {
		peer->chan[i].peer = peer;
		init_waitqueue_head(&peer->chan[i].wait);
	}
	return peer;
}

/*
 * Its kernel lets one process of a node be the stub. If we think that there is
 * one, the word that it left was lost in a JOIN that failed.
 */
static int home_join(struct fused_home *home, struct chimera_node *node,
		     const struct fused_join *msg)
{
	struct home_peer *new = NULL;
	int err = 0;

	if (le64_to_cpu(msg->secret) != home->secret ||
	    le32_to_cpu(msg->uid) != from_kuid(&init_user_ns, home->uid))
		return -EACCES;
	if (!home->peer[node->index]) {
		new = peer_new(home, node);
		if (!new)
			return -ENOMEM;
	}
	spin_lock_irq(&home->lock);
	/* the latter: it has left again */
	if (home->dead || le64_to_cpu(msg->nr) <= home->left[node->index]) {
		err = -ESRCH;
	} else {
		/* only this node's requests, one at a time, set its entry */
		if (!home->peer[node->index]) {
			home->peer[node->index] = new;
			new = NULL;
		}
		if (home->peer[node->index]->joined)
			peer_lose(home->peer[node->index], CHIMERA_LOST_STUB,
				  SIGKILL);
		home->peer[node->index]->joined = true;
	}
	spin_unlock_irq(&home->lock);
	kvfree(new);
	return err;
}

void home_work(struct chimera_rx *rx)
{
	const struct fused_join *msg = rx->body;
	struct fused_home *home;
	int err = -ESRCH;

	rcu_read_lock();
	home = home_find(le64_to_cpu(msg->id));
	if (home && !kref_get_unless_zero(&home->ref))
		home = NULL;
	rcu_read_unlock();
	if (home) {
		err = home_join(home, rx->node, msg);
		home_put(home);
	}
	chimera_reply(rx, err, NULL, 0, 0);
}

void home_node_changed(struct chimera_node *node)
{
	struct fused_home *home;
	struct home_peer *peer;
	unsigned long id, flags;

	guard(rcu)();
	xa_for_each(&fused_homes, id, home) {
		spin_lock_irqsave(&home->lock, flags);
		peer = home->peer[node->index];
		if (peer)
			peer_lose(peer, CHIMERA_LOST_NODE, 0);
		spin_unlock_irqrestore(&home->lock, flags);
	}
}

/* A JOIN may have been under way when the node changed. */
void home_node_down(struct chimera_node *node)
{
	home_node_changed(node);
}

/**
 * home_end() - the process has no part in its memory any more.
 *
 * Context: may sleep, several times. On return no peer has anything mapped,
 * and stubs get SIGKILL.
 */
void home_end(struct fused_home *home)
{
	DECLARE_BITMAP(told, VIRTIO_FABRIC_MAX_NODES) = { };
	const __le64 id = cpu_to_le64(home->id);
	struct home_peer *peer;
	unsigned int i;
	bool was;

	spin_lock_irq(&home->lock);
	was = home->dead;
	home->dead = true;
	spin_unlock_irq(&home->lock);
	home_revoke(home);
	if (was)
		return;

	spin_lock_irq(&home->lock);
	for (i = 0; i < chimera->nr_nodes; i++) {
		peer = home->peer[i];
		if (peer && peer->joined) {
			__set_bit(i, told);
			peer_lose(peer, CHIMERA_LOST_STUB, SIGKILL);
		}
	}
	spin_unlock_irq(&home->lock);
	xa_erase(&fused_homes, home->id);
	for_each_set_bit(i, told, VIRTIO_FABRIC_MAX_NODES)
		fused_post(chimera->node[i], VIRTIO_FABRIC_CLASS_REQUEST,
			   CHIMERA_FUSED_GONE, &id, sizeof(id), NULL, 0);
}

/* ---- channels: what their threads do ----------------------------------- */

static struct home_chan *chan_find(struct fused_home *home, u16 node)
{
	struct chimera_task *t = current->chimera;
	struct home_chan *chan;

	if (!t)
		return NULL;
	list_for_each_entry(chan, &t->chans, task_link)
		if (chan->peer->home == home && chan->peer->node->index == node)
			return chan;
	return NULL;
}

/*
 * The thread is done with it. Its place is free only when CLOSE is under way:
 * else another thread's ATTACH could overtake that.
 */
static void chan_close(struct home_chan *chan)
{
	struct fused_home *home = chan->peer->home;
	struct chimera_node *node = chan->peer->node;
	struct task_struct *task;
	bool tell;

	list_del(&chan->task_link);
	spin_lock_irq(&home->lock);
	/* after a stub or a node there is nobody to be told */
	tell = !chan->closed &&
	       (!chan->lost || chan->lost_why == CHIMERA_LOST_THREAD);
	chan->closed = true;
	spin_unlock_irq(&home->lock);
	if (tell)
		fused_post_chan(node, CHIMERA_FUSED_CLOSE, home->id, chan->id,
				0);
	spin_lock_irq(&home->lock);
	chan_credit(chan);
	chan->owned = false;
	task = chan->task;
	chan->task = NULL;
	if (chan->lost)
		chan->id = 0;
	spin_unlock_irq(&home->lock);
	put_task_struct(task);
	home_put(home);
}

void home_task_release(struct list_head *chans)
{
	struct home_chan *chan, *next;

	list_for_each_entry_safe(chan, next, chans, task_link)
		chan_close(chan);
}

static struct home_chan *chan_alloc(struct home_peer *peer)
{
	struct home_chan *chan;

	lockdep_assert_held(&peer->home->lock);
	for (unsigned int i = 0; i < CHIMERA_FUSED_CHANNELS; i++) {
		chan = &peer->chan[FUSED_INDEX(++peer->last_chan)];
		if (chan->id || !peer->last_chan)
			continue;
		chan->id = peer->last_chan;
		chan->owned = true;
		chan->task = get_task_struct(current);
		chan->told = chan->credited = (struct fused_used) { };
		chan->closed = chan->lost = false;
		chan->runs = chan->event = chan->fault = false;
		chan->park_sent = chan->parked = false;
		chan->restart_sp = 0;
		chan->ahead = 0;
		chan->ahead_va = 0;
		chan->bad_va = 0;
		chan->bad_code = 0;
		return chan;
	}
	return NULL;
}

static long home_attach(struct fused_home *home,
			struct chimera_attach __user *arg)
{
	u64 word[CHIMERA_WORDS] = { };
	struct chimera_attach req;
	struct chimera_task *t;
	struct chimera_node *node;
	struct home_chan *chan = NULL;
	struct home_peer *peer;
	int err = 0;

	if (copy_from_user(&req, arg, sizeof(req)))
		return -EFAULT;
	node = chimera_node(req.node);
	if (memchr_inv(req.reserved, 0, sizeof(req.reserved)) || !node ||
	    chimera_is_self(node))
		return -EINVAL;
	if (chan_find(home, req.node))
		return -EEXIST;
	t = fused_task();
	if (!t)
		return -ENOMEM;
	spin_lock_irq(&home->lock);
	peer = home->peer[req.node];
	if (!chimera_node_greeted(node))
		err = -EHOSTDOWN;
	else if (!peer || !peer->joined)
		err = -ENOTCONN;
	else
		chan = chan_alloc(peer);
	if (!err && !chan)
		err = -EAGAIN;
	spin_unlock_irq(&home->lock);
	if (err)
		return err;
	kref_get(&home->ref);
	list_add(&chan->task_link, &t->chans);
	word[0] = req.arg;
	err = fused_post_words(node, CHIMERA_FUSED_ATTACH, home->id, chan->id,
			       0, word);
	if (err)
		chan_close(chan);
	return err;
}

static long home_detach(struct fused_home *home,
			struct chimera_detach __user *arg)
{
	struct chimera_detach req;
	struct home_chan *chan;
	bool tell;

	if (copy_from_user(&req, arg, sizeof(req)))
		return -EFAULT;
	if (memchr_inv(req.reserved, 0, sizeof(req.reserved)))
		return -EINVAL;
	chan = chan_find(home, req.node);
	if (!chan)
		return -ENOTCONN;
	spin_lock_irq(&home->lock);
	tell = !chan->lost && !chan->closed;
	chan->closed |= tell;
	spin_unlock_irq(&home->lock);
	if (tell)
		fused_post_chan(chan->peer->node, CHIMERA_FUSED_CLOSE,
				home->id, chan->id, 0);
	if (wait_event_killable(chan->wait, READ_ONCE(chan->lost)))
		return -EINTR;
	chan_close(chan);
	return 0;
}

/* The remote end stands still, or there is none any more. */
static bool chan_stands(const struct home_chan *chan)
{
	return READ_ONCE(chan->parked) || READ_ONCE(chan->event) ||
	       READ_ONCE(chan->fault) || READ_ONCE(chan->lost);
}

/*
 * A signal waits for this thread: stop the remote end first. One that waits
 * for a page stands still until it gets it, and one that has an event until it
 * gets words, both from this thread.
 */
static void chan_park(struct home_chan *chan)
{
	struct fused_home *home = chan->peer->home;
	bool send = false;
	u32 seq = 0;

	spin_lock_irq(&home->lock);
	if (!chan_stands(chan) && !chan->park_sent) {
		seq = ++chan->park_seq ?: ++chan->park_seq;
		chan->park_sent = true;
		send = true;
	}
	spin_unlock_irq(&home->lock);
	if (send)
		fused_post_chan(chan->peer->node, CHIMERA_FUSED_PARK, home->id,
				chan->id, seq);
	wait_event_killable(chan->wait, chan_stands(chan));
}

static void chan_resume(struct home_chan *chan)
{
	struct fused_home *home = chan->peer->home;
	bool send;

	spin_lock_irq(&home->lock);
	send = chan->park_sent;
	chan->park_sent = chan->parked = false;
	spin_unlock_irq(&home->lock);
	if (send)
		fused_post_chan(chan->peer->node, CHIMERA_FUSED_RESUME,
				home->id, chan->id, chan->park_seq);
}

static int chan_fault(struct home_chan *chan)
{
	struct fused_home *home = chan->peer->home;
	bool write, lost;
	u32 seq;
	u64 va;
	int err;

	spin_lock_irq(&home->lock);
	va = chan->fault_va;
	seq = chan->fault_seq;
	write = chan->fault_write;
	lost = chan->lost;
	spin_unlock_irq(&home->lock);
	if (lost)
		return 0;
	/* cleared under the locks of home_resolve(), before the answer goes */
	err = home_resolve(chan, va, write, seq);
	return err;
}

static bool chan_ready(const struct home_chan *chan)
{
	return READ_ONCE(chan->event) || READ_ONCE(chan->fault) ||
	       READ_ONCE(chan->lost);
}

/*
 * The remote end saw only that memory is mapped here: what was wrong with an
 * access is known by who refused it.
 */
static void event_fix(const struct home_chan *chan,
		      struct chimera_exchange *out)
{
	if (out->event == CHIMERA_EVENT_FAULT && out->word[0] == SIGSEGV &&
	    chan->bad_code && (out->word[2] & PAGE_MASK) == chan->bad_va)
		out->word[1] = chan->bad_code;
}

/* Take what has come. Return: 0, or -EAGAIN nothing. */
static int chan_take(struct home_chan *chan, struct chimera_exchange *out)
{
	struct fused_home *home = chan->peer->home;
	int err = 0;

	spin_lock_irq(&home->lock);
	memset(out->word, 0, sizeof(out->word));
	if (chan->event) {
		out->event = chan->event_type;
		memcpy(out->word, chan->word, sizeof(out->word));
		chan->event = false;
	} else if (chan->lost) {
		out->event = CHIMERA_EVENT_LOST;
		out->word[0] = chan->lost_why;
		out->word[1] = chan->lost_status;
	} else {
		err = -EAGAIN;
	}
	spin_unlock_irq(&home->lock);
	return err;
}

static long chan_wait(struct home_chan *chan,
		      struct chimera_exchange __user *arg,
		      struct chimera_exchange *out)
{
	int err;

	chan_resume(chan);
	for (;;) {
		if (wait_event_interruptible(chan->wait, chan_ready(chan)) ||
		    fatal_signal_pending(current)) {
			chan_park(chan);
			chan->restart_sp = user_stack_pointer(current_pt_regs());
			return -ERESTARTNOINTR;
		}
		if (!chan_take(chan, out))
			break;
		err = chan_fault(chan);
		if (err == -EINTR)
			return -ERESTARTNOINTR;
	}
	chan->restart_sp = 0;
	event_fix(chan, out);
	if (out->event == CHIMERA_EVENT_LOST)
		chan_close(chan);
	return copy_to_user(arg, out, sizeof(*out)) ? -EFAULT : 0;
}

static long home_exchange(struct fused_home *home, bool words,
			  struct chimera_exchange __user *arg)
{
	struct chimera_exchange req;
	struct home_chan *chan;
	bool restart;
	int err = 0;

	if (copy_from_user(&req, arg, sizeof(req)))
		return -EFAULT;
	if (req.reserved)
		return -EINVAL;
	chan = chan_find(home, req.node);
	if (!chan)
		return -ENOTCONN;
	/*
	 * A call that was left for a signal comes again with the words that it
	 * has given already. What a handler calls before that comes from
	 * another place of the stack.
	 */
	restart = chan->restart_sp &&
		  chan->restart_sp == user_stack_pointer(current_pt_regs());
	spin_lock_irq(&home->lock);
	if (chan->lost) {
		words = false;
	} else if (words && !restart) {
		if (chan->runs || chan->event)
			err = -EBUSY;
		else
			chan->runs = true;
	} else {
		words = false;
		if (!chan->runs && !chan->event)
			err = -EINVAL;
	}
	spin_unlock_irq(&home->lock);
	if (err)
		return err;
	if (words)
		/* an error is of a node that is down: the channel is lost */
		fused_post_words(chan->peer->node, CHIMERA_FUSED_WORDS,
				 home->id, chan->id, 0, req.word);
	return chan_wait(chan, arg, &req);
}

/* ---- /proc/chimera/tasks ------------------------------------------------ */

static size_t peer_tasks(const struct home_peer *peer, char *buf, size_t room)
{
	const struct home_chan *chan;
	char line[64];
	size_t len = 0;
	int n;

	for (unsigned int i = 0; i < CHIMERA_FUSED_CHANNELS; i++) {
		chan = &peer->chan[i];
		if (!chan->id || !chan->owned)
			continue;
		n = scnprintf(line, sizeof(line), "%4u %10d %10d %4u\n",
			      chimera->self, peer->home->tgid, chan->task->pid,
			      chan->runs && !chan->lost ? peer->node->index :
							  chimera->self);
		if (buf && len + n >= room)
			break;
		if (buf)
			memcpy(buf + len, line, n);
		len += n;
	}
	return len;
}

size_t chimera_fused_tasks(char *buf, size_t room)
{
	struct fused_home *home;
	unsigned long id, flags;
	size_t len = 0;

	guard(rcu)();
	xa_for_each(&fused_homes, id, home) {
		spin_lock_irqsave(&home->lock, flags);
		for (unsigned int i = 0; i < chimera->nr_nodes; i++)
			if (home->peer[i])
				len += peer_tasks(home->peer[i],
						  buf ? buf + len : NULL,
						  room - len);
		spin_unlock_irqrestore(&home->lock, flags);
	}
	if (buf)
		buf[len] = 0;
	return len;
}

/* ---- the descriptor ---------------------------------------------------- */

static long home_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct fused_home *home = file->private_data;
	void __user *p = (void __user *)arg;

	if (current->mm != home->mm)
		return -EPERM;
	switch (cmd) {
	case CHIMERA_IOC_ATTACH:
		return home_attach(home, p);
	case CHIMERA_IOC_DETACH:
		return home_detach(home, p);
	case CHIMERA_IOC_EXCHANGE:
		return home_exchange(home, true, p);
	case CHIMERA_IOC_WAIT:
		return home_exchange(home, false, p);
	default:
		return -ENOTTY;
	}
}

static int home_release(struct inode *inode, struct file *file)
{
	struct fused_home *home = file->private_data;

	home_end(home);
	mmu_interval_notifier_remove(&home->ni);
	home_put(home);
	return 0;
}

static const struct file_operations home_fops = {
	.owner = THIS_MODULE,
	.release = home_release,
	.unlocked_ioctl = home_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static struct fused_home *home_new(void)
{
	static atomic64_t last_id = ATOMIC64_INIT(0);
	struct fused_home *home = kzalloc(sizeof(*home), GFP_KERNEL_ACCOUNT);
	int err;

	if (!home)
		return ERR_PTR(-ENOMEM);
	kref_init(&home->ref);
	home->id = atomic64_inc_return(&last_id);
	home->secret = get_random_u64();
	home->mm = current->mm;
	home->tgid = current->tgid;
	home->uid = current_euid();
	spin_lock_init(&home->lock);
	init_waitqueue_head(&home->inval_wait);
	home_grants_init(home);
	err = mmu_interval_notifier_insert(&home->ni, current->mm, 0,
					   ULONG_MAX & PAGE_MASK,
					   &fused_home_ni_ops);
	if (err) {
		kfree(home);
		return ERR_PTR(err);
	}
	return home;
}

bool mm_is_fused(struct mm_struct *mm)
{
	struct fused_home *home;
	unsigned long id;

	lockdep_assert_held(&fused_homes_lock);
	guard(rcu)();
	xa_for_each(&fused_homes, id, home)
		if (home->mm == mm)
			return true;
	return false;
}

/* A home that can be found, and its descriptor's file. */
static struct file *home_open(struct fused_home **ret_home)
{
	struct fused_home *home;
	struct file *file;
	int err;

	guard(mutex)(&fused_homes_lock);
	if (mm_is_fused(current->mm) || mm_is_stub(current->mm))
		return ERR_PTR(-EBUSY);
	home = home_new();
	if (IS_ERR(home))
		return ERR_CAST(home);
	file = anon_inode_getfile("[chimera-home]", &home_fops, home, O_RDWR);
	if (IS_ERR(file)) {
		mmu_interval_notifier_remove(&home->ni);
		home_put(home);
		return file;
	}
	err = xa_err(xa_store(&fused_homes, home->id, home, GFP_KERNEL));
	if (err) {
		fput(file);
		return ERR_PTR(err);
	}
	*ret_home = home;
	return file;
}

int chimera_fuse(struct chimera_fuse __user *arg)
{
	struct fused_home *home;
	struct chimera_fuse req;
	struct file *file;
	int fd;

	if (copy_from_user(&req, arg, sizeof(req)))
		return -EFAULT;
	if (req.flags || req.reserved)
		return -EINVAL;
	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0)
		return fd;
	file = home_open(&home);
	if (IS_ERR(file)) {
		put_unused_fd(fd);
		return PTR_ERR(file);
	}
	req.id = home->id;
	req.secret = home->secret;
	if (copy_to_user(arg, &req, sizeof(req))) {
		put_unused_fd(fd);
		fput(file);
		return -EFAULT;
	}
	fd_install(fd, file);
	return fd;
}
