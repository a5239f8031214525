/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The supervisor's end of control-proto.h. */
#ifndef CHIMERA_CONTROL_H
#define CHIMERA_CONTROL_H

#include "machine.h"

struct control;

/*
 * Serves @lifeline_fd, the connection of the command that started the machine
 * (taken over), and sets @m's callbacks.
 * @ephemeral: the machine ends when that command goes away; else it does so
 * only while it is not RUNNING yet.
 */
struct control *control_new(struct machine *m, int lifeline_fd, bool ephemeral);

/* Listens on RUN/control.sock. */
bool control_listen(struct control *c, GError **error);

/* The machine is recorded from the moment when it is up. */
struct recorder;
void control_record(struct control *c, struct recorder *recorder);

/* As machine_stop(), after a last look at its counters. */
void control_stop(struct control *c, bool at_once);

/* Tells everybody that is still connected: all is gone, or @error_text. */
void control_finish(struct control *c, const char *error_text);

#endif
