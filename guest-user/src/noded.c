/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * chimera-noded: runs programs here for other nodes' users, and there for
 * this node's users (see onnode). The protocol is noded-proto.h.
 *
 * The main process only accepts: it forks a relay for each onnode that
 * connects and a server for each NODED_OPEN that arrives on port 1. A relay
 * or server has one peer and one endpoint; the fabric's own window is its
 * flow control, but for standard input, which must not delay signals.
 */
#define _GNU_SOURCE
#include "buf.h"
#include "noded-proto.h"
#include "request.h"
#include "spawn.h"

#include <chimera/guest.h>

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define GROUP_PREFIX "node-"
#define CONNECT_TIMEOUT_NS 10000000000ll
#define GOODBYE_TIMEOUT_NS 1000000000ll
#define ALIVE_INTERVAL_MS 1000 /* a silent peer is looked after this often */
#define MAX_CHILDREN 512

struct peer {
    int fd; /* our endpoint */
    unsigned node, port;
};

static void complain(const char *what, int err)
{
    fprintf(stderr, "chimera-noded: %s: %s\n", what, strerror(err));
}

/* ---- messages ---- */

static void msg_set(struct noded_msg *m, enum noded_type type, unsigned stream,
                    uint32_t value)
{
    m->type = htole16(type);
    m->stream = htole16(stream);
    m->value = htole32(value);
}

/* Return: 0; -EAGAIN (timeout 0); another negative errno: the peer is lost. */
static int peer_send(const struct peer *p, const struct noded_msg *m,
                     size_t data_len, int64_t timeout_ns)
{
    int rc;

    do {
        rc = chimera_send(p->fd, p->node, p->port, m,
                          NODED_HEADER_BYTES + data_len, timeout_ns);
    } while (rc == -EINTR);
    return rc;
}

static int peer_tell(const struct peer *p, enum noded_type type,
                     unsigned stream, uint32_t value, const char *text,
                     int64_t timeout_ns)
{
    struct noded_msg m;
    size_t n = strnlen(text, sizeof(m.data));

    msg_set(&m, type, stream, value);
    memcpy(m.data, text, n);
    return peer_send(p, &m, n, timeout_ns);
}

/*
 * The next message of our peer; what others send to this endpoint is dropped.
 * Return: bytes of data; -EAGAIN (timeout 0); another negative errno.
 */
static int peer_recv(const struct peer *p, struct noded_msg *m,
                     int64_t timeout_ns)
{
    for (;;) {
        unsigned node, port;
        int n = chimera_recv(p->fd, m, sizeof(*m), &node, &port, timeout_ns);

        if (n == -EINTR) {
            continue;
        }
        if (n < 0) {
            return n;
        }
        if (node == p->node && port == p->port && n >= NODED_HEADER_BYTES) {
            return n - NODED_HEADER_BYTES;
        }
    }
}

/* An endpoint on a free port that only a node's system can have. */
static int open_reserved(void)
{
    unsigned first = getpid() % (NODED_RESERVED_PORTS - 2);
    int fd = -EADDRINUSE;

    for (unsigned i = 0; i < NODED_RESERVED_PORTS - 2 && fd == -EADDRINUSE;
         i++) {
        fd = chimera_endpoint_open(
            2 + (first + i) % (NODED_RESERVED_PORTS - 2), NULL);
    }
    return fd;
}

/* ---- the relay: one onnode of this node ---- */

static _Noreturn void relay_fail(int sock, int err, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static _Noreturn void relay_fail(int sock, int err, const char *fmt, ...)
{
    struct noded_msg m;
    va_list ap;
    int n;

    msg_set(&m, NODED_EXIT, NODED_FAILED, err);
    va_start(ap, fmt);
    n = vsnprintf((char *)m.data, 256, fmt, ap);
    va_end(ap);
    n = n < 255 ? n : 255;
    send(sock, &m, NODED_HEADER_BYTES + n, MSG_NOSIGNAL);
    exit(1);
}

/* Who is at the other end of the socket; from then on we are that user. */
static void relay_identify(int sock, struct noded_msg *cred, size_t *ret_len)
{
    gid_t groups[REQUEST_MAX_GROUPS];
    socklen_t groups_size = sizeof(groups);
    struct ucred who;
    socklen_t who_size = sizeof(who);
    uint32_t le;
    size_t nr;

    if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &who, &who_size) < 0 ||
        getsockopt(sock, SOL_SOCKET, SO_PEERGROUPS, groups, &groups_size) < 0) {
        relay_fail(sock, errno, "cannot tell who you are: %s",
                   strerror(errno));
    }
    nr = groups_size / sizeof(groups[0]);
    msg_set(cred, NODED_CRED, 0, who.uid);
    le = htole32(who.gid);
    memcpy(cred->data, &le, 4);
    for (size_t i = 0; i < nr; i++) {
        le = htole32(groups[i]);
        memcpy(cred->data + 4 + 4 * i, &le, 4);
    }
    *ret_len = 4 + 4 * nr;
    if (geteuid() == 0 && (setgroups(nr, groups) < 0 || setgid(who.gid) < 0 ||
                           setuid(who.uid) < 0)) {
        relay_fail(sock, errno, "cannot become user %u: %s",
                   (unsigned)who.uid, strerror(errno));
    }
    prctl(PR_SET_DUMPABLE, 0); /* nobody else may speak from our port */
}

/*
 * Done, or onnode is gone. The server stays until it is told: if its port
 * vanished right after its last message, that could arrive after the news.
 */
static _Noreturn void relay_hang_up(const struct peer *peer)
{
    peer_tell(peer, NODED_HANGUP, 0, 0, "", GOODBYE_TIMEOUT_NS);
    exit(0);
}

static _Noreturn void relay(int sock)
{
    struct noded_msg to_peer, to_sock;
    int to_peer_len = -1;              /* data that waits; -1: nothing */
    int to_sock_len;                   /* with its header; -1: nothing */
    struct peer peer = { .fd = open_reserved() };
    struct noded_msg cred;
    size_t cred_len;
    int lost = 0; /* why the peer can not be reached any more */
    bool gone = false; /* so the fabric says: an error that stays */
    ssize_t n;
    int rc;

    /* Before the identity is dropped: only root may bind it. */
    if (peer.fd < 0) {
        relay_fail(sock, -peer.fd, "no port for another session: %s",
                   strerror(-peer.fd));
    }
    relay_identify(sock, &cred, &cred_len);

    n = recv(sock, &to_peer, sizeof(to_peer), 0);
    if (n < NODED_HEADER_BYTES || le16toh(to_peer.type) != NODED_CONNECT) {
        relay_fail(sock, EPROTO, "malformed request");
    }
    peer.node = le32toh(to_peer.value) & 0xffff;
    peer.port = NODED_PORT;
    rc = peer_tell(&peer, NODED_OPEN, 0, NODED_VERSION, "",
                   CONNECT_TIMEOUT_NS);
    if (rc < 0) {
        relay_fail(sock, -rc, "%s",
                   rc == -ECONNREFUSED ? "noded does not run on that node"
                                       : strerror(-rc));
    }
    /* The answer comes from the port of the server that we got. */
    do {
        unsigned node;

        rc = chimera_recv(peer.fd, &to_sock, sizeof(to_sock), &node,
                          &peer.port, CONNECT_TIMEOUT_NS);
        if (rc >= 0 && (node != peer.node ||
                        peer.port >= NODED_RESERVED_PORTS)) {
            rc = -EINTR; /* a stranger */
        }
    } while (rc == -EINTR);
    if (rc >= NODED_HEADER_BYTES && le16toh(to_sock.type) == NODED_EXIT) {
        send(sock, &to_sock, rc, MSG_NOSIGNAL);
        exit(1);
    }
    if (rc < NODED_HEADER_BYTES || le16toh(to_sock.type) != NODED_ACCEPT) {
        relay_fail(sock, rc < 0 ? -rc : EPROTO, "no answer from noded there: %s",
                   strerror(rc < 0 ? -rc : EPROTO));
    }
    rc = peer_send(&peer, &cred, cred_len, CONNECT_TIMEOUT_NS);
    if (rc < 0) {
        relay_fail(sock, -rc, "%s", strerror(-rc));
    }
    to_sock_len = NODED_HEADER_BYTES;

    /* One message each way at a time: whoever is full stops the other. */
    for (;;) {
        struct pollfd p[2] = {
            { .fd = sock, .events = (to_peer_len < 0 ? POLLIN : 0) |
                                    (to_sock_len >= 0 ? POLLOUT : 0) },
            { .fd = gone && to_sock_len >= 0 ? -1 : peer.fd,
              .events = (to_sock_len < 0 ? POLLIN : 0) |
                        (to_peer_len >= 0 && !lost ? POLLOUT : 0) },
        };

        /* Its last words wait for onnode to take what there is. */
        rc = poll(p, 2, lost && to_sock_len < 0 ? 0 : ALIVE_INTERVAL_MS);
        gone = gone || (p[1].revents & POLLERR);
        if (rc == 0 && !lost) {
            rc = peer_tell(&peer, NODED_ALIVE, 0, 0, "", 0);
            lost = rc < 0 && rc != -EAGAIN ? rc : 0;
        }
        if (to_peer_len < 0 && (p[0].revents & POLLIN)) {
            n = recv(sock, &to_peer, sizeof(to_peer), MSG_DONTWAIT);
            if (n >= NODED_HEADER_BYTES) {
                unsigned type = le16toh(to_peer.type);

                if (type != NODED_REQUEST && type != NODED_DATA &&
                    type != NODED_SIGNAL) {
                    relay_fail(sock, EPROTO, "malformed request");
                }
                to_peer_len = n - NODED_HEADER_BYTES;
            }
        }
        if (p[0].revents & (POLLHUP | POLLERR)) {
            relay_hang_up(&peer);
        }
        if (to_peer_len >= 0 && !lost) {
            rc = peer_send(&peer, &to_peer, to_peer_len, 0);
            to_peer_len = rc == -EAGAIN ? to_peer_len : -1;
            lost = rc < 0 && rc != -EAGAIN ? rc : 0;
        }
        if (to_sock_len < 0) {
            int got = peer_recv(&peer, &to_sock, 0);

            if (got >= 0 && le16toh(to_sock.type) != NODED_ALIVE) {
                to_sock_len = NODED_HEADER_BYTES + got;
            } else if (got == -EAGAIN && (lost || gone)) {
                /* Its last words have been passed on. */
                lost = lost ? lost : -EHOSTDOWN;
                relay_fail(sock, -lost, "the node was lost: %s",
                           strerror(-lost));
            } else if (got < 0 && got != -EAGAIN) {
                relay_fail(sock, -got, "receive: %s", strerror(-got));
            }
        }
        if (to_sock_len >= 0) {
            n = send(sock, &to_sock, to_sock_len, MSG_NOSIGNAL | MSG_DONTWAIT);
            if (n >= 0 && le16toh(to_sock.type) == NODED_EXIT) {
                relay_hang_up(&peer);
            }
            if (n >= 0) {
                to_sock_len = -1;
            } else if (errno != EAGAIN && errno != EINTR) {
                relay_hang_up(&peer);
            }
        }
    }
}

/* ---- the server: one program here ---- */

struct server {
    struct peer peer;
    struct spawn_child child;
    bool started, reaped;
    bool exit_said; /* the relay confirms by hanging up */
    unsigned exit_kind;
    uint32_t exit_value;
    struct spawn_failure failure;
    struct buf in;
    uint32_t in_room; /* what onnode may still send */
    bool in_ended;
    size_t left[3];   /* after the exit: what is still to be sent */
    struct noded_msg out; /* waits for the fabric */
    int out_len;          /* -1: nothing */
};

static _Noreturn void server_leave(struct server *s)
{
    if (!s->reaped) {
        spawn_kill(&s->child);
        waitpid(s->child.pid, NULL, 0);
    }
    spawn_forget(&s->child);
    exit(!s->exit_said);
}

static _Noreturn void server_refuse(struct server *s, int err, const char *text)
{
    peer_tell(&s->peer, NODED_EXIT, NODED_FAILED, err, text,
              GOODBYE_TIMEOUT_NS);
    exit(1);
}

/* Everything up to the fork of the program. */
static void server_begin(struct server *s)
{
    struct exec_request request;
    struct buf text = { 0 };
    struct noded_msg m;
    uint32_t total = 0;
    gid_t groups[REQUEST_MAX_GROUPS];
    char group[SPAWN_GROUP_BYTES];
    const char *wrong;
    size_t nr_groups;
    uint32_t uid, gid;
    int n, rc;

    rc = peer_tell(&s->peer, NODED_ACCEPT, 0, NODED_VERSION, "",
                   CONNECT_TIMEOUT_NS);
    if (rc < 0) {
        exit(1);
    }
    n = peer_recv(&s->peer, &m, CONNECT_TIMEOUT_NS);
    if (n < 0) {
        exit(1);
    }
    nr_groups = n / 4 - 1;
    if (le16toh(m.type) != NODED_CRED || n < 4 || n % 4 ||
        nr_groups > REQUEST_MAX_GROUPS) {
        server_refuse(s, EPROTO, "malformed identity");
    }
    uid = le32toh(m.value);
    memcpy(&gid, m.data, 4);
    gid = le32toh(gid);
    for (size_t i = 0; i < nr_groups; i++) {
        memcpy(&groups[i], m.data + 4 + 4 * i, 4);
        groups[i] = le32toh(groups[i]);
    }
    do {
        n = peer_recv(&s->peer, &m, CONNECT_TIMEOUT_NS);
        if (n < 0 || le16toh(m.type) == NODED_HANGUP) {
            exit(1);
        }
        if (le16toh(m.type) == NODED_ALIVE) {
            continue;
        }
        total = le32toh(m.value);
        if (le16toh(m.type) != NODED_REQUEST || total > NODED_REQUEST_BYTES ||
            buf_len(&text) + n > total || !n) {
            server_refuse(s, EPROTO, "malformed request");
        }
        if (!buf_append(&text, m.data, n)) {
            server_refuse(s, ENOMEM, "no memory for the request");
        }
    } while (buf_len(&text) < total || !total);

    wrong = request_parse(&request, buf_head(&text), buf_len(&text));
    if (wrong) {
        server_refuse(s, EPROTO, wrong);
    }
    request.spawn.uid = uid;
    request.spawn.gid = gid;
    request.spawn.groups = groups;
    request.spawn.nr_groups = nr_groups;
    request.spawn.tty = false;
    snprintf(group, sizeof(group), GROUP_PREFIX "%d", (int)getpid());
    request.spawn.group = geteuid() == 0 ? group : NULL;
    rc = spawn_start(&request.spawn, &s->child);
    if (rc < 0) {
        peer_tell(&s->peer, NODED_EXIT, NODED_NOT_STARTED, -rc, strerror(-rc),
                  GOODBYE_TIMEOUT_NS);
        exit(1);
    }
    request_free(&request);
    buf_free(&text);
}

/* The one message that may wait for the fabric's window. */
static bool server_say(struct server *s, enum noded_type type, unsigned stream,
                       uint32_t value, const void *data, size_t len)
{
    if (s->out_len >= 0) {
        return false;
    }
    msg_set(&s->out, type, stream, value);
    if (len && data != s->out.data) {
        memcpy(s->out.data, data, len);
    }
    s->out_len = len;
    return true;
}

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
    }
    *fd = -1;
}

static void server_feed(struct server *s)
{
    while (buf_len(&s->in) && s->child.in >= 0 && s->started) {
        ssize_t n = write(s->child.in, buf_head(&s->in), buf_len(&s->in));

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0 && errno == EAGAIN) {
            break;
        }
        if (n < 0) {
            close_fd(&s->child.in); /* nobody reads any more */
            break;
        }
        buf_consume(&s->in, n);
    }
    if (s->child.in < 0) {
        buf_consume(&s->in, buf_len(&s->in));
    }
    if (s->in_ended && !buf_len(&s->in) && s->started) {
        close_fd(&s->child.in);
    }
}

static void server_message(struct server *s)
{
    struct noded_msg m;
    int n = peer_recv(&s->peer, &m, 0);

    if (n == -EAGAIN) {
        return;
    }
    if (n < 0) {
        server_leave(s);
    }
    switch (le16toh(m.type)) {
    case NODED_DATA:
        if ((uint32_t)n > s->in_room || s->in_ended) {
            server_leave(s);
        }
        s->in_room -= n;
        s->in_ended = !n;
        if (!buf_append(&s->in, m.data, n)) {
            server_leave(s);
        }
        server_feed(s);
        break;
    case NODED_SIGNAL:
        if (s->reaped || le32toh(m.value) >= NSIG) {
            break;
        }
        if (s->started) {
            spawn_signal(&s->child, false, le32toh(m.value));
        } else {
            kill(s->child.pid, le32toh(m.value)); /* not the program yet */
        }
        break;
    case NODED_ALIVE:
        break;
    default: /* HANGUP, or something that a relay does not say */
        server_leave(s);
    }
}

static void server_reap(struct server *s)
{
    int status;

    if (s->child.pid <= 0 || waitpid(s->child.pid, &status, WNOHANG) <= 0) {
        return;
    }
    s->reaped = true;
    s->child.pid = 0;
    if (s->exit_kind != NODED_NOT_STARTED) {
        s->exit_kind = WIFSIGNALED(status) ? NODED_KILLED : NODED_EXITED;
        s->exit_value = WIFSIGNALED(status) ? WTERMSIG(status)
                                            : WEXITSTATUS(status);
    }
    /* What it wrote is in the pipes; what others still write is theirs. */
    for (int i = 1; i <= 2; i++) {
        int fd = i == 1 ? s->child.out : s->child.err, n = 0;

        s->left[i] = fd < 0 || ioctl(fd, FIONREAD, &n) < 0 || n < 0
                         ? 0
                         : (size_t)n;
    }
    close_fd(&s->child.in);
}

/* Take the next thing to send from the program. */
static void server_read(struct server *s, int stream)
{
    int *fd = stream == 1 ? &s->child.out : &s->child.err;
    size_t want = sizeof(s->out.data);
    ssize_t n;

    if (*fd < 0 || s->out_len >= 0) {
        return;
    }
    want = want < s->left[stream] ? want : s->left[stream];
    n = want ? read(*fd, s->out.data, want) : 0;
    if (n < 0 && (errno == EINTR || (errno == EAGAIN && !s->reaped))) {
        return;
    }
    if (n <= 0) {
        close_fd(fd);
        n = 0;
    } else if (s->reaped) {
        s->left[stream] -= n;
    }
    server_say(s, NODED_DATA, stream, 0, s->out.data, n);
}

static _Noreturn void serve(unsigned node, unsigned port)
{
    static struct server server;
    struct server *s = &server;
    struct signalfd_siginfo info;
    bool started_said = false;
    sigset_t mask;
    int signals;

    s->peer = (struct peer){ .fd = open_reserved(), .node = node,
                             .port = port };
    s->child = (struct spawn_child){ .status_fd = -1, .in = -1, .out = -1,
                                     .err = -1 };
    s->in_room = NODED_WINDOW_BYTES;
    s->left[1] = s->left[2] = SIZE_MAX;
    s->out_len = -1;
    sigemptyset(&mask);
    sigaddset(&mask, SIGCHLD);
    sigaddset(&mask, SIGTERM);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    signals = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
    if (s->peer.fd < 0 || signals < 0) {
        complain("server", s->peer.fd < 0 ? -s->peer.fd : errno);
        exit(1);
    }
    server_begin(s);

    for (;;) {
        enum { PEER, SIGNALS, STATUS, IN, OUT, ERR, NR };
        bool free_out = s->out_len < 0;
        uint32_t used;
        struct pollfd p[NR] = {
            [PEER] = { s->peer.fd, POLLIN | (free_out ? 0 : POLLOUT), 0 },
            [SIGNALS] = { signals, POLLIN, 0 },
            [STATUS] = { s->child.status_fd, POLLIN, 0 },
            [IN] = { buf_len(&s->in) && s->started ? s->child.in : -1, POLLOUT,
                     0 },
            [OUT] = { free_out && s->started && !s->reaped ? s->child.out : -1,
                      POLLIN, 0 },
            [ERR] = { free_out && s->started && !s->reaped ? s->child.err : -1,
                      POLLIN, 0 },
        };
        bool draining = s->reaped && !s->exit_said;
        int rc = poll(p, NR, draining && free_out ? 0 : ALIVE_INTERVAL_MS);

        if (rc == 0 && !draining && free_out) {
            server_say(s, NODED_ALIVE, 0, 0, NULL, 0);
        }
        if (p[SIGNALS].revents) {
            bool stop = false;

            while (read(signals, &info, sizeof(info)) == sizeof(info)) {
                stop = stop || info.ssi_signo == SIGTERM;
            }
            server_reap(s);
            if (stop) {
                server_leave(s);
            }
        }
        if (p[STATUS].revents) {
            rc = spawn_result(&s->child, &s->failure);
            if (rc != -EAGAIN) {
                close_fd(&s->child.status_fd);
                s->started = !rc;
                if (rc) {
                    s->exit_kind = NODED_NOT_STARTED;
                    s->exit_value = -rc;
                    close_fd(&s->child.out);
                    close_fd(&s->child.err);
                }
                server_feed(s);
            }
        }
        if (p[PEER].revents & POLLERR) {
            server_leave(s); /* node or relay lost */
        }
        if (p[PEER].revents & POLLIN) {
            server_message(s);
        }
        if (p[IN].revents) {
            server_feed(s);
        }
        if (s->started && !started_said) {
            started_said = server_say(s, NODED_STARTED, 0, s->child.pid, NULL,
                                      0);
        }
        /* Grant what the program took, in steps worth a message. */
        used = buf_len(&s->in) + s->in_room;
        if (NODED_WINDOW_BYTES - used >= NODED_WINDOW_BYTES / 4 &&
            server_say(s, NODED_GRANT, 0, NODED_WINDOW_BYTES - used, NULL, 0)) {
            s->in_room += NODED_WINDOW_BYTES - used;
        }
        for (int i = 1; i <= 2; i++) {
            if (started_said && (s->reaped || p[i == 1 ? OUT : ERR].revents)) {
                server_read(s, i);
            }
        }
        if (s->reaped && s->child.status_fd < 0 && s->child.out < 0 &&
            s->child.err < 0 && !s->exit_said) {
            s->exit_said = server_say(s, NODED_EXIT, s->exit_kind,
                                      s->exit_value, s->failure.text,
                                      strlen(s->failure.text));
        }
        if (s->out_len >= 0) {
            rc = peer_send(&s->peer, &s->out, s->out_len, 0);
            if (rc < 0 && rc != -EAGAIN) {
                server_leave(s); /* node or relay lost */
            }
            s->out_len = rc == -EAGAIN ? s->out_len : -1;
        }
    }
}

/* ---- the main process ---- */

static unsigned nr_children;

static void on_child(int sig)
{
    int err = errno;

    (void)sig;
    while (waitpid(-1, NULL, WNOHANG) > 0) {
        nr_children--;
    }
    errno = err;
}

/* Return: true in the child, which has neither of init's descriptors. */
static bool fork_off(void)
{
    pid_t pid = fork();

    if (pid == 0) {
        signal(SIGCHLD, SIG_DFL);
        close(NODED_SOCKET_FD);
        close(NODED_ENDPOINT_FD);
        return true;
    }
    if (pid < 0) {
        complain("fork", errno);
    } else {
        nr_children++;
    }
    return false;
}

static void accept_local(void)
{
    int sock = accept4(NODED_SOCKET_FD, NULL, NULL, SOCK_CLOEXEC);

    if (sock < 0) {
        return;
    }
    if (fork_off()) {
        relay(sock);
    }
    close(sock);
}

static void accept_remote(void)
{
    struct noded_msg m;
    unsigned node, port;
    int n = chimera_recv(NODED_ENDPOINT_FD, &m, sizeof(m), &node, &port, 0);

    if (n < NODED_HEADER_BYTES || port >= NODED_RESERVED_PORTS ||
        le16toh(m.type) != NODED_OPEN) {
        return; /* no relay */
    }
    if (le32toh(m.value) != NODED_VERSION || nr_children >= MAX_CHILDREN) {
        struct peer peer = { .fd = NODED_ENDPOINT_FD, .node = node,
                             .port = port };

        peer_tell(&peer, NODED_EXIT, NODED_FAILED, EPROTO,
                  nr_children >= MAX_CHILDREN ? "too many programs there"
                                              : "another version of noded",
                  0);
        return;
    }
    if (fork_off()) {
        serve(node, port);
    }
}

int main(int argc, char **argv)
{
    struct sigaction sa = { .sa_handler = on_child, .sa_flags = SA_RESTART };
    sigset_t chld, waiting;

    (void)argv;
    if (argc > 1 || fcntl(NODED_SOCKET_FD, F_SETFD, FD_CLOEXEC) < 0 ||
        fcntl(NODED_ENDPOINT_FD, F_SETFD, FD_CLOEXEC) < 0 ||
        fcntl(NODED_SOCKET_FD, F_SETFL, O_NONBLOCK) < 0) {
        fprintf(stderr, "chimera-noded: is started by init with its sockets "
                        "as descriptors %d and %d\n", NODED_SOCKET_FD,
                NODED_ENDPOINT_FD);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    if (getppid() == 1) {
        spawn_sweep(GROUP_PREFIX); /* of a noded that crashed */
    }
    /* SIGCHLD arrives only inside ppoll(): nothing else is interrupted. */
    sigemptyset(&chld);
    sigaddset(&chld, SIGCHLD);
    sigprocmask(SIG_BLOCK, &chld, &waiting);
    sigaction(SIGCHLD, &sa, NULL);
    for (;;) {
        struct pollfd p[2] = { { NODED_SOCKET_FD, POLLIN, 0 },
                               { NODED_ENDPOINT_FD, POLLIN, 0 } };

        if (ppoll(p, 2, NULL, &waiting) < 0) {
            continue;
        }
        if (p[0].revents) {
            accept_local();
        }
        if (p[1].revents) {
            accept_remote();
        }
    }
}
