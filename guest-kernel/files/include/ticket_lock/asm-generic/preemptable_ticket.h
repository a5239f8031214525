/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Ticket locks whose waiters can be overtaken.
 *
 * Tickets are but advice on who is to try next. What excludes is the byte
 * `locked` alone, so nothing that happens to head and tail (a waiter that was
 * not there for 256 others, two that think it is their turn) lets two in.
 * Documentation of what is fair about them, and what is proved, stands in
 * docs/locks.md of the project that this file belongs to.
 *
 * Ordering is what queued spinlocks have: acquire by the atomic that sets
 * `locked`, release by the store that clears it.
 */
#ifndef __ASM_GENERIC_PREEMPTABLE_TICKET_H
#define __ASM_GENERIC_PREEMPTABLE_TICKET_H

#include <linux/atomic.h>
#include <asm-generic/preemptable_ticket_types.h>

#define TICKET_LOCKED		1
#define TICKET_HEAD_SHIFT	8
#define TICKET_TAIL_SHIFT	24

extern void preemptable_ticket_lock_wait(arch_spinlock_t *lock);

static __always_inline void arch_spin_lock(arch_spinlock_t *lock)
{
	u32 val = atomic_read(&lock->val);
	int old = val;

	/* Not locked, and head == tail: who meets no other needs no ticket. */
	if (likely(!(u16)(val ^ val >> 16) &&
		   atomic_try_cmpxchg_acquire(&lock->val, &old,
					      val | TICKET_LOCKED)))
		return;
	preemptable_ticket_lock_wait(lock);
}

/* Takes what is free, also when others wait: it cannot wait for its turn. */
static __always_inline int arch_spin_trylock(arch_spinlock_t *lock)
{
	return !READ_ONCE(lock->locked) &&
	       likely(!cmpxchg_acquire(&lock->locked, 0, TICKET_LOCKED));
}

static __always_inline void arch_spin_unlock(arch_spinlock_t *lock)
{
	/* Pairs with the cmpxchg of whoever takes the lock next. */
	smp_store_release(&lock->locked, 0);
}

static __always_inline int arch_spin_value_unlocked(arch_spinlock_t lock)
{
	return !lock.locked;
}

static __always_inline int arch_spin_is_locked(arch_spinlock_t *lock)
{
	return READ_ONCE(lock->locked);
}

static __always_inline int arch_spin_is_contended(arch_spinlock_t *lock)
{
	u32 val = atomic_read(&lock->val);

	return (u8)(val >> TICKET_HEAD_SHIFT) != val >> TICKET_TAIL_SHIFT;
}

#endif /* __ASM_GENERIC_PREEMPTABLE_TICKET_H */
