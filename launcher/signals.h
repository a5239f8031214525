/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Signals of a command that waits for something: SIGINT, SIGTERM, SIGHUP,
 * SIGQUIT and SIGWINCH arrive as events on the main loop. Blocked first thing
 * and looked at later, so that none can hit between two steps.
 */
#ifndef CHIMERA_SIGNALS_H
#define CHIMERA_SIGNALS_H

typedef void signal_handler(int signal, void *opaque);

/* From here on they stay pending. Also: SIGPIPE is ignored. */
void signals_block(void);

/* From here on they go to @handler; a second call replaces it. */
void signals_handle(signal_handler *handler, void *opaque);

#endif
