/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * chimera-agent: runs commands in this node for the launcher, over one
 * virtio-serial port. The protocol is <chimera/agent-proto.h>; what it does
 * in each case stands in docs/guest-user.md.
 *
 * One thread, one epoll. Nothing that a peer or a program does can block it:
 * the port is read whenever it has something; what goes to a program's
 * standard input is bounded by the window that it was granted; programs are
 * read only as far as the launcher granted and the port takes it.
 *
 *   port (edge triggered) -> frames -> sessions -> pipes or a pty (level
 *   triggered, registered only while they are wanted: a pipe's EPOLLHUP
 *   cannot be masked) -> frames -> out -> port
 */
#define _GNU_SOURCE
#include "buf.h"
#include "request.h"
#include "spawn.h"

#include <chimera/agent-proto.h>
#include <chimera/guest.h>

#include <ctype.h>
#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

/* Stop reading programs while this much waits for the port. */
#define OUT_HIGH_BYTES (256u << 10)
/* Grant consumed standard input in steps of at least this. */
#define GRANT_STEP_BYTES (AGENT_WINDOW_BYTES / 8)
#define MAX_SESSIONS 1024
/* A port that somebody else has is tried again this often. */
#define BUSY_INTERVAL_MS 50
#define GROUP_PREFIX "agent-"
#define NR_ENDED 64

enum { STDIN, STDOUT, STDERR, NR_STREAMS };

enum source_kind {
    SRC_PORT,
    SRC_SIGNALS,
    SRC_NODE,
    SRC_STATUS, /* of a session, as the following */
    SRC_IN,
    SRC_OUT,
    SRC_ERR,
};

struct session;

struct source {
    enum source_kind kind;
    struct session *session;
    int fd;
    uint32_t events; /* registered for; 0: not in the epoll set */
};

struct session {
    struct session *next;
    uint32_t id;
    bool tty;
    bool started;    /* exec succeeded */
    bool reaped;     /* the process is gone, exit_* hold */
    bool killed;     /* of an earlier launcher, or it broke the protocol */
    bool over;       /* to be freed at the end of this round */
    bool in_ended;   /* the launcher will send no more */
    struct spawn_child child;
    struct buf in;
    uint32_t in_room;     /* what the launcher may still send */
    uint32_t in_consumed; /* not granted again yet */
    uint64_t room[NR_STREAMS]; /* what we may still send; 1 and 2 */
    size_t left[NR_STREAMS];   /* after the exit: what is still to be sent */
    struct source src[4];      /* status, in, out, err */
    uint32_t exit_kind, exit_value;
    struct spawn_failure failure;
};

static struct {
    int epoll_fd;
    struct source port;
    struct source signals;
    bool port_is_fd; /* given by number: its end is ours */
    bool connected;
    bool lost; /* frame boundary lost: look for AGENT_RESET */
    bool paused;
    struct buf in, out;
    struct session *sessions;
    unsigned nr_sessions;
    uint32_t ended[NR_ENDED]; /* ring of the ids of the latest to end */
    unsigned nr_ended;
    unsigned nr_groups_made;
    struct source *nodes;
    unsigned nr_nodes, nr_up;
} agent;

static void __attribute__((format(printf, 1, 2))) complain(const char *fmt, ...)
{
    char line[256];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    for (char *p = line; *p; p++) { /* it goes to somebody's terminal */
        if (!isprint((unsigned char)*p)) {
            *p = '?';
        }
    }
    fprintf(stderr, "chimera-agent: %s\n", line);
}

static _Noreturn void die(const char *what)
{
    complain("%s: %s", what, strerror(errno));
    exit(1);
}

/* ---- epoll ---- */

static void source_arm(struct source *src, uint32_t events)
{
    struct epoll_event ev = { .events = events, .data.ptr = src };
    int op = !src->events ? EPOLL_CTL_ADD
             : !events    ? EPOLL_CTL_DEL
                          : EPOLL_CTL_MOD;

    if (src->fd < 0 || src->events == events) {
        return;
    }
    if (epoll_ctl(agent.epoll_fd, op, src->fd, &ev) < 0) {
        die("epoll_ctl");
    }
    src->events = events;
}

/* ---- frames to the launcher ---- */

static void send_frame(enum agent_type type, uint32_t session, uint16_t stream,
                       const void *data, uint32_t len)
{
    struct agent_frame f = { .magic = htole32(AGENT_MAGIC),
                             .type = htole16(type),
                             .stream = htole16(stream),
                             .session = htole32(session),
                             .len = htole32(len) };

    if (!agent.connected) {
        return;
    }
    if (!buf_append(&agent.out, &f, sizeof(f)) ||
        !buf_append(&agent.out, data, len)) {
        die("output queue");
    }
}

static void send_u32(enum agent_type type, uint32_t session, uint16_t stream,
                     uint32_t value)
{
    uint32_t le = htole32(value);

    send_frame(type, session, stream, &le, sizeof(le));
}

static void __attribute__((format(printf, 2, 3)))
send_error(uint32_t session, const char *fmt, ...)
{
    char text[256];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    send_frame(AGENT_ERROR, session, 0, text, strlen(text));
}

static void send_machine(void)
{
    uint32_t body[2] = { htole32(agent.nr_up), htole32(agent.nr_nodes) };

    send_frame(AGENT_MACHINE, 0, 0, body, sizeof(body));
}

static void send_hello(const char *nonce)
{
    struct utsname uts;
    int self = chimera_self();
    struct {
        char nonce[8];
        uint32_t version;
        uint32_t node;
        char text[3 * sizeof(uts.release)];
    } body = { .version = htole32(AGENT_PROTO_VERSION),
               .node = htole32(self < 0 ? UINT32_MAX : (uint32_t)self) };
    int n;

    memcpy(body.nonce, nonce, sizeof(body.nonce));
    uname(&uts);
    n = snprintf(body.text, sizeof(body.text), "%s %s %s", uts.sysname,
                 uts.release, uts.machine);
    send_frame(AGENT_HELLO, 0, 0, &body, offsetof(typeof(body), text) + n);
}

/* ---- sessions ---- */

static struct session *session_find(uint32_t id)
{
    for (struct session *s = agent.sessions; s; s = s->next) {
        if (s->id == id && !s->over && !s->killed) {
            return s;
        }
    }
    return NULL;
}

static bool session_ended_lately(uint32_t id)
{
    for (unsigned i = 0; i < NR_ENDED; i++) {
        if (agent.ended[i] == id) {
            return true;
        }
    }
    return false;
}

static void source_close(struct source *src, int *fd)
{
    source_arm(src, 0);
    if (src->fd >= 0) {
        close(src->fd);
    }
    src->fd = -1;
    *fd = -1;
}

/* Its streams have ended: nothing but the last frame is left to say. */
static void session_finish(struct session *s)
{
    struct {
        uint32_t kind, value;
        char text[SPAWN_TEXT_BYTES];
    } body = { htole32(s->exit_kind), htole32(s->exit_value), "" };
    size_t len = offsetof(typeof(body), text);

    if (s->over) {
        return;
    }
    if (!s->killed) {
        if (s->exit_kind == 2) {
            size_t n = strlen(s->failure.text);

            memcpy(body.text, s->failure.text, n);
            len += n;
        }
        send_frame(AGENT_EXIT, s->id, 0, &body, len);
        agent.ended[agent.nr_ended++ % NR_ENDED] = s->id;
    }
    for (int i = 0; i < 4; i++) {
        source_arm(&s->src[i], 0);
    }
    spawn_forget(&s->child);
    s->over = true;
}

static int *session_fd(struct session *s, int stream)
{
    return stream == STDIN    ? &s->child.in
           : stream == STDOUT ? &s->child.out
                              : &s->child.err;
}

static void session_end_stream(struct session *s, int stream)
{
    source_close(&s->src[1 + stream], session_fd(s, stream));
    if (stream != STDIN && !s->killed) {
        send_frame(AGENT_DATA, s->id, stream, NULL, 0);
    }
}

/* Whatever follows from the state that the session has now. */
static void session_update(struct session *s)
{
    if (s->over) {
        return;
    }
    if (s->reaped && s->src[0].fd < 0 &&
        (s->killed || (s->child.out < 0 && s->child.err < 0))) {
        session_finish(s);
        return;
    }
    for (int i = STDOUT; i <= STDERR; i++) {
        bool wanted = s->started && !s->killed && s->room[i] && !agent.paused;

        source_arm(&s->src[1 + i], wanted ? EPOLLIN : 0);
    }
    source_arm(&s->src[1], s->started && buf_len(&s->in) ? EPOLLOUT : 0);
}

static void session_kill(struct session *s)
{
    s->killed = true;
    spawn_kill(&s->child);
    session_update(s);
}

/*
 * Bytes of standard input are gone (written, or nobody will read them): let
 * the launcher send as many again. After the end it sends no more, and the
 * character that ends a terminal's input was never granted.
 */
static void session_grant(struct session *s, size_t n)
{
    s->in_consumed += n;
    if (s->killed || s->in_ended) {
        return;
    }
    if (s->in_consumed >= GRANT_STEP_BYTES ||
        (s->in_consumed && !buf_len(&s->in))) {
        send_u32(AGENT_GRANT, s->id, STDIN, s->in_consumed);
        s->in_room += s->in_consumed;
        s->in_consumed = 0;
    }
}

static void session_feed(struct session *s)
{
    while (buf_len(&s->in) && s->child.in >= 0 && s->started) {
        ssize_t n = write(s->child.in, buf_head(&s->in), buf_len(&s->in));

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0 && errno == EAGAIN) {
            break;
        }
        if (n < 0) { /* nobody reads any more */
            source_close(&s->src[1], &s->child.in);
            break;
        }
        buf_consume(&s->in, n);
        session_grant(s, n);
    }
    if (s->child.in < 0 && buf_len(&s->in)) {
        size_t n = buf_len(&s->in);

        buf_consume(&s->in, n);
        session_grant(s, n);
    }
    if (s->in_ended && !buf_len(&s->in) && s->child.in >= 0 && !s->tty &&
        s->started) {
        source_close(&s->src[1], &s->child.in);
    }
    session_update(s);
}

static void session_read(struct session *s, int stream)
{
    int *fd = session_fd(s, stream);
    char data[32768];
    size_t want = sizeof(data);
    ssize_t n;

    if (*fd < 0 || !s->room[stream]) {
        return;
    }
    want = want < s->room[stream] ? want : s->room[stream];
    want = want < s->left[stream] ? want : s->left[stream];
    n = want ? read(*fd, data, want) : 0;
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        /* A pipe that was still full of others' output has been emptied. */
        if (s->reaped && !s->tty) {
            session_end_stream(s, stream);
        }
    } else if (n <= 0) { /* a pty's end is EIO */
        session_end_stream(s, stream);
    } else {
        send_frame(AGENT_DATA, s->id, stream, data, n);
        s->room[stream] -= n;
        if (s->reaped && !s->tty) {
            s->left[stream] -= n;
            if (!s->left[stream]) {
                session_end_stream(s, stream);
            }
        }
    }
    session_update(s);
}

/*
 * The process is gone. What it wrote is still in the pipes and will be sent;
 * what others who inherited the pipes write from now on will not. A pty was
 * hung up with its session's leader, so it ends by itself.
 */
static void session_reaped(struct session *s, int status)
{
    s->reaped = true;
    s->child.pid = 0;
    if (s->exit_kind != 2) {
        s->exit_kind = WIFSIGNALED(status) ? 1 : 0;
        s->exit_value = WIFSIGNALED(status) ? WTERMSIG(status)
                                            : WEXITSTATUS(status);
    }
    for (int i = STDOUT; i <= STDERR && !s->tty; i++) {
        int n = 0, fd = *session_fd(s, i);

        if (fd < 0) {
            continue;
        }
        s->left[i] = ioctl(fd, FIONREAD, &n) < 0 || n < 0 ? 0 : (size_t)n;
        if (!s->left[i] && s->started) {
            session_end_stream(s, i);
        }
    }
    if (s->child.in >= 0) {
        source_close(&s->src[1], &s->child.in);
    }
    session_feed(s);
}

static void session_status(struct session *s)
{
    int rc = spawn_result(&s->child, &s->failure);

    if (rc == -EAGAIN) {
        return;
    }
    source_close(&s->src[0], &s->child.status_fd);
    if (!rc) {
        s->started = true;
        if (!s->killed) {
            send_u32(AGENT_STARTED, s->id, 0, s->child.pid);
        }
        if (s->reaped && !s->tty) {
            for (int i = STDOUT; i <= STDERR; i++) {
                if (!s->left[i] && *session_fd(s, i) >= 0) {
                    session_end_stream(s, i);
                }
            }
        }
        session_feed(s);
        return;
    }
    s->exit_kind = 2;
    s->exit_value = -rc;
    for (int i = STDIN; i <= STDERR; i++) {
        if (*session_fd(s, i) >= 0) {
            session_end_stream(s, i);
        }
    }
    session_update(s); /* its process still has to be reaped */
}

/* ---- AGENT_EXEC ---- */

static void session_exec(uint32_t id, char *data, uint32_t len)
{
    struct exec_request request;
    char group[SPAWN_GROUP_BYTES];
    const char *wrong;
    struct session *s;
    int rc;

    if (!id || session_find(id)) {
        send_error(id, "exec: session id %u is %s", id, id ? "in use" : "0");
        return;
    }
    wrong = request_parse(&request, data, len);
    if (wrong) {
        send_error(id, "exec: %s", wrong);
        request_free(&request);
        return;
    }
    s = calloc(1, sizeof(*s));
    if (!s) {
        die("session");
    }
    s->id = id;
    s->tty = request.spawn.tty;
    s->in_room = AGENT_WINDOW_BYTES;
    s->room[STDOUT] = s->room[STDERR] = AGENT_WINDOW_BYTES;
    s->left[STDOUT] = s->left[STDERR] = SIZE_MAX;
    s->child = (struct spawn_child){ .status_fd = -1, .in = -1, .out = -1,
                                     .err = -1 };
    s->next = agent.sessions;
    agent.sessions = s;

    snprintf(group, sizeof(group), GROUP_PREFIX "%u", ++agent.nr_groups_made);
    request.spawn.group = agent.port_is_fd ? NULL : group;
    rc = agent.nr_sessions++ < MAX_SESSIONS
             ? spawn_start(&request.spawn, &s->child)
             : -EAGAIN;
    for (int i = 0; i < 4; i++) {
        s->src[i] = (struct source){ .kind = SRC_STATUS + i, .session = s,
                                     .fd = -1 };
    }
    if (rc < 0) {
        s->exit_kind = 2;
        s->exit_value = -rc;
        snprintf(s->failure.text, sizeof(s->failure.text), "%s: %s",
                 request.argv[0],
                 rc == -EAGAIN ? "too many sessions or processes"
                               : strerror(-rc));
        s->reaped = true;
        send_frame(AGENT_DATA, id, STDOUT, NULL, 0);
        if (!s->tty) {
            send_frame(AGENT_DATA, id, STDERR, NULL, 0);
        }
        session_finish(s);
        request_free(&request);
        return;
    }
    request_free(&request);
    s->src[0].fd = s->child.status_fd;
    s->src[1].fd = s->child.in;
    s->src[2].fd = s->child.out;
    s->src[3].fd = s->child.err;
    source_arm(&s->src[0], EPOLLIN);
}

/* ---- the other frames of a session ---- */

static void session_data(struct session *s, uint16_t stream, const char *data,
                         uint32_t len)
{
    if (stream != STDIN || s->in_ended) {
        send_error(s->id, stream != STDIN ? "data: stream %u is not stdin"
                                          : "data: after the end of stream %u",
                   stream);
        return;
    }
    if (len > s->in_room) {
        /* Dropping a part of a program's input would be worse than ending it */
        send_error(s->id, "data: %u bytes where %u were granted", len,
                   s->in_room);
        spawn_kill(&s->child);
        return;
    }
    if (!len) {
        struct termios t;

        s->in_ended = true;
        if (s->tty && s->child.in >= 0 && !tcgetattr(s->child.in, &t) &&
            (t.c_lflag & ICANON) && !buf_append(&s->in, &t.c_cc[VEOF], 1)) {
            die("input queue");
        }
    } else {
        s->in_room -= len;
        if (!buf_append(&s->in, data, len)) {
            die("input queue");
        }
    }
    session_feed(s);
}

static uint32_t get_u32(const char *data)
{
    uint32_t le;

    memcpy(&le, data, sizeof(le));
    return le32toh(le);
}

static void session_frame(struct session *s, const struct agent_frame *f,
                          const char *data)
{
    switch (f->type) {
    case AGENT_DATA:
        session_data(s, f->stream, data, f->len);
        break;
    case AGENT_GRANT:
        if (f->len != 4 || f->stream < STDOUT || f->stream > STDERR) {
            send_error(s->id, "grant: malformed");
        } else if (s->room[f->stream] + get_u32(data) > UINT32_MAX) {
            send_error(s->id, "grant: more than 4 GiB");
        } else {
            s->room[f->stream] += get_u32(data);
            session_update(s);
        }
        break;
    case AGENT_SIGNAL:
        if (f->len != 4 || !get_u32(data) || get_u32(data) >= NSIG) {
            send_error(s->id, "signal: malformed");
        } else if (s->started && !s->reaped) {
            spawn_signal(&s->child, s->tty, get_u32(data));
        } else if (!s->reaped && s->child.pid > 0) {
            kill(s->child.pid, get_u32(data)); /* not the program yet */
        }
        break;
    case AGENT_WINSIZE:
        if (f->len != 4 || !s->tty) {
            send_error(s->id, "winsize: %s",
                       s->tty ? "malformed" : "not a terminal");
        } else {
            struct winsize ws = { .ws_row = get_u32(data) & 0xffff,
                                  .ws_col = get_u32(data) >> 16 };

            if (s->child.out >= 0) {
                ioctl(s->child.out, TIOCSWINSZ, &ws);
            }
        }
        break;
    }
}

/* ---- the port ---- */

static void kill_sessions(void)
{
    for (struct session *s = agent.sessions; s; s = s->next) {
        if (!s->over) {
            session_kill(s);
        }
    }
}

static void handle_frame(const struct agent_frame *f, char *data)
{
    struct session *s;

    switch (f->type) {
    case AGENT_RESET:
        if (f->session || f->len != 8) {
            send_error(0, "reset: malformed");
            return;
        }
        kill_sessions();
        memset(agent.ended, 0, sizeof(agent.ended));
        buf_consume(&agent.out, buf_len(&agent.out));
        send_hello(data);
        send_machine();
        return;
    case AGENT_EXEC:
        session_exec(f->session, data, f->len);
        return;
    case AGENT_DATA:
    case AGENT_GRANT:
    case AGENT_SIGNAL:
    case AGENT_WINSIZE:
        s = session_find(f->session);
        if (s) {
            session_frame(s, f, data);
        } else if (!session_ended_lately(f->session)) {
            send_error(f->session, "there is no such session");
        }
        return;
    case AGENT_POWEROFF:
        /* PID 1 knows how to end everything. */
        if (kill(1, SIGUSR2) < 0) {
            send_error(0, "poweroff: %s", strerror(errno));
        }
        return;
    case AGENT_ERROR:
        complain("the launcher reports for session %u: %.*s", f->session,
                 (int)f->len, data);
        return;
    default:
        send_error(f->session, "frame type %u is unknown", f->type);
    }
}

/* Skip to the header of the next AGENT_RESET. Return: whether it is there. */
static bool find_reset(void)
{
    const struct agent_frame reset = { .magic = htole32(AGENT_MAGIC),
                                       .type = htole16(AGENT_RESET),
                                       .len = htole32(8) };
    size_t len = buf_len(&agent.in);
    char *at = memmem(buf_head(&agent.in), len, &reset, sizeof(reset));

    if (at) {
        buf_consume(&agent.in, at - buf_head(&agent.in));
        agent.lost = false;
        return true;
    }
    if (len >= sizeof(reset)) {
        buf_consume(&agent.in, len - (sizeof(reset) - 1));
    }
    return false;
}

static void handle_input(void)
{
    for (;;) {
        struct agent_frame f;

        if (agent.lost && !find_reset()) {
            return;
        }
        if (buf_len(&agent.in) < sizeof(f)) {
            return;
        }
        memcpy(&f, buf_head(&agent.in), sizeof(f));
        f.magic = le32toh(f.magic);
        f.type = le16toh(f.type);
        f.stream = le16toh(f.stream);
        f.session = le32toh(f.session);
        f.len = le32toh(f.len);
        if (f.magic != AGENT_MAGIC || f.len > AGENT_MAX_PAYLOAD) {
            send_error(0, f.magic != AGENT_MAGIC
                              ? "frame: bad magic 0x%08x"
                              : "frame: payload of %u bytes is too long",
                       f.magic != AGENT_MAGIC ? f.magic : f.len);
            agent.lost = true;
            buf_consume(&agent.in, 1);
            continue;
        }
        if (buf_len(&agent.in) < sizeof(f) + f.len) {
            return;
        }
        handle_frame(&f, buf_head(&agent.in) + sizeof(f));
        buf_consume(&agent.in, sizeof(f) + f.len);
    }
}

static void port_down(void)
{
    if (!agent.connected) {
        return;
    }
    agent.connected = false;
    agent.lost = false;
    buf_consume(&agent.in, buf_len(&agent.in));
    buf_consume(&agent.out, buf_len(&agent.out));
    kill_sessions();
}

/*
 * Edge triggered: read until there is nothing. A virtio port without a host
 * reads as its end, and poll tells when that changes.
 */
static void port_read(void)
{
    for (;;) {
        char *to = buf_reserve(&agent.in, 65536);
        ssize_t n;

        if (!to) {
            die("input queue");
        }
        n = read(agent.port.fd, to, 65536);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0 && errno == EAGAIN) {
            return;
        }
        if (n <= 0) {
            if (n < 0 && !agent.port_is_fd) {
                die("port"); /* unplugged: init starts us again */
            }
            port_down();
            return;
        }
        agent.connected = true;
        agent.in.tail += n;
        handle_input();
    }
}

static void port_write(void)
{
    bool paused;

    while (buf_len(&agent.out)) {
        ssize_t n = write(agent.port.fd, buf_head(&agent.out),
                          buf_len(&agent.out));

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0 && errno != EAGAIN && agent.port_is_fd) {
            port_down();
        }
        if (n <= 0) {
            break;
        }
        buf_consume(&agent.out, n);
    }
    paused = buf_len(&agent.out) >= OUT_HIGH_BYTES;
    if (paused != agent.paused) {
        agent.paused = paused;
        for (struct session *s = agent.sessions; s; s = s->next) {
            session_update(s);
        }
    }
}

/*
 * The port's device node. There is no udev: its name stands in sysfs, where
 * it may appear (and get its name) after we have started, which the kernel
 * announces on a netlink socket.
 */
static int port_look(void)
{
    DIR *dir = opendir("/sys/class/virtio-ports");
    struct dirent *d;
    int fd = -ENOENT;

    while (dir && fd == -ENOENT && (d = readdir(dir))) {
        char path[64 + sizeof(d->d_name)], name[64] = "";
        FILE *f;

        snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name",
                 d->d_name);
        f = fopen(path, "re");
        if (!f) {
            continue;
        }
        if (fgets(name, sizeof(name), f)) {
            name[strcspn(name, "\n")] = '\0';
        }
        fclose(f);
        if (!strcmp(name, AGENT_PORT_NAME)) {
            snprintf(path, sizeof(path), "/dev/%s", d->d_name);
            fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
            fd = fd < 0 ? -errno : fd;
        }
    }
    if (dir) {
        closedir(dir);
    }
    return fd;
}

static int port_wait(void)
{
    struct sockaddr_nl addr = { .nl_family = AF_NETLINK, .nl_groups = 1 };
    int nl = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC,
                    NETLINK_KOBJECT_UEVENT);
    int fd;

    if (nl < 0 || bind(nl, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        die("uevent socket");
    }
    while ((fd = port_look()) < 0) {
        struct pollfd p = { .fd = nl, .events = POLLIN };
        char event[8192];

        /* EBUSY: an agent that was killed, or a child of it that has not become
           its program, has not closed it yet; nothing tells when it does. */
        if (fd != -ENOENT && fd != -ENXIO && fd != -EBUSY) {
            errno = -fd;
            die("port " AGENT_PORT_NAME);
        }
        if (poll(&p, 1, fd == -EBUSY ? BUSY_INTERVAL_MS : -1) > 0 &&
            recv(nl, event, sizeof(event), 0) < 0 && errno != EINTR &&
            errno != ENOBUFS) {
            die("uevent socket");
        }
    }
    close(nl);
    return fd;
}

/* ---- the machine ---- */

static void nodes_count(void)
{
    unsigned up = 0;
    char state[16];

    for (unsigned i = 0; i < agent.nr_nodes; i++) {
        if (!chimera_node_state_read(agent.nodes[i].fd, state, sizeof(state)) &&
            !strcmp(state, "up")) {
            up++;
        }
    }
    if (up != agent.nr_up) {
        agent.nr_up = up;
        send_machine();
    }
}

static void nodes_open(void)
{
    static struct source nodes[CHIMERA_MAX_NODES];
    unsigned n;

    for (n = 0; n < CHIMERA_MAX_NODES; n++) {
        int fd = chimera_node_state_open(n);

        if (fd < 0) {
            break;
        }
        nodes[n] = (struct source){ .kind = SRC_NODE, .fd = fd };
    }
    agent.nodes = nodes;
    agent.nr_nodes = n;
    nodes_count(); /* a read arms the poll */
    for (n = 0; n < agent.nr_nodes; n++) {
        source_arm(&nodes[n], EPOLLPRI);
    }
    nodes_count();
}

/* ---- the loop ---- */

static void reap(void)
{
    struct signalfd_siginfo info;
    bool leave = false;
    int status;
    pid_t pid;

    while (read(agent.signals.fd, &info, sizeof(info)) == sizeof(info)) {
        leave = leave || info.ssi_signo != SIGCHLD;
    }
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        for (struct session *s = agent.sessions; s; s = s->next) {
            if (s->child.pid == pid) {
                session_reaped(s, status);
                break;
            }
        }
    }
    if (leave) { /* init is powering off, or a test has seen enough */
        kill_sessions();
        exit(0);
    }
}

static void sweep(void)
{
    for (struct session **p = &agent.sessions, *s; (s = *p);) {
        if (s->over) {
            *p = s->next;
            buf_free(&s->in);
            free(s);
            agent.nr_sessions--;
        } else {
            p = &s->next;
        }
    }
}

static void dispatch(struct source *src, uint32_t events)
{
    struct session *s = src->session;

    if (s && s->over) {
        return; /* ended earlier in this round */
    }
    switch (src->kind) {
    case SRC_PORT:
        /* A port may be connected without having anything to say yet. */
        agent.connected = agent.connected || !(events & EPOLLHUP);
        port_read();
        break;
    case SRC_SIGNALS:
        reap();
        break;
    case SRC_NODE:
        nodes_count();
        break;
    case SRC_STATUS:
        session_status(s);
        break;
    case SRC_IN:
        session_feed(s);
        break;
    case SRC_OUT:
        session_read(s, STDOUT);
        break;
    case SRC_ERR:
        session_read(s, STDERR);
        break;
    }
}

int main(int argc, char **argv)
{
    struct epoll_event events[64];
    sigset_t mask;

    if (argc > 2 || (argc == 2 && !isdigit((unsigned char)argv[1][0]))) {
        fprintf(stderr, "usage: chimera-agent [FD]\n"
                        "Serves the port " AGENT_PORT_NAME ", or the open "
                        "descriptor FD until it ends.\n");
        return 2;
    }
    sigemptyset(&mask);
    sigaddset(&mask, SIGCHLD);
    sigaddset(&mask, SIGTERM);
    sigaddset(&mask, SIGINT);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    signal(SIGPIPE, SIG_IGN);

    agent.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    agent.signals = (struct source){ .kind = SRC_SIGNALS };
    agent.signals.fd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
    if (agent.epoll_fd < 0 || agent.signals.fd < 0) {
        die("start");
    }
    source_arm(&agent.signals, EPOLLIN);
    nodes_open();

    agent.port = (struct source){ .kind = SRC_PORT };
    if (argc == 2) {
        agent.port_is_fd = true;
        agent.port.fd = atoi(argv[1]);
        if (fcntl(agent.port.fd, F_SETFD, FD_CLOEXEC) < 0 ||
            fcntl(agent.port.fd, F_SETFL,
                  fcntl(agent.port.fd, F_GETFL) | O_NONBLOCK) < 0) {
            die("port");
        }
    } else {
        /* What an agent that crashed left behind is nobody's now. */
        spawn_sweep(GROUP_PREFIX);
        agent.port.fd = port_wait();
    }
    source_arm(&agent.port,
               EPOLLIN | EPOLLOUT | EPOLLHUP | EPOLLRDHUP | EPOLLET);

    for (;;) {
        int n = epoll_wait(agent.epoll_fd, events, 64, -1);

        if (n < 0 && errno != EINTR) {
            die("epoll_wait");
        }
        for (int i = 0; i < n; i++) {
            dispatch(events[i].data.ptr, events[i].events);
        }
        port_write();
        sweep();
        if (agent.port_is_fd && !agent.connected && !agent.sessions &&
            agent.in.cap) {
            return 0;
        }
    }
}
