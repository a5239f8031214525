/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What up and run have in common, up to the machine that stands. */
#ifndef CHIMERA_START_H
#define CHIMERA_START_H

#include "launch.h"
#include "options.h"

struct start_options {
    char *share, *name, *logs, *record;
    bool quiet, echo_floor;
};

/* The rows of an option table for it. */
#define START_OPTIONS(s)                         \
    { "share", 0, OPTION_STRING, &(s).share },   \
        { "name", 0, OPTION_STRING, &(s).name }, \
        { "logs", 0, OPTION_STRING, &(s).logs }, \
        { "record", 0, OPTION_STRING, &(s).record }, \
    {                                            \
        "quiet", 'q', OPTION_FLAG, &(s).quiet    \
    }

/*
 * Reads and checks the configuration @conf. Blocks signals first of all.
 * @ret_accels: see preflight(); to be freed after the start.
 */
struct machine_config *start_prepare(const char *conf,
                                     const struct start_options *o,
                                     struct accel_choice **ret_accels,
                                     GError **error);

/* As launch_start(). */
struct launch *start_machine(const struct machine_config *config,
                             const struct accel_choice *accels,
                             const struct start_options *o, bool ephemeral,
                             int *ret_signal, GError **error);

#endif
