/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * onnode: run a program on a node of this machine as if it ran here: the same
 * user, working directory and environment; standard streams, signals and exit
 * status pass through. noded does the work, see noded-proto.h.
 */
#define _GNU_SOURCE
#include "buf.h"
#include "noded-proto.h"

#include <chimera/guest.h>

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* As env(1) and its kind: what the program itself may not return. */
enum { STATUS_FAILED = 125, STATUS_CANNOT = 126, STATUS_NOT_FOUND = 127 };

extern char **environ;

static _Noreturn void __attribute__((format(printf, 2, 3)))
fail(int status, const char *fmt, ...)
{
    va_list ap;

    fprintf(stderr, "onnode: ");
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, "\n");
    exit(status);
}

static unsigned find_node(const char *text)
{
    struct chimera_node *nodes;
    int nr = chimera_nodes(&nodes), at;
    unsigned index;

    if (nr < 0) {
        fail(STATUS_FAILED, "%s",
             nr == -ENODEV ? "this kernel has no fabric device: there are no "
                             "nodes"
                           : strerror(-nr));
    }
    at = chimera_node_find(nodes, nr, text);
    if (at < 0) {
        fail(STATUS_FAILED, "there is no node '%s' (lsnodes shows all)", text);
    }
    if (!chimera_node_up(&nodes[at])) {
        fail(STATUS_FAILED, "node %s is %s", nodes[at].name, nodes[at].state);
    }
    index = nodes[at].index;
    free(nodes);
    return index;
}

static void add(struct buf *request, const char *key, const char *value)
{
    if (!buf_append(request, key, strlen(key)) ||
        !buf_append(request, value, strlen(value) + 1)) {
        fail(STATUS_FAILED, "no memory");
    }
}

static void send_message(int sock, enum noded_type type, unsigned stream,
                         uint32_t value, const void *data, size_t len)
{
    struct noded_msg m = { htole16(type), htole16(stream), htole32(value), "" };

    if (len) {
        memcpy(m.data, data, len);
    }
    /* If noded has ended the call, what it said last is still to be read. */
    if (send(sock, &m, NODED_HEADER_BYTES + len, MSG_NOSIGNAL) < 0 &&
        errno != EPIPE && errno != ECONNRESET) {
        fail(STATUS_FAILED, "noded: %s", strerror(errno));
    }
}

static int connect_noded(void)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    const char *path = getenv("NODED_SOCKET");
    int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

    strncpy(addr.sun_path, path ? path : NODED_SOCKET,
            sizeof(addr.sun_path) - 1);
    if (sock < 0 ||
        connect(sock, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        fail(STATUS_FAILED, "noded (%s): %s", addr.sun_path, strerror(errno));
    }
    return sock;
}

static void send_request(int sock, unsigned node, char **argv, const char *cwd)
{
    struct buf request = { 0 };
    char here[PATH_MAX];

    for (; *argv; argv++) {
        add(&request, "arg=", *argv);
    }
    for (char **e = environ; *e; e++) {
        if (**e != '=' && strchr(*e, '=')) {
            add(&request, "env=", *e);
        }
    }
    if (!cwd) {
        cwd = getcwd(here, sizeof(here));
    }
    if (!cwd) {
        fail(STATUS_FAILED, "working directory: %s", strerror(errno));
    }
    add(&request, "cwd=", cwd);
    if (buf_len(&request) > NODED_REQUEST_BYTES) {
        fail(STATUS_FAILED, "arguments and environment: %zu bytes, at most %u",
             buf_len(&request), NODED_REQUEST_BYTES);
    }
    send_message(sock, NODED_CONNECT, 0, node, NULL, 0);
    for (size_t total = buf_len(&request), n; (n = buf_len(&request));
         buf_consume(&request, n)) {
        n = n < NODED_DATA_BYTES ? n : NODED_DATA_BYTES;
        send_message(sock, NODED_REQUEST, 0, total, buf_head(&request), n);
    }
    buf_free(&request);
}

static _Noreturn void finish(const struct noded_msg *m, size_t len,
                             const char *prog, const char *node)
{
    uint32_t value = le32toh(m->value);

    switch (le16toh(m->stream)) {
    case NODED_EXITED:
        exit(value & 255);
    case NODED_KILLED:
        /* Without a word where it came from here. */
        if (value != SIGINT && value != SIGTERM && value != SIGHUP &&
            value != SIGPIPE) {
            fprintf(stderr, "onnode: %s on %s: %s\n", prog, node,
                    strsignal(value));
        }
        exit(128 + (value & 127));
    case NODED_NOT_STARTED:
        fail(value == ENOENT ? STATUS_NOT_FOUND : STATUS_CANNOT, "%s: %.*s",
             node, (int)len, (const char *)m->data);
    default:
        fail(STATUS_FAILED, "%s: %.*s", node, (int)len, (const char *)m->data);
    }
}

static _Noreturn void run(int sock, bool no_input, const char *prog,
                         const char *node)
{
    static const int forwarded[] = { SIGHUP,  SIGINT,  SIGQUIT, SIGTERM,
                                     SIGUSR1, SIGUSR2, SIGALRM };
    struct noded_msg m, data;
    size_t out_at = 0, out_len = 0; /* of m.data: still to be written */
    int out_fd = -1, in = no_input ? -1 : STDIN_FILENO;
    uint32_t room = NODED_WINDOW_BYTES;
    bool started = false;
    sigset_t mask;
    int signals;
    ssize_t n;

    sigemptyset(&mask);
    for (size_t i = 0; i < sizeof(forwarded) / sizeof(forwarded[0]); i++) {
        struct sigaction sa;

        /* What was ignored (nohup, background of a plain sh) stays so. */
        if (!sigaction(forwarded[i], NULL, &sa) && sa.sa_handler != SIG_IGN) {
            sigaddset(&mask, forwarded[i]);
        }
    }
    sigprocmask(SIG_BLOCK, &mask, NULL);
    signals = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
    if (signals < 0) {
        fail(STATUS_FAILED, "signals: %s", strerror(errno));
    }
    if (no_input) {
        send_message(sock, NODED_DATA, 0, 0, NULL, 0);
    }
    for (;;) {
        struct pollfd p[] = {
            { out_len ? -1 : sock, POLLIN, 0 },
            { signals, POLLIN, 0 },
            { room && started ? in : -1, POLLIN, 0 },
            { out_len ? out_fd : -1, POLLOUT, 0 },
        };

        if (poll(p, 4, -1) < 0) {
            continue;
        }
        if (p[1].revents) {
            struct signalfd_siginfo info;

            while (read(signals, &info, sizeof(info)) == sizeof(info)) {
                send_message(sock, NODED_SIGNAL, 0, info.ssi_signo, NULL, 0);
            }
        }
        if (p[2].revents) {
            n = read(in, data.data,
                     room < sizeof(data.data) ? room : sizeof(data.data));
            if (n >= 0 || (errno != EINTR && errno != EAGAIN)) {
                n = n > 0 ? n : 0;
                send_message(sock, NODED_DATA, 0, 0, data.data, n);
                room -= n;
                in = n ? in : -1;
            }
        }
        if (p[3].revents) {
            /* At most a pipe's atomic size after POLLOUT: does not block. */
            n = write(out_fd, m.data + out_at, out_len);
            if (n < 0 && errno != EINTR && errno != EAGAIN) {
                fail(STATUS_FAILED, "write: %s", strerror(errno));
            }
            if (n > 0) {
                out_at += n;
                out_len -= n;
            }
        }
        if (p[0].revents) {
            n = recv(sock, &m, sizeof(m), 0);
            if (n < 0 && errno == ECONNRESET) {
                continue; /* said once, before what was sent earlier */
            }
            if (n < NODED_HEADER_BYTES) {
                fail(STATUS_FAILED, "%s: noded ended", node);
            }
            switch (le16toh(m.type)) {
            case NODED_STARTED:
                started = true;
                break;
            case NODED_DATA:
                out_fd = le16toh(m.stream) == 2 ? STDERR_FILENO : STDOUT_FILENO;
                out_at = 0;
                out_len = n - NODED_HEADER_BYTES;
                break;
            case NODED_GRANT:
                room += le32toh(m.value);
                break;
            case NODED_EXIT:
                finish(&m, n - NODED_HEADER_BYTES, prog, node);
            }
        }
    }
}

int main(int argc, char **argv)
{
    static const char usage[] =
        "usage: onnode [-n] [-d DIR] NODE PROGRAM [ARGUMENT...]\n"
        "Runs PROGRAM on NODE (name or index) as this user, in this working "
        "directory\n(or DIR) and environment. -n: no standard input.\n"
        "Exit status: PROGRAM's; 128+N killed by signal N; 127 not found; 126 "
        "cannot be\nstarted; 125 onnode itself failed.\n";
    const char *cwd = NULL;
    bool no_input = false;
    int opt, sock;

    while ((opt = getopt(argc, argv, "+nd:h")) != -1) {
        switch (opt) {
        case 'n':
            no_input = true;
            break;
        case 'd':
            cwd = optarg;
            break;
        default:
            fputs(usage, opt == 'h' ? stdout : stderr);
            return opt == 'h' ? 0 : STATUS_FAILED;
        }
    }
    if (argc - optind < 2) {
        fputs(usage, stderr);
        return STATUS_FAILED;
    }
    argv += optind;
    sock = connect_noded();
    send_request(sock, find_node(argv[0]), argv + 1, cwd);
    run(sock, no_input, argv[1], argv[0]);
}
