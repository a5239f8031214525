/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * In the place of the queued spinlocks that asm/spinlock.h asks for: ticket
 * locks, the generic ones or those whose waiters can be overtaken.
 */
#ifndef __TICKET_LOCK_ASM_QSPINLOCK_H
#define __TICKET_LOCK_ASM_QSPINLOCK_H

#include <linux/jump_label.h>
#include <asm-generic/qspinlock_types.h>

#ifdef CONFIG_PREEMPTABLE_TICKET_LOCK
#include <asm-generic/preemptable_ticket.h>
#else
#include <asm-generic/spinlock.h>
#endif

#ifdef CONFIG_PARAVIRT
/* native_pv_lock_init() turns it on in guests, for queued locks to look at. */
DECLARE_STATIC_KEY_FALSE(virt_spin_lock_key);
#endif

#endif /* __TICKET_LOCK_ASM_QSPINLOCK_H */
