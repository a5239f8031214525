/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Starting a machine from a command and seeing it end: up and run. */
#ifndef CHIMERA_LAUNCH_H
#define CHIMERA_LAUNCH_H

#include "supervisor.h"

#include <json-glib/json-glib.h>

struct launch;

/*
 * Starts the supervisor and waits until the machine is up, showing progress.
 * signals_block() was called before.
 * Return: NULL with @error, or with *ret_signal set when a signal ended the
 * wait; nothing is left of the machine in both cases.
 */
struct launch *launch_start(const struct supervisor_options *options,
                            bool quiet, int *ret_signal, GError **error);

/* The machine's status when it was up; belongs to the launch. */
JsonNode *launch_status(const struct launch *l);

/*
 * Ends the machine and waits until nothing is left; SIGINT hurries it.
 * false when the supervisor had died: its guard cleaned up.
 */
bool launch_stop(struct launch *l, bool at_once);

/* Leaves the machine running. */
void launch_leave(struct launch *l);

#endif
