/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The commands: one builtin-NAME.c each, the table is in main.c. */
#ifndef CHIMERA_COMMAND_H
#define CHIMERA_COMMAND_H

#include "options.h"

struct command {
    const char *name, *summary;
    int (*run)(char **args); /* without the command's name; an exit code */
    const char *usage; /* after "usage: chimera NAME" */
};

extern const struct command commands[];

/* "chimera: ..." on stderr and, for usage errors, where to look. */
int command_failed(int code, GError *error);
int command_usage(const char *name, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

/* Parses options, prints errors; @code is what a usage error exits with. */
bool command_options(const char *name, const struct option_spec *specs,
                     char ***args);

void command_help(const struct command *c);

int builtin_bench(char **args);
int builtin_console(char **args);
int builtin_down(char **args);
int builtin_exec(char **args);
int builtin_help(char **args);
int builtin_list(char **args);
int builtin_migrate(char **args);
int builtin_report(char **args);
int builtin_run(char **args);
int builtin_stats(char **args);
int builtin_status(char **args);
int builtin_top(char **args);
int builtin_up(char **args);
int builtin_validate(char **args);
int builtin_version(char **args);

#endif
