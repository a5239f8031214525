/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "command.h"
#include "control-proto.h"
#include "util.h"

#include <stdio.h>

int builtin_version(char **args)
{
    bool json = false;
    const struct option_spec specs[] = {
        { "json", 0, OPTION_FLAG, &json },
        { NULL },
    };

    if (!command_options("version", specs, &args)) {
        return EXIT_USAGE;
    }
    if (args[0]) {
        return command_usage("version", "unexpected '%s'", args[0]);
    }
    printf(json ? "{\"version\":\"%s\",\"control_protocol\":%d,"
                  "\"agent_protocol\":%d}\n"
                : "chimera %s\ncontrol protocol %d\nagent protocol %d\n",
           CHIMERA_VERSION, CTL_VERSION, AGENT_PROTO_VERSION);
    return EXIT_OK;
}
