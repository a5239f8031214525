/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How a boot goes, on stderr: one line that is redrawn on a terminal, a line
 * per event elsewhere, nothing when quiet.
 */
#ifndef CHIMERA_PROGRESS_H
#define CHIMERA_PROGRESS_H

#include "config.h"

struct progress;

struct progress *progress_new(const struct machine_config *config, bool quiet);
/* As in CTL_PROGRESS: "starting", "booting", "agent" or "up". */
void progress_event(struct progress *p, unsigned node, const char *event,
                    double seconds);
void progress_phase(struct progress *p, const char *phase);
/* Takes the line away; @summary (or NULL) is what stays. */
void progress_free(struct progress *p, const char *summary);

#endif
