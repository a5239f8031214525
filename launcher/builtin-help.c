/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "command.h"
#include "util.h"

#include <stdio.h>
#include <string.h>

int builtin_help(char **args)
{
    if (args[0]) {
        for (const struct command *c = commands; c->name; c++) {
            if (!strcmp(c->name, args[0])) {
                command_help(c);
                return EXIT_OK;
            }
        }
        return command_usage("help", "unknown command '%s'", args[0]);
    }
    printf("usage: chimera COMMAND [ARG...]\n\n");
    for (const struct command *c = commands; c->name; c++) {
        printf("  %-10s %s\n", c->name, c->summary);
    }
    printf("\n'chimera help COMMAND' or man chimera-COMMAND say more.\n");
    return EXIT_OK;
}
