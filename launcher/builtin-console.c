/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "command.h"
#include "session.h"
#include "signals.h"
#include "target.h"
#include "util.h"

int builtin_console(char **args)
{
    bool log = false;
    const struct option_spec specs[] = {
        { "log", 0, OPTION_FLAG, &log },
        { NULL },
    };
    struct target_node target = { 0 };
    GError *error = NULL;
    int code;

    if (!command_options("console", specs, &args)) {
        return EXIT_USAGE;
    }
    if (!*args) {
        return command_usage("console", "NODE is missing");
    }
    if (args[1]) {
        return command_usage("console", "unexpected '%s'", args[1]);
    }
    if (!target_node(*args, &target, &error)) {
        return command_failed(EXIT_FAILED, error);
    }
    signals_block();
    code =
        session_console(target.machine, target.index, target.name, log, &error);
    target_node_clear(&target);
    return code < 0 ? command_failed(EXIT_FAILED, error) : code;
}
