/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent.h"

#include "conn.h"
#include "frame.h"
#include "util.h"

#include <signal.h>
#include <string.h>

enum {
    HANGUP_GRACE_MS = 2000,
    /* Two whole frames: a third never needs to wait for a parse. */
    MAX_INPUT_BYTES = 2 * (sizeof(struct agent_frame) + AGENT_MAX_PAYLOAD),
};

struct agent {
    struct conn *conn;
    const struct agent_ops *ops;
    void *opaque;
    bool in_sync; /* HELLO came: frame boundaries are known */
    bool port_known; /* the port was open before */
    uint8_t nonce[FRAME_NONCE_BYTES];
    uint32_t last_session;
    GHashTable *sessions; /* id -> struct agent_session */
};

struct agent_session {
    struct agent *agent;
    uint32_t id;
    const struct agent_session_ops *ops; /* NULL: abandoned */
    void *opaque;
    bool started, ended[3];
    uint32_t stdin_room; /* bytes we may still send */
    uint32_t room[3]; /* bytes the agent may still send */
    guint kill_timer;
};

static void send_frame(struct agent *a, uint16_t type, uint16_t stream,
                       uint32_t session, const void *data, gsize len)
{
    struct agent_frame f;

    frame_encode(&f, AGENT_MAGIC, type, stream, session, (uint32_t)len);
    conn_write(a->conn, &f, sizeof(f));
    conn_write(a->conn, data, len);
}

static void send_u32(struct agent *a, uint16_t type, uint16_t stream,
                     uint32_t session, uint32_t value)
{
    uint8_t wire[4];

    frame_put_u32(wire, value);
    send_frame(a, type, stream, session, wire, sizeof(wire));
}

static void send_reset(struct agent *a)
{
    a->in_sync = false;
    /* Only has to differ from the nonces before it. */
    frame_put_u32(a->nonce, g_random_int());
    frame_put_u32(a->nonce + 4, g_random_int());
    send_frame(a, AGENT_RESET, 0, 0, a->nonce, sizeof(a->nonce));
}

static void session_free(gpointer data)
{
    struct agent_session *s = data;

    if (s->kill_timer) {
        g_source_remove(s->kill_timer);
    }
    g_free(s);
}

/* Ends all sessions, telling their owners why. */
static void fail_sessions(struct agent *a, const char *why)
{
    g_autoptr(GHashTable) sessions = a->sessions;
    GHashTableIter it;
    gpointer value;

    a->sessions = g_hash_table_new_full(NULL, NULL, NULL, session_free);
    g_hash_table_iter_init(&it, sessions);
    while (g_hash_table_iter_next(&it, NULL, &value)) {
        struct agent_session *s = value;

        if (s->ops) {
            const struct agent_session_ops *ops = s->ops;

            s->ops = NULL;
            ops->failed(s, why, s->opaque);
        }
    }
}

static void start_over(struct agent *a, const char *why)
{
    fail_sessions(a, why);
    send_reset(a);
    a->ops->trouble(a, why, a->opaque);
}

/* The session broke its rules: it alone ends. */
static void session_broken(struct agent_session *s, const char *what)
{
    struct agent *a = s->agent;
    const struct agent_session_ops *ops = s->ops;
    g_autofree char *why = g_strdup_printf("the guest agent %s", what);

    send_frame(a, AGENT_ERROR, 0, s->id, what, strlen(what));
    send_u32(a, AGENT_SIGNAL, 0, s->id, SIGKILL);
    /* What it still sends is swallowed until its AGENT_EXIT. */
    s->ops = NULL;
    if (ops) {
        ops->failed(s, why, s->opaque);
    }
}

static void session_data(struct agent_session *s, const struct agent_frame *f,
                         const uint8_t *payload)
{
    if (f->stream != 1 && f->stream != 2) {
        session_broken(s, "sent data for stdin");
    } else if (s->ended[f->stream]) {
        session_broken(s, "sent data after the end of a stream");
    } else if (f->len > s->room[f->stream]) {
        session_broken(s, "sent more data than it was granted");
    } else {
        s->room[f->stream] -= f->len;
        s->ended[f->stream] = f->len == 0;
        s->ops->data(s, f->stream, payload, f->len, s->opaque);
    }
}

static void session_exit(struct agent_session *s, const uint8_t *payload,
                         uint32_t len)
{
    g_autofree char *text =
        printable_line((const char *)payload + 8, (gssize)len - 8);

    g_hash_table_steal(s->agent->sessions, GUINT_TO_POINTER(s->id));
    if (s->ops) {
        s->ops->exit(s, frame_u32(payload), frame_u32(payload + 4), text,
                     s->opaque);
    }
    session_free(s);
}

static void session_frame(struct agent_session *s, const struct agent_frame *f,
                          const uint8_t *payload)
{
    uint32_t grant;

    if (f->type == AGENT_EXIT) {
        if (f->len < 8 || frame_u32(payload) > 2) {
            session_broken(s, "sent a malformed exit");
            g_hash_table_remove(s->agent->sessions, GUINT_TO_POINTER(s->id));
        } else {
            session_exit(s, payload, f->len);
        }
        return;
    }
    if (!s->ops) {
        return; /* abandoned or broken: only its end matters */
    }
    switch (f->type) {
    case AGENT_STARTED:
        if (f->len != 4 || s->started) {
            session_broken(s, "sent a malformed start");
            return;
        }
        s->started = true;
        s->ops->started(s, frame_u32(payload), s->opaque);
        return;
    case AGENT_DATA:
        session_data(s, f, payload);
        return;
    case AGENT_GRANT:
        grant = f->len == 4 ? frame_u32(payload) : 0;
        if (f->stream != 0 || grant == 0 ||
            grant > AGENT_WINDOW_BYTES - s->stdin_room) {
            session_broken(s, "sent a malformed grant");
            return;
        }
        s->stdin_room += grant;
        s->ops->grant(s, grant, s->opaque);
        return;
    case AGENT_ERROR: {
        g_autofree char *text = printable_line((const char *)payload, f->len);
        g_autofree char *what = g_strdup_printf("reported: %s", text);

        session_broken(s, what);
        return;
    }
    default:
        session_broken(s, "sent a frame of unknown type");
    }
}

static void on_hello(struct agent *a, const struct agent_frame *f,
                     const uint8_t *payload)
{
    const uint8_t *p = payload + FRAME_NONCE_BYTES;
    g_autofree char *text = NULL;
    uint32_t version;

    if (f->len < FRAME_NONCE_BYTES + 8) {
        g_autoptr(GError) error =
            g_error_new(CHIMERA_ERROR, CHIMERA_ERROR_PROTO,
                        "the guest agent sent a malformed greeting");

        a->ops->closed(a, error, a->opaque);
        return;
    }
    version = frame_u32(p);
    if (version != AGENT_PROTO_VERSION) {
        g_autoptr(GError) error = g_error_new(
            CHIMERA_ERROR, CHIMERA_ERROR_PROTO,
            "the guest agent speaks protocol version %u, this launcher %d; "
            "rebuild the image ('./bootstrap build')",
            version, AGENT_PROTO_VERSION);

        a->ops->closed(a, error, a->opaque);
        return;
    }
    text = printable_line((const char *)p + 8,
                          (gssize)f->len - FRAME_NONCE_BYTES - 8);
    a->in_sync = true;
    a->ops->hello(a, text, a->opaque);
}

static gsize input_before_hello(struct agent *a, const uint8_t *data, gsize len)
{
    g_autoptr(GError) error = NULL;
    struct agent_frame f;
    gsize discard = 0;
    gssize at = frame_find_hello(data, len, a->nonce, &discard);
    gssize n;

    if (at < 0) {
        return discard;
    }
    if (at > 0) {
        return (gsize)at;
    }
    n = frame_parse(data, len, AGENT_MAGIC, &f, &error);
    if (n > 0) {
        on_hello(a, &f, data + sizeof(f));
    }
    return n > 0 ? (gsize)n : 0;
}

static gsize on_input(struct conn *conn, const uint8_t *data, gsize len,
                      void *opaque)
{
    struct agent *a = opaque;
    g_autoptr(GError) error = NULL;
    struct agent_session *s;
    struct agent_frame f;
    const uint8_t *payload;
    gssize n;

    if (!a->in_sync) {
        return input_before_hello(a, data, len);
    }
    n = frame_parse(data, len, AGENT_MAGIC, &f, &error);
    if (n == 0) {
        return 0;
    }
    if (n < 0) {
        g_autofree char *why = g_strdup_printf("the guest agent sent garbage: "
                                               "%s",
                                               error->message);

        send_frame(a, AGENT_ERROR, 0, 0, error->message, strlen(error->message));
        start_over(a, why);
        return len;
    }
    payload = data + sizeof(f);
    if (f.session == 0) {
        if (f.type == AGENT_MACHINE && f.len == 8) {
            a->ops->machine(a, frame_u32(payload), frame_u32(payload + 4),
                            a->opaque);
        } else if (f.type == AGENT_ERROR) {
            g_autofree char *text = printable_line((const char *)payload, f.len);
            g_autofree char *why =
                g_strdup_printf("the guest agent reported: %s", text);

            start_over(a, why);
        } else {
            start_over(a, "the guest agent sent an unexpected frame");
        }
        return (gsize)n;
    }
    s = g_hash_table_lookup(a->sessions, GUINT_TO_POINTER(f.session));
    if (s) {
        session_frame(s, &f, payload);
    }
    return (gsize)n;
}

static void on_closed(struct conn *conn, const GError *error, void *opaque)
{
    struct agent *a = opaque;

    a->in_sync = false;
    a->ops->closed(a, error, a->opaque);
}

static const struct conn_ops agent_conn_ops = {
    .input = on_input,
    .closed = on_closed,
};

struct agent *agent_new(int fd, const struct agent_ops *ops, void *opaque)
{
    struct agent *a = g_new0(struct agent, 1);

    a->ops = ops;
    a->opaque = opaque;
    a->sessions = g_hash_table_new_full(NULL, NULL, NULL, session_free);
    a->conn = conn_new(fd, MAX_INPUT_BYTES, &agent_conn_ops, a);
    send_reset(a);
    return a;
}

void agent_free(struct agent *a)
{
    if (a) {
        fail_sessions(a, "the connection to the guest agent ended");
        conn_free(a->conn);
        g_hash_table_unref(a->sessions);
        g_free(a);
    }
}

bool agent_is_ready(const struct agent *a)
{
    return a && a->in_sync;
}

void agent_port_changed(struct agent *a, bool open)
{
    if (open && a->port_known) {
        start_over(a, "the guest agent restarted");
    } else if (open) {
        a->port_known = true;
    } else if (a->in_sync) {
        a->in_sync = false;
        fail_sessions(a, "the guest agent ended");
        a->ops->trouble(a, "the guest agent ended", a->opaque);
    }
}

void agent_poweroff(struct agent *a)
{
    send_frame(a, AGENT_POWEROFF, 0, 0, NULL, 0);
}

struct agent_session *agent_exec(struct agent *a, const void *strings,
                                 gsize len, const struct agent_session_ops *ops,
                                 void *opaque)
{
    struct agent_session *s = g_new0(struct agent_session, 1);

    s->agent = a;
    s->id = ++a->last_session;
    s->ops = ops;
    s->opaque = opaque;
    s->stdin_room = s->room[1] = s->room[2] = AGENT_WINDOW_BYTES;
    g_hash_table_insert(a->sessions, GUINT_TO_POINTER(s->id), s);
    send_frame(a, AGENT_EXEC, 0, s->id, strings, len);
    return s;
}

bool agent_session_write(struct agent_session *s, const uint8_t *data, gsize len)
{
    if (len > s->stdin_room || s->ended[0]) {
        return false;
    }
    s->stdin_room -= (uint32_t)len;
    s->ended[0] = len == 0;
    send_frame(s->agent, AGENT_DATA, 0, s->id, data, len);
    return true;
}

bool agent_session_grant(struct agent_session *s, unsigned stream,
                         uint32_t bytes)
{
    if ((stream != 1 && stream != 2) ||
        bytes > AGENT_WINDOW_BYTES - s->room[stream]) {
        return false;
    }
    s->room[stream] += bytes;
    send_u32(s->agent, AGENT_GRANT, (uint16_t)stream, s->id, bytes);
    return true;
}

void agent_session_signal(struct agent_session *s, uint32_t signal)
{
    send_u32(s->agent, AGENT_SIGNAL, 0, s->id, signal);
}

void agent_session_winsize(struct agent_session *s, uint16_t rows, uint16_t cols)
{
    const uint8_t wire[4] = { (uint8_t)rows, (uint8_t)(rows >> 8),
                              (uint8_t)cols, (uint8_t)(cols >> 8) };

    send_frame(s->agent, AGENT_WINSIZE, 0, s->id, wire, sizeof(wire));
}

static gboolean on_kill_timer(gpointer opaque)
{
    struct agent_session *s = opaque;

    s->kill_timer = 0;
    agent_session_signal(s, SIGKILL);
    return G_SOURCE_REMOVE;
}

void agent_session_abandon(struct agent_session *s)
{
    s->ops = NULL;
    agent_session_signal(s, SIGHUP);
    s->kill_timer = g_timeout_add(HANGUP_GRACE_MS, on_kill_timer, s);
}

void agent_drain(struct agent *a)
{
    conn_drain(a->conn);
}
