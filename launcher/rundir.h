/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The run directory of one machine, see docs/launcher.md. Whoever holds the
 * flock on its file "lock" owns the machine; a directory whose lock nobody
 * holds is stale. The lock belongs to an open file description: it is shared
 * with the guard by fork and is free only when both have ended.
 */
#ifndef CHIMERA_RUNDIR_H
#define CHIMERA_RUNDIR_H

#include <glib.h>
#include <stdbool.h>
#include <sys/types.h>

struct rundir {
    char *name; /* of the machine */
    char *path;
    int lock_fd;
};

/*
 * Creates the directory of machine @name, taking the place of a stale one,
 * and locks it. Fails naming the owner when it is in use.
 */
struct rundir *rundir_create(const char *name, GError **error);

/* Frees the memory and the descriptor; the directory stays. */
void rundir_free(struct rundir *rd);

char *rundir_file(const struct rundir *rd, const char *name);

/* Removes the directory with all that is in it; the caller holds the lock. */
void rundir_remove(const char *path);

enum rundir_state { RUNDIR_NONE, RUNDIR_STALE_REMOVED, RUNDIR_OWNED };

/*
 * Looks at machine @name; a stale directory is removed. *ret_pid: the owner
 * as it wrote itself down, 0 when it has not yet.
 */
enum rundir_state rundir_probe(const char *name, pid_t *ret_pid);

/* Names of all machines that are owned, sorted; stale ones are removed. */
char **rundir_list(void);

/* The longest path that a socket of a machine with @nr_nodes will have. */
char *rundir_longest_socket(const char *name, unsigned nr_nodes);

#endif
