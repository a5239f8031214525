/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "command.h"
#include "start.h"
#include "util.h"

#include <stdio.h>

int builtin_up(char **args)
{
    struct start_options start = { 0 };
    bool json = false;
    const struct option_spec specs[] = {
        START_OPTIONS(start),
        { "json", 0, OPTION_FLAG, &json },
        { NULL },
    };
    g_autoptr(MachineConfig) config = NULL;
    struct accel_choice *accels = NULL;
    GError *error = NULL;
    struct launch *launch;
    const char *conf;
    int signal = 0;

    if (!command_options("up", specs, &args)) {
        return EXIT_USAGE;
    }
    conf = *args;
    if (!conf) {
        return command_usage("up", "CONF is missing");
    }
    args++;
    if (!command_options("up", specs, &args)) {
        return EXIT_USAGE;
    }
    if (*args) {
        return command_usage("up", "unexpected '%s'", *args);
    }
    config = start_prepare(conf, &start, &accels, &error);
    if (!config) {
        return command_failed(EXIT_FAILED, error);
    }
    launch = start_machine(config, accels, &start, false, &signal, &error);
    accel_choices_free(accels, config->nodes->len);
    if (!launch) {
        return error ? command_failed(EXIT_FAILED, error)
                     : EXIT_SIGNAL_BASE + signal;
    }
    if (json) {
        g_autofree char *text = json_to_string(launch_status(launch), TRUE);

        printf("%s\n", text);
    }
    launch_leave(launch);
    return EXIT_OK;
}
