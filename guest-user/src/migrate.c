/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * chimera-migrate: ask a program, or one of its threads, to move to a node. The
 * program is one that chimera-cc built; it moves at its next migration points.
 * The request goes into its memory, see migrate/rt/control.h.
 */
#define _GNU_SOURCE
#include "../../migrate/rt/control.h"

#include <chimera/guest.h>

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

static pid_t pid;
static int mem_fd = -1; /* its memory; locked: one of us at a time */

static _Noreturn void __attribute__((format(printf, 1, 2)))
fail(const char *fmt, ...)
{
    va_list ap;

    fprintf(stderr, "chimera-migrate: ");
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, "\n");
    exit(1);
}

/* PID or PID/TID */
static int parse_target(char *text)
{
    long tid = 0;
    char *end;

    errno = 0;
    pid = strtol(text, &end, 10);
    if (*end == '/' && isdigit((unsigned char)end[1])) {
        tid = strtol(end + 1, &end, 10);
        if (tid <= 0 || tid > INT32_MAX) {
            return -EINVAL;
        }
    }
    return !isdigit((unsigned char)*text) || *end || errno || pid <= 0 ? -EINVAL
                                                                      : tid;
}

static int find_node(const char *text)
{
    struct chimera_node *nodes;
    int nr = chimera_nodes(&nodes), at;

    if (nr < 0) {
        fail("%s", nr == -ENODEV ? "this kernel has no fabric device: there are "
                                   "no nodes"
                                 : strerror(-nr));
    }
    at = chimera_node_find(nodes, nr, text);
    if (at < 0) {
        fail("there is no node '%s' (lsnodes shows all)", text);
    }
    if (!chimera_node_up(&nodes[at])) {
        fail("node %s is %s", nodes[at].name, nodes[at].state);
    }
    at = nodes[at].index;
    free(nodes);
    return at;
}

static void copy(bool write, uint64_t there, void *here, size_t len)
{
    char path[64];
    ssize_t n = -1;

    if (mem_fd < 0) {
        snprintf(path, sizeof(path), "/proc/%d/mem", pid);
        mem_fd = open(path, O_RDWR | O_CLOEXEC);
    }
    if (mem_fd >= 0) {
        n = write ? pwrite(mem_fd, here, len, there)
                  : pread(mem_fd, here, len, there);
    }
    if (n != (ssize_t)len) {
        fail("process %d: %s", pid, n < 0 ? strerror(errno) : "it has gone");
    }
}

static uint64_t find_control(struct control *ret_control)
{
    static const char name[] = "/memfd:" CONTROL_NAME " ";
    char path[64], line[512];
    uint64_t at = 0;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/maps", pid);
    f = fopen(path, "re");
    if (!f) {
        fail("there is no process %d on this node", pid);
    }
    while (!at && fgets(line, sizeof(line), f)) {
        if (strstr(line, name)) {
            at = strtoull(line, NULL, 16);
        }
    }
    if (!at && ferror(f)) {
        fail("process %d: %s", pid, strerror(EPERM));
    }
    fclose(f);
    if (at) {
        copy(false, at, ret_control, sizeof(*ret_control));
    }
    if (!at || ret_control->magic != CONTROL_MAGIC) {
        fail("process %d cannot move: it was not built by this version's "
             "chimera-cc, or has CHIMERA_TRANSPORT set", pid);
    }
    return at;
}

/* A main thread that has ended stays in the list for the others' sake. */
static bool thread_runs(int tid)
{
    char path[64], line[512];
    const char *after;
    bool runs = false;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", pid, tid);
    f = fopen(path, "re");
    if (f && fgets(line, sizeof(line), f)) {
        after = strrchr(line, ')');
        runs = after && after[1] && !strchr("ZX", after[2]);
    }
    if (f) {
        fclose(f);
    }
    return runs;
}

/* From now on threads look through the requests. */
static void publish(const struct control *c, uint64_t at)
{
    uint8_t notice = 1;
    struct timespec now;
    uint64_t stamp;

    clock_gettime(CLOCK_MONOTONIC, &now);
    stamp = now.tv_sec * 1000000000ull + now.tv_nsec;
    copy(true, c->notice, &notice, sizeof(notice));
    copy(true, at + offsetof(struct control, stamp), &stamp, sizeof(stamp));
}

/* Nobody takes what was asked of a thread that ended before it could know. */
static void sweep(struct control *c, uint64_t at)
{
    const int32_t none = 0;
    bool swept = false;

    copy(false, at, c, sizeof(*c));
    for (unsigned i = 0; i < CONTROL_ASKED; i++) {
        int32_t tid = c->request[i].tid;

        if (tid > 0 && !thread_runs(tid)) {
            copy(true, at + offsetof(struct control, request[i]),
                 (void *)&none, sizeof(none));
            c->request[i].tid = 0;
            swept = true;
        }
    }
    if (swept) {
        publish(c, at);
    }
}

/* Return: whether there was room. */
static bool ask(struct control *c, uint64_t at, int32_t tid, int32_t node)
{
    for (unsigned i = 0; i < CONTROL_ASKED; i++) {
        uint64_t request = at + offsetof(struct control, request[i]);
        int32_t now;

        if (c->request[i].tid == tid) {
            copy(true, request + 4, &node, sizeof(node));
            copy(false, request, &now, sizeof(now));
            if (now == tid) {
                return true;
            }
            c->request[i].tid = -1; /* just taken: make another one */
        }
    }
    for (unsigned i = 0; i < CONTROL_ASKED; i++) {
        uint64_t request = at + offsetof(struct control, request[i]);

        if (!c->request[i].tid) {
            copy(true, request + 4, &node, sizeof(node));
            copy(true, request, &tid, sizeof(tid));
            c->request[i].tid = tid;
            return true;
        }
    }
    return false;
}

int main(int argc, char **argv)
{
    struct control control;
    char path[64];
    int tid, node;
    unsigned asked = 0;
    bool room = true;
    uint64_t at;
    DIR *tasks;

    if (argc != 3 || argv[1][0] == '-') {
        fprintf(stderr, "usage: chimera-migrate PID[/TID] NODE\n"
                        "Asks a program, or one of its threads, to move to NODE "
                        "(name or index) and to\nstay there; to its home: to "
                        "stay or move as it likes.\n");
        return argc == 2 && !strcmp(argv[1], "-h") ? 0 : 2;
    }
    tid = parse_target(argv[1]);
    if (tid < 0) {
        fail("'%s' is not PID or PID/TID", argv[1]);
    }
    node = find_node(argv[2]);
    at = find_control(&control);
    if (flock(mem_fd, LOCK_EX) < 0) {
        fail("process %d: %s", pid, strerror(errno));
    }
    sweep(&control, at);
    snprintf(path, sizeof(path), "/proc/%d/task", pid);
    tasks = opendir(path);
    for (struct dirent *d; tasks && room && (d = readdir(tasks));) {
        int task = atoi(d->d_name);

        if (task > 0 && (!tid || task == tid) && thread_runs(task)) {
            room = ask(&control, at, task, node);
            asked += room;
        }
    }
    if (asked) {
        publish(&control, at);
        sweep(&control, at);
    }
    if (!room) {
        fail("process %d has not taken %d requests yet", pid, CONTROL_ASKED);
    }
    if (!asked) {
        fail("process %d has no thread %d", pid, tid);
    }
    return 0;
}
