/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Asks a program's home node to move it: chimera-migrate there does it. */
#include "command.h"
#include "session.h"
#include "signals.h"
#include "target.h"
#include "util.h"

#include <string.h>

static bool is_process(const char *s)
{
    const char *slash = strchr(s, '/');
    size_t first = strspn(s, "0123456789");

    if (!slash) {
        return first && !s[first];
    }
    return first && s + first == slash && slash[1] &&
           !slash[1 + strspn(slash + 1, "0123456789")];
}

int builtin_migrate(char **args)
{
    g_autofree char *from = NULL, *to = NULL;
    char *home = NULL;
    const struct option_spec specs[] = {
        { "home", 0, OPTION_STRING, &home },
        { NULL },
    };
    struct target_node target = { 0 }, start = { 0 };
    /* Without a terminal or input: it may be one of many in a script. */
    const struct session_options options = { .cwd = (char *)"/",
                                             .tty = TTY_NO,
                                             .no_stdin = true };
    GError *error = NULL;
    int code;

    if (!command_options("migrate", specs, &args)) {
        return EXIT_USAGE;
    }
    if (!args[0] || !args[1]) {
        return command_usage("migrate", "PID[/TID] and NODE are missing");
    }
    if (args[2]) {
        return command_usage("migrate", "unexpected '%s'", args[2]);
    }
    if (!is_process(args[0])) {
        return command_usage("migrate", "'%s' is not PID or PID/TID", args[0]);
    }
    if (!target_node(args[1], &target, &error)) {
        return command_failed(EXIT_FAILED, error);
    }
    /* The home is in the same machine, whatever its nodes are called. */
    from = g_strdup_printf("%s/%s", target.machine, home ? home : "0");
    if (!target_node(from, &start, &error)) {
        target_node_clear(&target);
        return command_failed(EXIT_FAILED, error);
    }
    to = g_strdup_printf("%u", target.index);
    signals_block();
    code = session_run(
        start.machine, start.index, start.name, start.share,
        (char *[]){ (char *)"chimera-migrate", args[0], to, NULL }, &options,
        &error);
    target_node_clear(&start);
    target_node_clear(&target);
    return code < 0 ? command_failed(EXIT_FAILED, error) : code;
}
