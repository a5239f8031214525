/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the rest of the kernel calls for threads of fused processes. Their
 * state, task_struct.chimera, belongs to drivers/chimera and is only ever
 * touched by the thread itself. Described in docs/fused.md.
 */
#ifndef _LINUX_CHIMERA_TASK_H
#define _LINUX_CHIMERA_TASK_H

#include <linux/sched.h>

/*
 * seccomp.mode of a thread that serves another node's thread: its system calls
 * are done at that thread's home. Never seen by user space's seccomp().
 */
#define SECCOMP_MODE_CHIMERA	0x63

#ifdef CONFIG_CHIMERA

/*
 * chimera_syscall() - a serving thread makes system call @nr.
 * Return: 0 do it here; -1 it was done, the result stands in the registers.
 */
int chimera_syscall(int nr);
void chimera_task_release(struct task_struct *tsk);

/* A new task is nobody's part, whatever its parent is. */
static inline void chimera_task_init(struct task_struct *tsk)
{
	tsk->chimera = NULL;
}

/* May sleep; @tsk is current and still has its mm. */
static inline void chimera_task_exit(struct task_struct *tsk)
{
	if (unlikely(tsk->chimera))
		chimera_task_release(tsk);
}

#else

static inline int chimera_syscall(int nr)
{
	return 0;
}

static inline void chimera_task_init(struct task_struct *tsk)
{
}

static inline void chimera_task_exit(struct task_struct *tsk)
{
}

#endif

#endif /* _LINUX_CHIMERA_TASK_H */
