/* SPDX-License-Identifier: GPL-2.0-or-later */
/* In the place of queued spinlocks' types, see asm/qspinlock.h beside this. */
#ifndef __TICKET_LOCK_ASM_GENERIC_QSPINLOCK_TYPES_H
#define __TICKET_LOCK_ASM_GENERIC_QSPINLOCK_TYPES_H

#ifdef CONFIG_PREEMPTABLE_TICKET_LOCK
#include <asm-generic/preemptable_ticket_types.h>
#else
#include <asm-generic/spinlock_types.h>
#endif

#endif /* __TICKET_LOCK_ASM_GENERIC_QSPINLOCK_TYPES_H */
