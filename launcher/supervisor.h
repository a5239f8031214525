/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The supervisor: the process that owns a machine. `up` and `run` fork it;
 * it has a session of its own, so that signals of a terminal and a stopped or
 * blocked command never touch the machine.
 */
#ifndef CHIMERA_SUPERVISOR_H
#define CHIMERA_SUPERVISOR_H

#include "config.h"
#include "preflight.h"

#include <sys/types.h>

struct supervisor_options {
    const struct machine_config *config;
    const struct accel_choice *accels;
    bool ephemeral; /* ends with the command that started it (run) */
    bool echo_floor; /* see machine.h */
    const char *logs_dir; /* where log files stay; NULL: with the rest */
    const char *record; /* file of the recording; NULL: there is none */
};

/*
 * Forks the supervisor. *ret_fd: the control connection to it; it reads as
 * ended only when nothing of the machine is left, not even its guard.
 * Called before the caller has any thread or event source.
 */
bool supervisor_fork(const struct supervisor_options *options, int *ret_fd,
                     pid_t *ret_pid, GError **error);

#endif
