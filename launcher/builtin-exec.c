/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "command.h"
#include "session-options.h"
#include "signals.h"
#include "target.h"
#include "util.h"

int builtin_exec(char **args)
{
    g_autoptr(GPtrArray) env = g_ptr_array_new();
    struct session_args session = { .env = env };
    struct session_options session_options;
    const struct option_spec specs[] = {
        SESSION_OPTIONS(session),
        { NULL },
    };
    g_auto(GStrv) session_env = NULL;
    struct target_node target = { 0 };
    GError *error = NULL;
    const char *node;
    bool dashes;
    int code;

    if (!options_parse(specs, &args, &dashes, &error)) {
        goto usage;
    }
    node = *args;
    if (!node) {
        return command_usage("exec", "NODE and PROG are missing");
    }
    args++;
    if (!dashes && !options_parse(specs, &args, &dashes, &error)) {
        goto usage;
    }
    if (!*args) {
        return command_usage("exec", "PROG is missing");
    }
    if (!session_options_make(&session, &session_options, &error)) {
        goto usage;
    }
    session_env = session_options.env;
    if (!target_node(node, &target, &error)) {
        return command_failed(EXIT_LAUNCHER, error);
    }
    signals_block();
    code = session_run(target.machine, target.index, target.name, target.share,
                       args, &session_options, &error);
    target_node_clear(&target);
    return code < 0 ? command_failed(EXIT_LAUNCHER, error) : code;

usage:
    code = command_usage("exec", "%s", error->message);
    g_error_free(error);
    return code;
}
