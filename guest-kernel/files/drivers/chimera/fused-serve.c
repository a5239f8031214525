// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Fused processes on another node than home: threads that serve home's.
 *
 *   FREE -> OFFERED    home: ATTACH
 *   OFFERED -> ACCEPTED    ACCEPT
 *   ACCEPTED -> SERVED     SERVE; from then on the thread is in @task
 *   SERVED -> FREE     the thread ends, or hears EPIPE: END goes to home; it
 *                      is free when home's CLOSE has come too
 *   OFFERED, ACCEPTED -> FREE  home: CLOSE; END goes to home
 *
 * A serving thread is stopped (PARK) and ended (CLOSE) by task work, so it is
 * never stopped in the kernel, where it may hold anything.
 */
#define pr_fmt(fmt) "chimera: " fmt

#include <linux/chimera_task.h>
#include <linux/elf.h>
#include <linux/ptrace.h>
#include <linux/sched/cputime.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/sched/task_stack.h>
#include <linux/seccomp.h>
#include <linux/slab.h>
#include <linux/syscalls.h>
#include <linux/uaccess.h>
#include <asm/syscall.h>
#ifdef CONFIG_X86
#include <asm/prctl.h>
#endif

#include "fused.h"

/* How soon a thread that should end and is in the stub's text is looked at. */
#define SERVE_AGAIN	1
/* How often home hears what a thread uses that asks nothing. */
#define SERVE_TIME	(HZ / 2)

struct mirror_chan *serve_chan(struct fused_mirror *m)
{
	struct chimera_task *t = current->chimera;

	return t && t->serve && t->serve->mirror == m ? t->serve : NULL;
}

/* Text of the stub's own? @pc may stand behind its last instruction. */
static bool is_native(struct fused_mirror *m, unsigned long pc)
{
	/* pairs with serve_native(): the ranges that count are complete */
	unsigned int nr = smp_load_acquire(&m->nr_native);

	for (unsigned int i = 0; i < nr; i++)
		if (pc > m->native[i].start && pc <= m->native[i].end)
			return true;
	return false;
}

static bool serve_over(const struct mirror_chan *chan)
{
	return READ_ONCE(chan->ended) || READ_ONCE(chan->mirror->dead);
}

/* ---- stopping and ending ----------------------------------------------- */

static void serve_poke(struct mirror_chan *chan)
{
	lockdep_assert_held(&chan->mirror->lock);
	chimera_wake_all(&chan->wait);
	if (chan->task && !chan->poked &&
	    !task_work_add(chan->task, &chan->poke, TWA_SIGNAL))
		chan->poked = true;
}

void serve_poke_all(struct fused_mirror *m)
{
	spin_lock_irq(&m->lock);
	for (unsigned int i = 0; i < CHIMERA_FUSED_CHANNELS; i++)
		serve_poke(&m->chan[i]);
	spin_unlock_irq(&m->lock);
	wake_up_all(&m->accept_wait);
}

/* Look again at threads that were in the stub's text when theirs ended. */
static void serve_again_work(struct work_struct *work)
{
	struct fused_mirror *m = container_of(to_delayed_work(work),
					      struct fused_mirror, again_work);

	spin_lock_irq(&m->lock);
	for (unsigned int i = 0; i < CHIMERA_FUSED_CHANNELS; i++)
		if (m->chan[i].task && serve_over(&m->chan[i]))
			serve_poke(&m->chan[i]);
	spin_unlock_irq(&m->lock);
	mirror_put(m);
}

/*
 * The serving thread, on its way to user mode. Text of the stub hears of the
 * end by EPIPE, or may be about to jump to home's; everything else is home's
 * and has nothing left to do. Text of the stub that needs home's memory would
 * wait for ever.
 */
static void serve_poked(struct callback_head *work)
{
	struct mirror_chan *chan = container_of(work, struct mirror_chan, poke);
	struct fused_mirror *m = chan->mirror;
	bool again = work->next;
	u32 seq;

	spin_lock_irq(&m->lock);
	chan->poked = false;
	if (again)	/* what comes behind must not be lost by do_exit() */
		serve_poke(chan);
	spin_unlock_irq(&m->lock);
	if (again)
		return;
	while (!serve_over(chan)) {
		seq = READ_ONCE(chan->park);
		if (!seq)
			return;
		fused_post_chan(m->node, CHIMERA_FUSED_PARKED, m->id, chan->id,
				seq);
		if (wait_event_killable(chan->wait,
					READ_ONCE(chan->park) != seq ||
					serve_over(chan)))
			return;
	}
	if (READ_ONCE(chan->stuck) ||
	    !is_native(m, instruction_pointer(current_pt_regs()) + 1))
		do_exit(0);
	mirror_get(m);
	if (!queue_delayed_work(chimera_wq, &m->again_work, SERVE_AGAIN))
		mirror_put(m);
}

void serve_stuck(struct mirror_chan *chan)
{
	spin_lock_irq(&chan->mirror->lock);
	chan->stuck = true;
	serve_poke(chan);
	spin_unlock_irq(&chan->mirror->lock);
}

/* END goes to home; the channel is free if home has said CLOSE. */
static void serve_end(struct mirror_chan *chan, u32 status)
{
	struct fused_mirror *m = chan->mirror;
	u32 id = chan->id;

	spin_lock_irq(&m->lock);
	chan->state = SERVE_FREE;
	chan->end_due = false;
	chan->pf.state = PF_NONE;
	if (chan->ended)
		chan->id = 0;
	spin_unlock_irq(&m->lock);
	fused_post_chan(m->node, CHIMERA_FUSED_END, m->id, id, status);
}

/* The current thread does not serve any more. */
void serve_release(struct mirror_chan *chan)
{
	struct fused_mirror *m = chan->mirror;
	struct task_struct *task;

	current->chimera->serve = NULL;
	spin_lock_irq(&m->lock);
	task = chan->task;
	chan->task = NULL;
	spin_unlock_irq(&m->lock);
	/* nobody adds it any more */
	task_work_cancel(current, &chan->poke);
	chan->poked = false;
	if (current->seccomp.mode == SECCOMP_MODE_CHIMERA) {
		current->seccomp.mode = SECCOMP_MODE_DISABLED;
		clear_task_syscall_work(current, SECCOMP);
	}
	/* when all of the stub ends, LEFT will say so, and how */
	if (!(current->signal->flags & SIGNAL_GROUP_EXIT))
		serve_end(chan, 0);
	put_task_struct(task);
	mirror_put(m);
}

static void serve_end_work(struct work_struct *work)
{
	struct fused_mirror *m = container_of(work, struct fused_mirror,
					      end_work);
	struct mirror_chan *chan;
	unsigned int i;

	for (i = 0; i < CHIMERA_FUSED_CHANNELS; i++) {
		chan = &m->chan[i];
		if (READ_ONCE(chan->end_due))
			serve_end(chan, 0);
	}
	mirror_put(m);
}

/* ---- messages ---------------------------------------------------------- */

static void attach_rx(struct fused_mirror *m, struct mirror_chan *chan,
		      u32 channel, const struct fused_words *msg)
{
	if (chan->id || !channel) {
		chimera_drop(m->node, "channel that is in use");
		return;
	}
	chan->id = channel;
	chan->arg = le64_to_cpu(msg->word[0]);
	chan->state = SERVE_OFFERED;
	chan->ended = chan->end_due = chan->stuck = false;
	chan->asked = true;
	chan->words = false;
	chan->park = 0;
	chan->pf.state = PF_NONE;
	list_add_tail(&chan->offer, &m->offers);
	chimera_wake_all(&m->accept_wait);
}

static void words_rx(struct mirror_chan *chan, const struct fused_words *msg)
{
	if (!chan->asked) {
		chimera_drop(chan->mirror->node,
			     "words for a thread that runs");
		return;
	}
	for (int i = 0; i < CHIMERA_WORDS; i++)
		chan->word[i] = le64_to_cpu(msg->word[i]);
	chan->asked = false;
	WRITE_ONCE(chan->words, true);
	chimera_wake_all(&chan->wait);
}

static void close_rx(struct mirror_chan *chan)
{
	struct fused_mirror *m = chan->mirror;

	WRITE_ONCE(chan->ended, true);
	if (chan->state == SERVE_SERVED) {
		serve_poke(chan);
	} else if (chan->state == SERVE_FREE) {
		chan->id = 0;	/* END went before */
	} else {
		list_del_init(&chan->offer);
		chan->end_due = true;
		mirror_queue(m, &m->end_work);
	}
}

void serve_rx(struct fused_mirror *m, struct chimera_rx *rx)
{
	const struct fused_chan *msg = rx->body;
	u32 channel = le32_to_cpu(msg->channel);
	struct mirror_chan *chan = &m->chan[FUSED_INDEX(channel)];

	lockdep_assert_held(&m->lock);
	if (rx->hdr->type == CHIMERA_FUSED_ATTACH) {
		attach_rx(m, chan, channel, rx->body);
		return;
	}
	if (!channel || chan->id != channel || chan->ended)
		return;
	switch (rx->hdr->type) {
	case CHIMERA_FUSED_WORDS:
		words_rx(chan, rx->body);
		break;
	case CHIMERA_FUSED_PARK:
		WRITE_ONCE(chan->park, le32_to_cpu(msg->arg));
		serve_poke(chan);
		break;
	case CHIMERA_FUSED_RESUME:
		WRITE_ONCE(chan->park, 0);
		chimera_wake_all(&chan->wait);
		break;
	case CHIMERA_FUSED_CLOSE:
		close_rx(chan);
		break;
	default:
		chimera_drop(m->node, "unknown message about a process");
	}
}

/* ---- processor time ---------------------------------------------------- */

/* @run: what task_sched_runtime() says, or what was known a moment ago */
static void put_used(struct fused_cpu *msg, struct task_struct *task, u64 run)
{
	u64 user, system;

	task_cputime(task, &user, &system);
	*msg = (struct fused_cpu) {
		.run = cpu_to_le64(run),
		.user = cpu_to_le64(user),
		.system = cpu_to_le64(system),
	};
}

static bool serve_time_one(struct fused_mirror *m, unsigned int index)
{
	struct mirror_chan *chan = &m->chan[index];
	struct fused_time msg;
	bool runs;

	spin_lock_irq(&m->lock);
	runs = chan->task && !chan->asked && !serve_over(chan);
	if (runs) {
		msg.chan = (struct fused_chan) {
			.id = cpu_to_le64(m->id),
			.channel = cpu_to_le32(chan->id),
		};
		put_used(&msg.cpu, chan->task, task_sched_runtime(chan->task));
	}
	spin_unlock_irq(&m->lock);
	if (runs)
		fused_post(m->node, VIRTIO_FABRIC_CLASS_REQUEST,
			   CHIMERA_FUSED_TIME, &msg, sizeof(msg), NULL, 0);
	return runs;
}

/* Threads that run for long without asking anything of home. */
static void serve_time_work(struct work_struct *work)
{
	struct fused_mirror *m = container_of(to_delayed_work(work),
					      struct fused_mirror, time_work);
	bool more = false;

	for (unsigned int i = 0; i < CHIMERA_FUSED_CHANNELS; i++)
		more |= serve_time_one(m, i);
	if (!more ||
	    !queue_delayed_work(chimera_call_wq, &m->time_work, SERVE_TIME))
		mirror_put(m);
}

/* A thread is about to run; what it uses is looked at while it does. */
static void serve_time(struct fused_mirror *m)
{
	if (delayed_work_pending(&m->time_work))
		return;
	mirror_get(m);
	if (!queue_delayed_work(chimera_call_wq, &m->time_work, SERVE_TIME))
		mirror_put(m);
}

/* ---- asking home ------------------------------------------------------- */

/* Return: 0 with home's words; -EPIPE; -EINTR a fatal signal is pending. */
static int serve_words(struct mirror_chan *chan, u64 *word)
{
	struct fused_mirror *m = chan->mirror;
	int err = 0;

	if (wait_event_killable(chan->wait, READ_ONCE(chan->words) ||
				serve_over(chan)))
		return -EINTR;
	spin_lock_irq(&m->lock);
	if (chan->words)
		memcpy(word, chan->word, sizeof(chan->word));
	else
		err = -EPIPE;
	chan->words = false;
	spin_unlock_irq(&m->lock);
	if (!err)
		serve_time(m);
	return err;
}

static int serve_ask(struct mirror_chan *chan, u32 event, u64 *word)
{
	struct fused_mirror *m = chan->mirror;
	struct fused_event msg;

	spin_lock_irq(&m->lock);
	chan->asked = true;
	spin_unlock_irq(&m->lock);
	fused_put_words(&msg.words, m->id, chan->id, event, word);
	/* what it used since it was last scheduled comes with the next one */
	put_used(&msg.cpu, current, READ_ONCE(current->se.sum_exec_runtime));
	if (fused_post(m->node, VIRTIO_FABRIC_CLASS_REQUEST,
		       CHIMERA_FUSED_EVENT, &msg, sizeof(msg), NULL, 0)) {
		mirror_kill(m);
		return -EPIPE;
	}
	return serve_words(chan, word);
}

/* ---- system calls ------------------------------------------------------ */

/* What is of the processor that the thread runs on. */
static bool is_local(int nr, unsigned long arg)
{
	switch (nr) {
	case __NR_sched_yield:
	case __NR_getcpu:
		return true;
#ifdef __NR_arch_prctl
	case __NR_arch_prctl:
		return arg == ARCH_SET_FS || arg == ARCH_GET_FS;
#endif
	default:
		return false;
	}
}

int chimera_syscall(int nr)
{
	struct chimera_task *t = current->chimera;
	struct pt_regs *regs = current_pt_regs();
	struct mirror_chan *chan = t ? t->serve : NULL;
	unsigned long args[6];
	u64 word[CHIMERA_WORDS];

	if (!chan) {
		/* a child of a serving thread is an ordinary one */
		current->seccomp.mode = SECCOMP_MODE_DISABLED;
		clear_task_syscall_work(current, SECCOMP);
		return 0;
	}
	syscall_get_arguments(current, regs, args);
	if (is_native(chan->mirror, instruction_pointer(regs)) ||
	    is_local(nr, args[0]))
		return 0;
	if (nr == __NR_rseq) {
		/* would have to be done where the thread is at each moment */
		syscall_set_return_value(current, regs, -ENOSYS, 0);
		return -1;
	}
	word[0] = nr;
	for (int i = 0; i < 6; i++)
		word[i + 1] = args[i];
	word[7] = chimera->node[chimera->self]->elf_machine;
	/* on an error the thread ends on its way to user mode */
	if (serve_ask(chan, CHIMERA_EVENT_SYSCALL, word))
		word[0] = -EPIPE;
	syscall_set_return_value(current, regs, 0, word[0]);
	return -1;
}

/* ---- the descriptor ---------------------------------------------------- */

static long serve_accept(struct fused_mirror *m,
			 struct chimera_accept __user *arg)
{
	struct chimera_accept out = { };
	struct mirror_chan *chan = NULL;

	for (;;) {
		if (wait_event_interruptible(m->accept_wait,
					     !list_empty_careful(&m->offers) ||
					     READ_ONCE(m->dead)))
			return -ERESTARTSYS;
		if (READ_ONCE(m->dead))
			return -EPIPE;
		spin_lock_irq(&m->lock);
		chan = list_first_entry_or_null(&m->offers, struct mirror_chan,
						offer);
		if (chan) {
			list_del_init(&chan->offer);
			chan->state = SERVE_ACCEPTED;
			out.channel = chan->id;
			out.arg = chan->arg;
		}
		spin_unlock_irq(&m->lock);
		if (chan)
			break;
	}
	if (!copy_to_user(arg, &out, sizeof(out)))
		return 0;
	/* the next one may have it */
	spin_lock_irq(&m->lock);
	if (chan->id == out.channel && chan->state == SERVE_ACCEPTED &&
	    !chan->ended) {
		chan->state = SERVE_OFFERED;
		list_add(&chan->offer, &m->offers);
	}
	spin_unlock_irq(&m->lock);
	return -EFAULT;
}

/* Make the current thread the remote end of @channel. */
static int serve_begin(struct fused_mirror *m, u32 channel)
{
	struct mirror_chan *chan = &m->chan[FUSED_INDEX(channel)];
	struct chimera_task *t = fused_task();
	int err = 0;

	if (!t)
		return -ENOMEM;
	if (t->serve || current->seccomp.mode != SECCOMP_MODE_DISABLED)
		return -EBUSY;
	spin_lock_irq(&m->lock);
	if (m->dead) {
		err = -EPIPE;
	} else if (!channel || chan->id != channel) {
		err = -EINVAL;
	} else if (chan->state == SERVE_SERVED) {
		err = -EBUSY;
	} else if (chan->state != SERVE_ACCEPTED) {
		err = -EINVAL;
	} else if (chan->ended) {
		err = -EPIPE;
	} else {
		chan->state = SERVE_SERVED;
		chan->task = get_task_struct(current);
	}
	spin_unlock_irq(&m->lock);
	if (err)
		return err;
	mirror_get(m);
	t->serve = chan;
	current->seccomp.mode = SECCOMP_MODE_CHIMERA;
	set_task_syscall_work(current, SECCOMP);
	return 0;
}

static long serve_serve(struct fused_mirror *m,
			struct chimera_serve __user *arg)
{
	struct chimera_serve req;
	int err;

	if (copy_from_user(&req, arg, sizeof(req)))
		return -EFAULT;
	if (req.reserved)
		return -EINVAL;
	err = serve_begin(m, req.channel);
	if (err)
		return err;
	err = serve_words(current->chimera->serve, req.word);
	if (!err && copy_to_user(arg, &req, sizeof(req)))
		err = -EFAULT;
	if (err)
		serve_release(current->chimera->serve);
	return err;
}

static long serve_event(struct fused_mirror *m, u32 event, u64 *word)
{
	struct mirror_chan *chan = serve_chan(m);
	int err;

	if (!chan)
		return -EINVAL;
	err = serve_ask(chan, event, word);
	if (err == -EPIPE)
		serve_release(chan);
	return err;
}

static long serve_call(struct fused_mirror *m,
		       struct chimera_words __user *arg)
{
	struct chimera_words req;
	int err;

	if (copy_from_user(&req, arg, sizeof(req)))
		return -EFAULT;
	err = serve_event(m, CHIMERA_EVENT_MESSAGE, req.word);
	if (err)
		return err;
	return copy_to_user(arg, &req, sizeof(req)) ? -EFAULT : 0;
}

static long serve_faulted(struct fused_mirror *m,
			  struct chimera_faulted __user *arg)
{
	u64 word[CHIMERA_WORDS] = { };
	struct chimera_faulted req;

	if (copy_from_user(&req, arg, sizeof(req)))
		return -EFAULT;
	if (!req.signal || req.signal > _NSIG)
		return -EINVAL;
	word[0] = req.signal;
	word[1] = req.code;
	word[2] = req.address;
	word[3] = req.pc;
	return serve_event(m, CHIMERA_EVENT_FAULT, word);
}

static long serve_native(struct fused_mirror *m,
			 struct chimera_native __user *arg)
{
	struct chimera_native req;
	int err = 0;

	if (copy_from_user(&req, arg, sizeof(req)))
		return -EFAULT;
	if (req.start >= req.end || req.end > TASK_SIZE)
		return -EINVAL;
	spin_lock_irq(&m->lock);
	if (m->nr_native == FUSED_NATIVE) {
		err = -ENOSPC;
	} else {
		m->native[m->nr_native] = req;
		/* pairs with is_native() */
		smp_store_release(&m->nr_native, m->nr_native + 1);
	}
	spin_unlock_irq(&m->lock);
	return err;
}

long serve_ioctl(struct fused_mirror *m, unsigned int cmd, unsigned long arg)
{
	void __user *p = (void __user *)arg;

	switch (cmd) {
	case CHIMERA_IOC_ACCEPT:
		return serve_accept(m, p);
	case CHIMERA_IOC_SERVE:
		return serve_serve(m, p);
	case CHIMERA_IOC_CALL:
		return serve_call(m, p);
	case CHIMERA_IOC_NATIVE:
		return serve_native(m, p);
	case CHIMERA_IOC_FAULTED:
		return serve_faulted(m, p);
	default:
		return -ENOTTY;
	}
}

void serve_init(struct fused_mirror *m)
{
	INIT_WORK(&m->end_work, serve_end_work);
	INIT_DELAYED_WORK(&m->again_work, serve_again_work);
	INIT_DELAYED_WORK(&m->time_work, serve_time_work);
	INIT_LIST_HEAD(&m->offers);
	init_waitqueue_head(&m->accept_wait);
	for (unsigned int i = 0; i < CHIMERA_FUSED_CHANNELS; i++) {
		struct mirror_chan *chan = &m->chan[i];

		chan->mirror = m;
		INIT_LIST_HEAD(&chan->offer);
		init_waitqueue_head(&chan->wait);
		init_task_work(&chan->poke, serve_poked);
	}
}
