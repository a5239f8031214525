/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Starting a program for somebody who is elsewhere: the agent does it for the
 * launcher, noded for another node.
 *
 * A child leads its own session and process group and, where control groups
 * are mounted, lives in a group of its own, so that it can be ended together
 * with everything that it started.
 */
#ifndef GUEST_SPAWN_H
#define GUEST_SPAWN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define SPAWN_TEXT_BYTES 256
#define SPAWN_GROUP_BYTES 64
#define SPAWN_DEFAULT_PATH "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"

struct spawn_request {
    char **argv; /* argv[0] is looked up in the PATH of envp */
    char **envp;
    const char *cwd; /* NULL: / */
    uid_t uid;
    gid_t gid;
    const gid_t *groups; /* supplementary */
    size_t nr_groups;
    bool tty;
    uint16_t rows, cols;
    const char *group; /* name of the control group to make */
};

/** A child; every descriptor is close-on-exec and non-blocking. */
struct spawn_child {
    pid_t pid; /* the caller sets it to 0 once it has reaped the process */
    int status_fd; /* readable once the program runs or could not start */
    int in;        /* to write its standard input to */
    int out;       /* to read its output from; tty: everything */
    int err;       /* -1 for a tty */
    char group[SPAWN_GROUP_BYTES];
};

struct spawn_failure {
    int32_t err;                 /* errno */
    char text[SPAWN_TEXT_BYTES]; /* what could not be done, for a person */
};

/**
 * spawn_start() - fork, and begin to start the program.
 * Return: 0; -errno if not even a process could be made (ret untouched).
 */
int spawn_start(const struct spawn_request *req, struct spawn_child *ret_child);

/**
 * spawn_result() - whether the program runs. To be called when status_fd is
 * readable; the caller closes it once the result is known.
 * Return: 0 it runs; -EAGAIN not known yet; else the negative of ret->err.
 */
int spawn_result(const struct spawn_child *child, struct spawn_failure *ret);

/** spawn_signal() - a signal for the child's (tty: foreground) group. */
int spawn_signal(const struct spawn_child *child, bool tty, int sig);

/** spawn_kill() - SIGKILL for the child and everything it ever started. */
void spawn_kill(const struct spawn_child *child);

/** spawn_forget() - close what is open and remove the group if it is empty. */
void spawn_forget(struct spawn_child *child);

/** spawn_sweep() - SIGKILL for all in groups whose names start with prefix. */
void spawn_sweep(const char *prefix);

/** spawn_getenv() - the value of NAME in an environment, or NULL. */
const char *spawn_getenv(char *const *envp, const char *name);

#endif /* GUEST_SPAWN_H */
