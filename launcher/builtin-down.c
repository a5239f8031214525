/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "client.h"
#include "command.h"
#include "rundir.h"
#include "target.h"
#include "util.h"

static bool stop(const char *machine, bool force)
{
    g_autoptr(GError) error = NULL;

    if (client_down(machine, force, &error) ||
        (force && !g_error_matches(error, CHIMERA_ERROR, CHIMERA_ERROR_TARGET) &&
         client_kill(machine, NULL))) {
        return true;
    }
    complain("%s", error->message);
    return false;
}

int builtin_down(char **args)
{
    bool all = false, force = false;
    const struct option_spec specs[] = {
        { "all", 'a', OPTION_FLAG, &all },
        { "force", 'f', OPTION_FLAG, &force },
        { NULL },
    };
    int code = EXIT_OK;

    if (!command_options("down", specs, &args)) {
        return EXIT_USAGE;
    }
    if (all && *args) {
        return command_usage("down", "--all takes no machine");
    }
    if (all) {
        g_auto(GStrv) names = rundir_list();

        for (char **name = names; *name; name++) {
            code = stop(*name, force) ? code : EXIT_FAILED;
        }
        return code;
    }
    do {
        GError *error = NULL;
        g_autofree char *machine = target_machine(*args, &error);

        if (!machine) {
            code = command_failed(EXIT_FAILED, error);
        } else if (!stop(machine, force)) {
            code = EXIT_FAILED;
        }
    } while (*args && *++args);
    return code;
}
