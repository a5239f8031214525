// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Ticket locks whose waiters can be overtaken: waiting.
 */
#include <linux/build_bug.h>
#include <linux/export.h>
#include <linux/moduleparam.h>
#include <linux/spinlock.h>

/*
 * A ticket that was overtaken looks like a new one again 256 tickets later.
 * With at most 127 in the queue it takes 129 acquisitions during which its
 * waiter does not run once, and then it merely waits once more.
 */
static_assert(CONFIG_NR_CPUS <= 127);

/* Looks at the lock for each place in the queue before waiting out of order */
static unsigned int spins __read_mostly = 64;
module_param(spins, uint, 0644);

/* How many are before @ticket; none if it was overtaken or is next. */
static __always_inline u8 ticket_lock_ahead(u32 val, u8 ticket)
{
	u8 head = val >> TICKET_HEAD_SHIFT, tail = val >> TICKET_TAIL_SHIFT;
	u8 ahead = ticket - head;

	return ahead < (u8)(tail - head) ? ahead : 0;
}

void __lockfunc preemptable_ticket_lock_wait(arch_spinlock_t *lock)
{
	u8 ticket, head, ahead;
	unsigned int spun;
	u32 val;

	val = atomic_fetch_add_relaxed(1 << TICKET_TAIL_SHIFT, &lock->val);
	ticket = val >> TICKET_TAIL_SHIFT;

	for (spun = 0;; spun++) {
		ahead = ticket_lock_ahead(atomic_read(&lock->val), ticket);
		if (!ahead || spun >= (u64)ahead * READ_ONCE(spins))
			break;
		cpu_relax();
	}

	do {
		smp_cond_load_relaxed(&lock->locked, !VAL);
	} while (cmpxchg_acquire(&lock->locked, 0, TICKET_LOCKED));

	/*
	 * The lock is ours, and with it head. It goes past our ticket, unless
	 * it did so already, and never past tail.
	 */
	val = atomic_read(&lock->val);
	head = val >> TICKET_HEAD_SHIFT;
	if ((u8)(ticket - head) < (u8)((val >> TICKET_TAIL_SHIFT) - head))
		WRITE_ONCE(lock->head, ticket + 1);
}
EXPORT_SYMBOL(preemptable_ticket_lock_wait);
