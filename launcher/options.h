/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Command lines: options first, then operands, in POSIX order. */
#ifndef CHIMERA_OPTIONS_H
#define CHIMERA_OPTIONS_H

#include <glib.h>
#include <stdbool.h>

struct option_spec {
    const char *name; /* "--name"; NULL ends the table */
    char letter; /* "-n", 0: none */
    enum { OPTION_FLAG, OPTION_STRING, OPTION_LIST } kind;
    void *target; /* bool *, char **, GPtrArray * (of char *, not copied) */
};

/*
 * Takes options from the front of @args until an operand or past "--";
 * *@args then points at the rest. *@ret_dashes: "--" ended it.
 */
bool options_parse(const struct option_spec *specs, char ***args,
                   bool *ret_dashes, GError **error);

#endif
