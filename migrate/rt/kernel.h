/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What both ends of the kernel transport share: kernel.c and stub.c. */
#ifndef CHIMERA_RT_KERNEL_H
#define CHIMERA_RT_KERNEL_H

#include "thread.h"

#include <linux/chimera.h>

/*
 * Home's memory as its peers see it: from MIRROR_START to MIRROR_END, but for
 * the image's private part.  What is a peer's own lies above.
 */
#define MIRROR_START    0x10000ul
#define MIRROR_END      0x7fff00000000ul

/*
 * In a message of home: the channel is new, but the thread is in the middle of
 * an exchange.  So it is in a child of fork.
 */
#define MESSAGE_RESUMES (1u << 31)

_Static_assert(sizeof(struct message) == 8 * CHIMERA_WORDS, "one message");
_Static_assert(MAX_NODES == CHIMERA_MAX_NODES, "thread.h");

#endif
