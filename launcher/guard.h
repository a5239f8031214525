/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guard: a small process beside a machine's supervisor that removes what
 * is left when the supervisor ends, however it ends. There is no other code
 * that cleans up; a supervisor that ends in good order just lets it run.
 *
 * It holds the machine's lock and one end of a socket pair. The supervisor
 * hands it a pidfd for each QEMU; end of file means: end those, wait until
 * they are gone, remove the run directory. It ignores all signals that can
 * be ignored and lives in a session of its own.
 */
#ifndef CHIMERA_GUARD_H
#define CHIMERA_GUARD_H

#include "rundir.h"

struct guard;

/*
 * @lifeline_fd: kept open by the guard until it has finished (-1: none), so
 * that whoever reads the other end sees its end only when nothing is left.
 */
struct guard *guard_start(const struct rundir *rd, int lifeline_fd,
                          GError **error);

/*
 * A guard that died is replaced (its pidfds are handed to the new one).
 * To be called when guard_fd() is readable, which happens for nothing else.
 */
bool guard_restart(struct guard *guard, GError **error);

int guard_fd(const struct guard *guard);

/*
 * Hands over a process; @pidfd stays the caller's and must stay open.
 * @ask: SIGTERM ends it, and what depends on it elsewhere; only if that takes
 * too long it is killed.
 */
bool guard_watch(struct guard *guard, int pidfd, bool ask, GError **error);

/* Lets it clean up and waits for its end. */
void guard_finish(struct guard *guard);

#endif
