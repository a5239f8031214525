/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef __ASM_GENERIC_PREEMPTABLE_TICKET_TYPES_H
#define __ASM_GENERIC_PREEMPTABLE_TICKET_TYPES_H

#include <linux/types.h>

/*
 * @locked: the lock: who changes it from 0 to 1 has it.
 * @head:   the first ticket that is not served yet. Written by the holder only.
 * @tail:   the next ticket to hand out, on top of the word so that it wraps
 *          without a carry into the others.
 */
typedef struct {
	union {
		atomic_t val;
		struct {
#ifdef __LITTLE_ENDIAN
			u8 locked;
			u8 head;
			u8 zero;
			u8 tail;
#else
			u8 tail;
			u8 zero;
			u8 head;
			u8 locked;
#endif
		};
	};
} arch_spinlock_t;

#define __ARCH_SPIN_LOCK_UNLOCKED	{ { .val = ATOMIC_INIT(0) } }

#endif /* __ASM_GENERIC_PREEMPTABLE_TICKET_TYPES_H */
