/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A program on a node with this command's stdin, stdout, stderr and signals:
 * exec, and the middle of run.
 */
#ifndef CHIMERA_SESSION_H
#define CHIMERA_SESSION_H

#include <glib.h>
#include <stdbool.h>

enum session_tty { TTY_AUTO, TTY_NO, TTY_YES };

struct session_options {
    char **env; /* "NAME=VALUE"; NULL-terminated, or NULL */
    char *cwd; /* in the guest; NULL: from the host's working directory */
    char *user; /* "UID" or "UID:GID"; NULL: root */
    enum session_tty tty;
    bool no_stdin;
};

/*
 * Runs @argv on node @index of machine @machine.
 * Return: what the command exits with: the program's status, 128 + signal,
 * 126 or 127 with a message printed; -1 with @error when the session could
 * not be had or broke.
 */
int session_run(const char *machine, unsigned index, const char *node_name,
                const char *share, char **argv,
                const struct session_options *options, GError **error);

/* A console: raw, ^] leaves. Return: an exit code. */
int session_console(const char *machine, unsigned index, const char *node_name,
                    bool log_only, GError **error);

#endif
