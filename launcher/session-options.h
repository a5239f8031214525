/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Options of run and exec about the program and its surroundings. */
#ifndef CHIMERA_SESSION_OPTIONS_H
#define CHIMERA_SESSION_OPTIONS_H

#include "options.h"
#include "session.h"

struct session_args {
    GPtrArray *env; /* as given with -e */
    bool keep_env, tty, no_tty, no_stdin;
    char *cwd, *user;
};

#define SESSION_OPTIONS(s)                               \
    { "env", 'e', OPTION_LIST, (s).env },                \
        { "keep-env", 'E', OPTION_FLAG, &(s).keep_env }, \
        { "cwd", 0, OPTION_STRING, &(s).cwd },           \
        { "user", 0, OPTION_STRING, &(s).user },         \
        { "tty", 't', OPTION_FLAG, &(s).tty },           \
        { "no-tty", 'T', OPTION_FLAG, &(s).no_tty },     \
    {                                                    \
        "no-stdin", 'n', OPTION_FLAG, &(s).no_stdin      \
    }

/* Checks them; @ret's strings live as long as @s and ret->env is new. */
bool session_options_make(const struct session_args *s,
                          struct session_options *ret, GError **error);

#endif
