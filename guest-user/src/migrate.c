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
#include <unistd.h>

static pid_t pid;

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
    int fd;

    snprintf(path, sizeof(path), "/proc/%d/mem", pid);
    fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd >= 0) {
        n = write ? pwrite(fd, here, len, there) : pread(fd, here, len, there);
    }
    if (n != (ssize_t)len) {
        fail("process %d: %s", pid, n < 0 ? strerror(errno) : "it has gone");
    }
    close(fd);
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
        fail("process %d cannot move: it was not built by chimera-cc, or has "
             "CHIMERA_TRANSPORT set", pid);
    }
    return at;
}

static void ask(const struct control *c, uint64_t at, int32_t tid, int32_t node)
{
    for (unsigned pass = 0; pass < 2; pass++) {
        for (unsigned i = 0; i < CONTROL_REQUESTS; i++) {
            uint64_t request = at + offsetof(struct control, request[i]);

            /* The one it has, else a free one. */
            if (c->request[i].tid == (pass ? 0 : tid)) {
                copy(true, request + 4, &node, sizeof(node));
                copy(true, request, &tid, sizeof(tid));
                return;
            }
        }
    }
    fail("process %d has not taken %d requests yet", pid, CONTROL_REQUESTS);
}

int main(int argc, char **argv)
{
    struct control control;
    uint8_t notice = 1;
    char path[64];
    int tid, node;
    unsigned asked = 0;
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
    snprintf(path, sizeof(path), "/proc/%d/task", pid);
    tasks = opendir(path);
    for (struct dirent *d; tasks && (d = readdir(tasks));) {
        int task = atoi(d->d_name);

        if (task > 0 && (!tid || task == tid)) {
            ask(&control, at, task, node);
            copy(false, at, &control, sizeof(control));
            asked++;
        }
    }
    if (!asked) {
        fail("process %d has no thread %d", pid, tid);
    }
    copy(true, control.notice, &notice, sizeof(notice));
    return 0;
}
