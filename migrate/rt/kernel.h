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

/* kernel.c: the calling thread @t ends while its other end runs. */
void chimera_kernel_leave(const struct thread *t);

/* affinity.c */
void chimera_affinity_start(void);
unsigned chimera_node_cpus(int node);
bool chimera_affinity_inherit(uint64_t tp);
void chimera_affinity_disown(uint64_t tp);
void chimera_affinity_take(struct thread *t);
void chimera_affinity_place(int node, unsigned cpu);
void chimera_affinity_end(void);
void chimera_affinity_forked(int32_t tid);
int chimera_affinity_node(const struct thread *t);
void chimera_affinity_arrived(struct thread *t, bool fresh);
bool chimera_affinity_syscall(long n, const long a[6], long *ret);
long chimera_getcpu(unsigned *ret_cpu, unsigned *ret_node);

/* control.c: as a request from outside; CONTROL_AFFINITY: its mask is new */
#define CONTROL_AFFINITY (-2)
void chimera_control_post(int32_t tid, int32_t node);
void chimera_control_end(int32_t tid);

/* place.c */
void chimera_place_disown(uint64_t tp);

_Static_assert(sizeof(struct message) == 8 * CHIMERA_WORDS, "one message");
_Static_assert(MAX_NODES == CHIMERA_MAX_NODES, "thread.h");

#endif
