/* SPDX-License-Identifier: GPL-2.0-or-later */
/* chimera-ping: round trips to another node. */
#define _GNU_SOURCE
#include <chimera/guest.h>

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define USER_TIMEOUT_NS 1000000000ll

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static void report(const char *kind, uint64_t *ns, uint32_t nr)
{
    uint64_t sum = 0;

    if (!nr) {
        printf("%-9s no answers\n", kind);
        return;
    }
    qsort(ns, nr, sizeof(*ns), by_value);
    for (uint32_t i = 0; i < nr; i++) {
        sum += ns[i];
    }
    printf("%-9s %7u round trips  min %8.1f  p50 %8.1f  p99 %8.1f  max %8.1f"
           "  mean %8.1f us\n",
           kind, nr, ns[0] / 1e3, ns[nr / 2] / 1e3,
           ns[(uint64_t)nr * 99 / 100] / 1e3, ns[nr - 1] / 1e3,
           sum / 1e3 / nr);
}

/* Measured by this kernel. Return: 0, or a negative errno. */
static int ping_kernel(unsigned node, unsigned kind, uint32_t count,
                       uint32_t bytes, uint64_t *ns, uint32_t *ret_done)
{
    struct chimera_ping ping = { .node = node,
                                 .kind = kind,
                                 .count = count,
                                 .bytes = bytes,
                                 .samples = (uintptr_t)ns };
    int fd = open(CHIMERA_DEVICE, O_RDWR | O_CLOEXEC);
    int rc;

    if (fd < 0) {
        return -errno;
    }
    rc = ioctl(fd, CHIMERA_IOC_PING, &ping) < 0 ? -errno : 0;
    close(fd);
    *ret_done = ping.done;
    return rc;
}

/* Answer whatever comes to a port until a signal. */
static int serve(unsigned port)
{
    char data[CHIMERA_MSG_BYTES];
    int fd = chimera_endpoint_open(port, &port);

    if (fd < 0) {
        fprintf(stderr, "chimera-ping: port %u: %s\n", port, strerror(-fd));
        return 1;
    }
    printf("chimera-ping: answering on port %u\n", port);
    fflush(stdout);
    for (;;) {
        unsigned from, from_port;
        int n = chimera_recv(fd, data, sizeof(data), &from, &from_port, -1);

        if (n == -EINTR) {
            continue;
        }
        if (n < 0) {
            fprintf(stderr, "chimera-ping: receive: %s\n", strerror(-n));
            return 1;
        }
        /* A client that left meanwhile is its own affair. */
        chimera_send(fd, from, from_port, data, n, USER_TIMEOUT_NS);
    }
}

static int ping_user(unsigned node, unsigned port, uint32_t count,
                     uint32_t bytes, uint64_t *ns, uint32_t *ret_done)
{
    char data[CHIMERA_MSG_BYTES] = { 0 };
    int fd = chimera_endpoint_open(0, NULL);
    int rc = fd < 0 ? fd : 0;

    for (uint32_t i = 0; i < count && rc >= 0; i++) {
        uint64_t begin = now_ns();

        rc = chimera_send(fd, node, port, data, bytes, USER_TIMEOUT_NS);
        if (rc >= 0) {
            rc = chimera_recv(fd, data, sizeof(data), NULL, NULL,
                              USER_TIMEOUT_NS);
        }
        if (rc >= 0) {
            ns[i] = now_ns() - begin;
            *ret_done = i + 1;
        }
    }
    if (fd >= 0) {
        close(fd);
    }
    return rc < 0 ? rc : 0;
}

static bool number(const char *text, unsigned long min, unsigned long max,
                   unsigned long *ret_value)
{
    char *end;

    errno = 0;
    *ret_value = strtoul(text, &end, 10);
    if (errno || *end || end == text || *text == '-' || *ret_value < min ||
        *ret_value > max) {
        fprintf(stderr, "chimera-ping: '%s' is not a number from %lu to %lu\n",
                text, min, max);
        return false;
    }
    return true;
}

int main(int argc, char **argv)
{
    static const char usage[] =
        "usage: chimera-ping [-c COUNT] [-s BYTES] [-k KIND] [-u PORT] NODE\n"
        "       chimera-ping -l PORT\n"
        "Round trips to a node (name or index). KIND: kernel, echo, doorbell; "
        "all of\nthem when none is given. -u: from user to user, to where "
        "`chimera-ping -l PORT`\nanswers on that node.\n";
    static const char *const kinds[] = {
        [CHIMERA_PING_KERNEL] = "kernel",
        [CHIMERA_PING_ECHO] = "echo",
        [CHIMERA_PING_DOORBELL] = "doorbell",
    };
    const int nr_kinds = sizeof(kinds) / sizeof(kinds[0]);
    unsigned long count = 1000, bytes = 0, port = 0, listen_port = 0;
    struct chimera_node *nodes;
    int opt, kind = -1, nr, node, status = 0;
    uint64_t *ns;

    while ((opt = getopt(argc, argv, "c:s:k:u:l:h")) != -1) {
        switch (opt) {
        case 'c':
            if (!number(optarg, 1, 1000000, &count)) {
                return 2;
            }
            break;
        case 's':
            if (!number(optarg, 0, CHIMERA_MSG_BYTES, &bytes)) {
                return 2;
            }
            break;
        case 'k':
            for (kind = 0; kind < nr_kinds && strcmp(kinds[kind], optarg);) {
                kind++;
            }
            if (kind == nr_kinds) {
                fprintf(stderr, "chimera-ping: kind '%s' is not one of "
                                "kernel, echo, doorbell\n", optarg);
                return 2;
            }
            break;
        case 'u':
        case 'l':
            if (!number(optarg, 1, 65535,
                        opt == 'u' ? &port : &listen_port)) {
                return 2;
            }
            break;
        default:
            fputs(usage, opt == 'h' ? stdout : stderr);
            return opt == 'h' ? 0 : 2;
        }
    }
    if (listen_port && optind == argc) {
        return serve(listen_port);
    }
    if (listen_port || optind + 1 != argc) {
        fputs(usage, stderr);
        return 2;
    }
    nr = chimera_nodes(&nodes);
    if (nr < 0) {
        fprintf(stderr, "chimera-ping: %s\n",
                nr == -ENODEV ? "this kernel has no fabric device"
                              : strerror(-nr));
        return 1;
    }
    node = chimera_node_find(nodes, nr, argv[optind]);
    if (node < 0) {
        fprintf(stderr, "chimera-ping: there is no node '%s'\n", argv[optind]);
        return 1;
    }
    ns = calloc(count, sizeof(*ns));
    if (!ns) {
        fprintf(stderr, "chimera-ping: no memory for %lu samples\n", count);
        return 1;
    }
    for (int k = port ? nr_kinds : 0; k <= nr_kinds; k++) {
        bool user = k == nr_kinds;
        uint32_t done = 0;
        int rc;

        if (user != (port != 0) || (!user && kind >= 0 && k != kind)) {
            continue;
        }
        rc = user ? ping_user(node, port, count, bytes, ns, &done)
                  : ping_kernel(node, k, count,
                                k == CHIMERA_PING_KERNEL ? bytes : 0, ns,
                                &done);
        if (rc == -EOPNOTSUPP && kind < 0) {
            printf("%-9s not offered by this machine\n", kinds[k]);
            continue;
        }
        if (rc < 0) {
            fprintf(stderr, "chimera-ping: node %d, %s: %s after %u round "
                            "trips\n", node, user ? "user" : kinds[k],
                    strerror(-rc), done);
            status = 1;
        }
        if (done || rc >= 0) {
            report(user ? "user" : kinds[k], ns, done);
        }
    }
    free(ns);
    free(nodes);
    return status;
}
