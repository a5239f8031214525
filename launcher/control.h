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

/* Tells everybody that is still connected: all is gone, or @error_text. */
void control_finish(struct control *c, const char *error_text);

#endif
