/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "session.h"

#include "client.h"
#include "frame.h"
#include "qemu.h"
#include "signals.h"
#include "terminal.h"
#include "util.h"

#include <errno.h>
#include <glib-unix.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    READ_BYTES = 32768,
    /* A pipe that polls writable takes this much without blocking. */
    PIPE_BYTES = 4096,
    /* Grants go out when a part of the window was used, not per frame. */
    GRANT_BYTES = AGENT_WINDOW_BYTES / 8,
    /* After SIGTERM or SIGHUP the program has this long. */
    TERM_GRACE_MS = 2000,
    /* So many SIGINTs, no two further apart than this, mean: now. */
    FORCE_COUNT = 3,
    FORCE_GAP_US = 2000000,
    CONSOLE_LOG_BYTES = 65536,
    ESCAPE = 0x1d, /* ^] */
};

/* stdout or stderr: never blocks the loop, grants what was written. */
struct sink {
    struct session *session;
    unsigned stream;
    int fd;
    enum { SINK_FILE, SINK_PIPE, SINK_SOCKET } kind;
    bool broken; /* nobody reads: what comes is thrown away */
    GByteArray *pending;
    gsize done;
    uint32_t ungranted;
    guint source;
};

struct session {
    struct client *client;
    GMainLoop *loop;
    const char *node_name, *program;
    bool console, log_only, tty, started, exited, closed;
    uint32_t exit_kind, exit_value;
    char *exit_text;
    GError *error;
    struct sink sinks[3]; /* by stream; 0 is unused */
    guint stdin_source;
    bool stdin_ended;
    uint32_t stdin_room;
    unsigned interrupts;
    gint64 last_interrupt_us;
    int early_signal; /* came before the program had started */
    guint grace_timer;
    int end_signal; /* SIGTERM or SIGHUP came; SIGINT: forced */
    bool given_up;
};

/* ---- output ---- */

static void sink_init(struct session *s, unsigned stream, int fd)
{
    struct sink *k = &s->sinks[stream];
    struct stat st;

    k->session = s;
    k->stream = stream;
    k->fd = fd;
    k->pending = g_byte_array_new();
    if (fstat(fd, &st) < 0) {
        k->broken = true;
    } else if (S_ISREG(st.st_mode)) {
        k->kind = SINK_FILE;
    } else {
        k->kind = S_ISSOCK(st.st_mode) ? SINK_SOCKET : SINK_PIPE;
    }
}

/* As write(2), but EAGAIN where that would wait. */
static ssize_t write_now(const struct sink *k, const void *data, gsize len)
{
    struct pollfd p = { .fd = k->fd, .events = POLLOUT };

    switch (k->kind) {
    case SINK_FILE:
        return write(k->fd, data, len);
    case SINK_SOCKET:
        return send(k->fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    default:
        if (poll(&p, 1, 0) != 1) {
            errno = EAGAIN;
            return -1;
        }
        return write(k->fd, data, MIN(len, PIPE_BYTES));
    }
}

static void sink_taken(struct sink *k, gsize n)
{
    if (k->session->console) {
        return; /* consoles have no windows */
    }
    k->ungranted += (uint32_t)n;
    if (k->ungranted >= GRANT_BYTES ||
        (k->ungranted > 0 && k->pending->len == k->done)) {
        client_send_u32(k->session->client, CTL_GRANT, k->stream, k->ungranted);
        k->ungranted = 0;
    }
}

static void check_finished(struct session *s)
{
    if (!s->exited && !s->closed) {
        return;
    }
    for (unsigned i = 1; i <= 2; i++) {
        if (s->sinks[i].source) {
            return;
        }
    }
    g_main_loop_quit(s->loop);
}

static void sink_break(struct sink *k, int err)
{
    struct session *s = k->session;

    k->broken = true;
    sink_taken(k, k->pending->len - k->done);
    g_byte_array_set_size(k->pending, 0);
    k->done = 0;
    if (err == EPIPE && s->started && !s->exited && !s->console) {
        client_send_u32(s->client, CTL_SIGNAL, 0, SIGPIPE);
    } else if (err != EPIPE) {
        complain("cannot write standard %s: %s",
                 k->stream == 1 ? "output" : "error", g_strerror(err));
    }
}

/* Return: true when everything is written or thrown away. */
static bool sink_push(struct sink *k)
{
    while (k->done < k->pending->len && !k->broken) {
        ssize_t n =
            write_now(k, k->pending->data + k->done, k->pending->len - k->done);

        if (n >= 0) {
            k->done += (gsize)n;
            sink_taken(k, (gsize)n);
        } else if (errno == EAGAIN) {
            return false;
        } else if (errno != EINTR) {
            sink_break(k, errno);
        }
    }
    g_byte_array_set_size(k->pending, 0);
    k->done = 0;
    return true;
}

static gboolean on_sink_writable(int fd, GIOCondition cond, gpointer opaque)
{
    struct sink *k = opaque;

    if (!sink_push(k)) {
        return G_SOURCE_CONTINUE;
    }
    k->source = 0;
    check_finished(k->session);
    return G_SOURCE_REMOVE;
}

static void sink_write(struct sink *k, const uint8_t *data, gsize len)
{
    if (k->broken) {
        sink_taken(k, len);
        return;
    }
    g_byte_array_append(k->pending, data, (guint)len);
    if (!k->source && !sink_push(k)) {
        k->source =
            g_unix_fd_add(k->fd, G_IO_OUT | G_IO_ERR, on_sink_writable, k);
    }
}

/* ---- input ---- */

static gboolean on_stdin(int fd, GIOCondition cond, gpointer opaque);

static void update_stdin(struct session *s, bool wanted)
{
    bool want = wanted && s->started && !s->exited && !s->stdin_ended &&
                s->stdin_room > 0;

    if (want && !s->stdin_source) {
        s->stdin_source = g_unix_fd_add(
            STDIN_FILENO, G_IO_IN | G_IO_HUP | G_IO_ERR, on_stdin, s);
    } else if (!want && s->stdin_source) {
        g_source_remove(s->stdin_source);
        s->stdin_source = 0;
    }
}

static void stdin_ended(struct session *s)
{
    if (s->stdin_source) {
        g_source_remove(s->stdin_source);
        s->stdin_source = 0;
    }
    s->stdin_ended = true;
    if (!s->console) {
        client_send(s->client, CTL_DATA, 0, NULL, 0);
    }
}

static gboolean on_stdin(int fd, GIOCondition cond, gpointer opaque)
{
    struct session *s = opaque;
    uint8_t buf[READ_BYTES];
    ssize_t n = read(fd, buf, MIN(sizeof(buf), s->stdin_room));
    uint8_t *escape;

    if (n < 0 && (errno == EINTR || errno == EAGAIN)) {
        return G_SOURCE_CONTINUE;
    }
    if (n <= 0) {
        /* Removes this source itself. */
        stdin_ended(s);
        return G_SOURCE_CONTINUE;
    }
    if (s->console) {
        escape = s->tty ? memchr(buf, ESCAPE, (size_t)n) : NULL;
        client_send(s->client, CTL_DATA, 0, buf,
                    escape ? (gsize)(escape - buf) : (gsize)n);
        if (escape) {
            s->exited = true;
            g_main_loop_quit(s->loop);
        }
        return G_SOURCE_CONTINUE;
    }
    client_send(s->client, CTL_DATA, 0, buf, (gsize)n);
    s->stdin_room -= (uint32_t)n;
    update_stdin(s, true);
    return G_SOURCE_CONTINUE;
}

/* ---- signals ---- */

static void send_winsize(struct session *s)
{
    uint16_t rows, cols;

    if (s->tty && terminal_size(STDOUT_FILENO, &rows, &cols)) {
        const uint8_t wire[4] = { (uint8_t)rows, (uint8_t)(rows >> 8),
                                  (uint8_t)cols, (uint8_t)(cols >> 8) };

        client_send(s->client, CTL_WINSIZE, 0, wire, sizeof(wire));
    }
}

static gboolean give_up(gpointer opaque)
{
    struct session *s = opaque;

    s->grace_timer = 0;
    s->given_up = true;
    g_main_loop_quit(s->loop);
    return G_SOURCE_REMOVE;
}

static void give_up_now(struct session *s)
{
    s->given_up = true;
    g_main_loop_quit(s->loop);
}

static void on_interrupt(struct session *s)
{
    gint64 now = g_get_monotonic_time();

    if (now - s->last_interrupt_us > FORCE_GAP_US) {
        s->interrupts = 0;
    }
    s->last_interrupt_us = now;
    if (++s->interrupts == FORCE_COUNT) {
        s->end_signal = SIGINT;
        give_up_now(s);
    }
}

static void on_session_signal(int signal, void *opaque)
{
    struct session *s = opaque;

    if (signal == SIGWINCH) {
        if (s->started && !s->console) {
            send_winsize(s);
        }
        return;
    }
    if (s->console) {
        s->end_signal = signal;
        give_up_now(s);
        return;
    }
    if (!s->started) {
        s->early_signal = signal; /* there is nobody to get it yet */
    } else if (!s->exited) {
        client_send_u32(s->client, CTL_SIGNAL, 0, (uint32_t)signal);
    }
    if (signal == SIGINT) {
        on_interrupt(s);
    } else if (signal != SIGQUIT && !s->end_signal) {
        s->end_signal = signal;
        s->grace_timer = g_timeout_add(TERM_GRACE_MS, give_up, s);
    }
}

/* ---- the connection ---- */

static void on_exit_frame(struct session *s, const uint8_t *payload, gsize len)
{
    if (len < 8) {
        s->error = g_error_new(CHIMERA_ERROR, CHIMERA_ERROR_PROTO,
                               "the supervisor sent a malformed exit");
    } else {
        s->exit_kind = frame_u32(payload);
        s->exit_value = frame_u32(payload + 4);
        s->exit_text =
            printable_line((const char *)payload + 8, (gssize)len - 8);
    }
    s->exited = true;
    update_stdin(s, false);
    check_finished(s);
}

static void on_frame(struct client *cl, unsigned type, unsigned stream,
                     const uint8_t *payload, gsize len, void *opaque)
{
    struct session *s = opaque;

    switch (type) {
    case CTL_STARTED:
        s->started = true;
        if (s->log_only) { /* the log was before this frame */
            s->exited = true;
            check_finished(s);
            break;
        }
        if (s->tty) {
            terminal_raw();
        }
        if (s->early_signal) {
            client_send_u32(s->client, CTL_SIGNAL, 0, (uint32_t)s->early_signal);
        }
        update_stdin(s, true);
        break;
    case CTL_DATA:
        if (stream >= 1 && len > 0) {
            sink_write(&s->sinks[stream], payload, len);
        }
        break;
    case CTL_GRANT:
        if (len == 4 &&
            s->stdin_room + frame_u32(payload) <= AGENT_WINDOW_BYTES) {
            s->stdin_room += frame_u32(payload);
            update_stdin(s, true);
        }
        break;
    case CTL_EXIT:
        on_exit_frame(s, payload, len);
        break;
    }
}

static void on_json(struct client *cl, unsigned type, JsonNode *node,
                    void *opaque)
{
}

static void on_closed(struct client *cl, const GError *error, void *opaque)
{
    struct session *s = opaque;

    s->closed = true;
    if (!s->exited && !s->error) {
        s->error = error ? g_error_copy(error)
                         : g_error_new(CHIMERA_ERROR, CHIMERA_ERROR_STATE,
                                       "the machine's supervisor ended");
    }
    update_stdin(s, false);
    check_finished(s);
}

static const struct client_ops session_client_ops = {
    .frame = on_frame,
    .json = on_json,
    .closed = on_closed,
};

static bool session_open(struct session *s, const char *machine, GError **error)
{
    int fd = client_connect(machine, error);

    if (fd < 0) {
        return false;
    }
    s->loop = g_main_loop_new(NULL, FALSE);
    s->stdin_room = AGENT_WINDOW_BYTES;
    sink_init(s, 1, STDOUT_FILENO);
    sink_init(s, 2, STDERR_FILENO);
    s->client = client_new(fd, &session_client_ops, s);
    signals_handle(on_session_signal, s);
    return true;
}

static void no_signal(int signal, void *opaque)
{
}

static void session_close(struct session *s)
{
    /* Raw mode ends here; what comes now is for the caller to print. */
    terminal_restore();
    signals_handle(no_signal, NULL);
    update_stdin(s, false);
    for (unsigned i = 1; i <= 2; i++) {
        if (s->sinks[i].source) {
            g_source_remove(s->sinks[i].source);
        }
        g_byte_array_unref(s->sinks[i].pending);
    }
    if (s->grace_timer) {
        g_source_remove(s->grace_timer);
    }
    client_free(s->client);
    g_main_loop_unref(s->loop);
    g_free(s->exit_text);
    g_clear_error(&s->error);
}

/* ---- programs ---- */

/* Where the host's working directory is inside the guest. */
static char *guest_cwd(const char *share)
{
    g_autofree char *cwd = g_get_current_dir();
    g_autofree char *real_cwd = realpath(cwd, NULL);
    g_autofree char *real_share = realpath(share, NULL);
    size_t len = real_share ? strlen(real_share) : 0;

    if (real_cwd && len && strncmp(real_cwd, real_share, len) == 0 &&
        (real_cwd[len] == '/' || real_cwd[len] == '\0' || len == 1)) {
        return g_build_filename(GUEST_SHARE, real_cwd + len, NULL);
    }
    return g_strdup(GUEST_SHARE);
}

static void add_string(GByteArray *a, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

static void add_string(GByteArray *a, const char *fmt, ...)
{
    g_autofree char *s = NULL;
    va_list ap;

    va_start(ap, fmt);
    s = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    g_byte_array_append(a, (const guint8 *)s, (guint)strlen(s) + 1);
}

static GByteArray *exec_request(const struct session *s, unsigned index,
                                const char *share, char **argv,
                                const struct session_options *o)
{
    GByteArray *a = g_byte_array_new();
    g_autofree char *cwd = o->cwd ? g_strdup(o->cwd) : guest_cwd(share);
    uint16_t rows, cols;

    add_string(a, "node=%u", index);
    for (char **arg = argv; *arg; arg++) {
        add_string(a, "arg=%s", *arg);
    }
    add_string(a, "cwd=%s", cwd);
    if (s->tty) {
        const char *term = g_getenv("TERM");

        add_string(a, "tty=1");
        add_string(a, "env=TERM=%s", term && *term ? term : "vt100");
        if (terminal_size(STDOUT_FILENO, &rows, &cols)) {
            add_string(a, "rows=%u", rows);
            add_string(a, "cols=%u", cols);
        }
    }
    for (char **env = o->env; env && *env; env++) {
        add_string(a, "env=%s", *env);
    }
    if (o->user) {
        g_auto(GStrv) part = g_strsplit(o->user, ":", 2);

        add_string(a, "uid=%s", part[0]);
        add_string(a, "gid=%s", part[1] ? part[1] : part[0]);
    }
    return a;
}

/* The exit code, after saying what a status alone does not say. */
static int report_exit(const struct session *s)
{
    int sig = (int)s->exit_value;

    switch (s->exit_kind) {
    case 0:
        return (int)(s->exit_value & 0xff);
    case 1:
        /* What the user or a closed pipe did needs no word. */
        if (sig != SIGPIPE && !(sig == SIGINT && s->interrupts > 0) &&
            sig != s->end_signal) {
            complain("%s on node %s was killed by signal %d (%s)", s->program,
                     s->node_name, sig, strsignal(sig));
        }
        return EXIT_SIGNAL_BASE + sig;
    default:
        complain("cannot start %s on node %s: %s", s->program, s->node_name,
                 *s->exit_text ? s->exit_text : g_strerror((int)s->exit_value));
        return s->exit_value == ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT_RUN;
    }
}

int session_run(const char *machine, unsigned index, const char *node_name,
                const char *share, char **argv, const struct session_options *o,
                GError **error)
{
    struct session s = { .node_name = node_name, .program = argv[0] };
    g_autoptr(GByteArray) request = NULL;
    int code;

    s.tty = o->tty == TTY_YES || (o->tty == TTY_AUTO && isatty(STDIN_FILENO) &&
                                  isatty(STDOUT_FILENO) && !o->no_stdin);
    request = exec_request(&s, index, share, argv, o);
    if (request->len > AGENT_MAX_PAYLOAD) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_STATE,
                    "arguments and environment have %u bytes together, at "
                    "most %u fit",
                    request->len, AGENT_MAX_PAYLOAD);
        return -1;
    }
    if (!session_open(&s, machine, error)) {
        return -1;
    }
    client_send(s.client, CTL_EXEC, 0, request->data, request->len);
    if (o->no_stdin) {
        stdin_ended(&s);
    }
    g_main_loop_run(s.loop);
    terminal_restore();
    if (s.given_up) {
        code = EXIT_SIGNAL_BASE + s.end_signal;
    } else if (s.error) {
        g_propagate_error(error, g_steal_pointer(&s.error));
        code = -1;
    } else {
        code = report_exit(&s);
    }
    session_close(&s);
    return code;
}

/* ---- consoles ---- */

int session_console(const char *machine, unsigned index, const char *node_name,
                    bool log_only, GError **error)
{
    struct session s = { .node_name = node_name, .console = true };
    uint8_t wire[8];
    int code = EXIT_OK;

    s.tty = !log_only && isatty(STDIN_FILENO);
    if (!session_open(&s, machine, error)) {
        return -1;
    }
    if (s.tty) {
        complain("console of node %s; ^] leaves", node_name);
    }
    frame_put_u32(wire, index);
    frame_put_u32(wire + 4, log_only ? 1 << 20 : CONSOLE_LOG_BYTES);
    client_send(s.client, CTL_CONSOLE, 0, wire, sizeof(wire));
    if (log_only) {
        s.stdin_room = 0;
        s.log_only = true;
    }
    g_main_loop_run(s.loop);
    terminal_restore();
    if (s.given_up) {
        code = EXIT_SIGNAL_BASE + s.end_signal;
    } else if (s.error) {
        g_propagate_error(error, g_steal_pointer(&s.error));
        code = -1;
    } else if (s.tty) {
        write_all(STDERR_FILENO, "\n", 1);
    }
    session_close(&s);
    return code;
}
