/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "control.h"

#include "collect.h"
#include "control-proto.h"
#include "frame.h"
#include "names.h"
#include "recorder.h"
#include "util.h"

#include <errno.h>
#include <glib-unix.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    MAX_INPUT_BYTES = 2 * (sizeof(struct agent_frame) + AGENT_MAX_PAYLOAD),
    MAX_CLIENTS = 256,
    /* A console is a wire: who does not keep up misses what passed. */
    CONSOLE_QUEUE_BYTES = 1 << 20,
    MAX_LOG_BYTES = 1 << 20,
    LAST_WORDS_MS = 1000,
};

struct control {
    struct machine *machine;
    int listen_fd;
    guint listen_source;
    bool ephemeral;
    struct recorder *recorder; /* NULL: nobody wants a recording */
    GPtrArray *clients; /* of struct client, owned by their connections */
    struct client *starter;
};

struct client {
    struct control *control;
    struct conn *conn;
    bool greeted, requested, finished;
    struct node *console; /* shown to this client */
    bool console_behind; /* something was left out */
    struct agent_session *session; /* its own, NULL when over */
    struct node *session_node;
    struct collect *stats; /* under way, as the following */
    struct names *names;
};

/* ---- sending ---- */

static void send_frame(struct client *cl, uint16_t type, uint16_t stream,
                       const void *data, gsize len)
{
    struct agent_frame f;

    frame_encode(&f, CTL_MAGIC, type, stream, 0, (uint32_t)len);
    conn_write(cl->conn, &f, sizeof(f));
    conn_write(cl->conn, data, len);
}

static void send_u32(struct client *cl, uint16_t type, uint16_t stream,
                     uint32_t value)
{
    uint8_t wire[4];

    frame_put_u32(wire, value);
    send_frame(cl, type, stream, wire, sizeof(wire));
}

/* The last frame of a connection. */
static void send_last(struct client *cl, uint16_t type, const void *data,
                      gsize len)
{
    if (!cl->finished) {
        send_frame(cl, type, 0, data, MIN(len, AGENT_MAX_PAYLOAD));
        conn_finish(cl->conn);
        cl->finished = true;
    }
}

static void G_GNUC_PRINTF(2, 3)
    send_error(struct client *cl, const char *fmt, ...)
{
    g_autofree char *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    send_last(cl, CTL_ERROR, text, strlen(text));
}

/* JSON may be longer than a frame: several of the same type, len 0 ends it. */
static void send_json(struct client *cl, uint16_t type, JsonNode *node)
{
    g_autofree char *text = json_to_string(node, FALSE);
    gsize len = strlen(text);

    for (gsize at = 0; at < len; at += AGENT_MAX_PAYLOAD) {
        send_frame(cl, type, 0, text + at, MIN(len - at, AGENT_MAX_PAYLOAD));
    }
    send_frame(cl, type, 0, NULL, 0);
}

static void send_reply(struct client *cl, JsonNode *node)
{
    if (!cl->finished) {
        send_json(cl, CTL_REPLY, node);
        conn_finish(cl->conn);
        cl->finished = true;
    }
}

/* ---- sessions ---- */

static void on_session_started(struct agent_session *s, uint32_t pid,
                               void *opaque)
{
    send_u32(opaque, CTL_STARTED, 0, pid);
}

static void on_session_data(struct agent_session *s, unsigned stream,
                            const uint8_t *data, gsize len, void *opaque)
{
    send_frame(opaque, CTL_DATA, (uint16_t)stream, data, len);
}

static void on_session_grant(struct agent_session *s, uint32_t bytes,
                             void *opaque)
{
    send_u32(opaque, CTL_GRANT, 0, bytes);
}

static void on_session_exit(struct agent_session *s, uint32_t kind,
                            uint32_t value, const char *text, void *opaque)
{
    struct client *cl = opaque;
    g_autofree uint8_t *wire = g_malloc(8 + strlen(text));

    frame_put_u32(wire, kind);
    frame_put_u32(wire + 4, value);
    memcpy(wire + 8, text, strlen(text));
    cl->session = NULL;
    send_last(cl, CTL_EXIT, wire, 8 + strlen(text));
}

static void on_session_failed(struct agent_session *s, const char *why,
                              void *opaque)
{
    struct client *cl = opaque;
    struct node *n = cl->session_node;

    cl->session = NULL;
    if (n->state == NODE_DOWN) {
        send_error(cl, "node %s went down: %s", n->config->name, n->reason);
    } else {
        send_error(cl, "the session on node %s ended: %s", n->config->name, why);
    }
}

static const struct agent_session_ops session_ops = {
    .started = on_session_started,
    .data = on_session_data,
    .grant = on_session_grant,
    .exit = on_session_exit,
    .failed = on_session_failed,
};

static struct node *find_node(struct client *cl, uint32_t index)
{
    struct machine *m = cl->control->machine;
    struct node *n;

    if (index >= m->nr_nodes) {
        send_error(cl, "machine %s has no node %u", m->config->name, index);
        return NULL;
    }
    n = &m->nodes[index];
    if (n->state == NODE_DOWN) {
        send_error(cl, "node %s is down: %s", n->config->name, n->reason);
        return NULL;
    }
    return n;
}

static void request_exec(struct client *cl, const uint8_t *data, gsize len)
{
    const uint8_t *end = memchr(data, '\0', len);
    const char *prefix = "node=";
    struct node *n;
    uint64_t index;
    gsize skip;

    if (!end || data[len - 1] != '\0' ||
        !g_str_has_prefix((const char *)data, prefix) ||
        !parse_uint((const char *)data + strlen(prefix), 0, UINT32_MAX, &index)) {
        send_error(cl, "malformed request");
        return;
    }
    n = find_node(cl, (uint32_t)index);
    if (!n) {
        return;
    }
    if (!agent_is_ready(n->agent)) {
        send_error(cl, "node %s is %s: its agent does not answer",
                   n->config->name, node_state_name(n->state));
        return;
    }
    skip = (gsize)(end - data) + 1;
    cl->session_node = n;
    cl->session =
        agent_exec(n->agent, data + skip, len - skip, &session_ops, cl);
}

static void session_frame(struct client *cl, const struct agent_frame *f,
                          const uint8_t *payload)
{
    bool ok = false;

    switch (f->type) {
    case CTL_DATA:
        ok = f->stream == 0 && agent_session_write(cl->session, payload, f->len);
        break;
    case CTL_GRANT:
        ok = f->len == 4 &&
             agent_session_grant(cl->session, f->stream, frame_u32(payload));
        break;
    case CTL_SIGNAL:
        ok = f->len == 4;
        if (ok) {
            agent_session_signal(cl->session, frame_u32(payload));
        }
        break;
    case CTL_WINSIZE:
        ok = f->len == 4;
        if (ok) {
            agent_session_winsize(cl->session,
                                  (uint16_t)(payload[0] | payload[1] << 8),
                                  (uint16_t)(payload[2] | payload[3] << 8));
        }
        break;
    }
    if (!ok) {
        agent_session_abandon(cl->session);
        cl->session = NULL;
        send_error(cl, "malformed frame of type %u in a session", f->type);
    }
}

/* ---- consoles ---- */

static void on_console(struct machine *m, struct node *n, const uint8_t *data,
                       gsize len)
{
    struct control *c = m->opaque;

    for (unsigned i = 0; i < c->clients->len; i++) {
        struct client *cl = c->clients->pdata[i];

        if (cl->console != n || cl->finished) {
            continue;
        }
        if (conn_queued_bytes(cl->conn) > CONSOLE_QUEUE_BYTES) {
            cl->console_behind = true;
            continue;
        }
        if (cl->console_behind) {
            static const char note[] = "\r\n[chimera: output left out]\r\n";

            send_frame(cl, CTL_DATA, 1, note, strlen(note));
            cl->console_behind = false;
        }
        for (gsize at = 0; at < len; at += AGENT_MAX_PAYLOAD) {
            send_frame(cl, CTL_DATA, 1, data + at,
                       MIN(len - at, AGENT_MAX_PAYLOAD));
        }
    }
}

static void send_console_log(struct client *cl, const struct node *n,
                             uint32_t bytes)
{
    g_autofree char *name = g_strdup_printf("console-%u.log", n->index);
    g_autofree char *path = rundir_file(cl->control->machine->rd, name);
    g_autofree char *buf = NULL;
    struct stat st;
    ssize_t got;
    off_t from;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &st) < 0) {
        close_fd(&fd);
        return;
    }
    from = st.st_size > (off_t)bytes ? st.st_size - (off_t)bytes : 0;
    buf = g_malloc(bytes);
    got = pread(fd, buf, bytes, from);
    close(fd);
    if (from > 0 && got > 0) { /* begin with a whole line */
        char *nl = memchr(buf, '\n', (size_t)got);

        if (nl) {
            got -= nl + 1 - buf;
            memmove(buf, nl + 1, (size_t)got);
        }
    }
    for (ssize_t at = 0; at < got; at += AGENT_MAX_PAYLOAD) {
        send_frame(cl, CTL_DATA, 1, buf + at,
                   MIN((gsize)(got - at), AGENT_MAX_PAYLOAD));
    }
}

static void request_console(struct client *cl, const uint8_t *data, gsize len)
{
    struct node *n;

    if (len != 8) {
        send_error(cl, "malformed request");
        return;
    }
    /* The console of a node that is down can still be read. */
    if (frame_u32(data) < cl->control->machine->nr_nodes) {
        n = &cl->control->machine->nodes[frame_u32(data)];
        send_console_log(cl, n, MIN(frame_u32(data + 4), MAX_LOG_BYTES));
    }
    n = find_node(cl, frame_u32(data));
    if (n) {
        send_frame(cl, CTL_STARTED, 0, NULL, 0);
        cl->console = n;
    }
}

static void console_frame(struct client *cl, const struct agent_frame *f,
                          const uint8_t *payload)
{
    struct conn *console = cl->console->console;

    if (f->type != CTL_DATA || f->stream != 0) {
        send_error(cl, "malformed frame of type %u for a console", f->type);
    } else if (console &&
               conn_queued_bytes(console) + f->len > CONSOLE_QUEUE_BYTES) {
        send_error(cl, "node %s does not read its console",
                   cl->console->config->name);
    } else if (console) {
        conn_write(console, payload, f->len);
    }
}

/* ---- stats, names of pages ---- */

static void on_stats(JsonNode *stats, void *opaque)
{
    struct client *cl = opaque;

    cl->stats = NULL;
    send_reply(cl, stats);
}

static void request_stats(struct client *cl)
{
    cl->stats = collect_start(cl->control->machine, on_stats, cl);
}

static void on_names(JsonNode *names, const char *why, void *opaque)
{
    struct client *cl = opaque;

    cl->names = NULL;
    if (names) {
        send_reply(cl, names);
    } else {
        send_error(cl, "%s", why);
    }
}

/* u32 node, then {u32 owner, u32 0, u64 page}... */
static void request_names(struct client *cl, const uint8_t *data, gsize len)
{
    struct page_id pages[NAMES_MAX_PAGES];
    unsigned nr = (unsigned)((len - 4) / NAMES_WIRE_BYTES);
    struct node *n;

    if (len < 4 + NAMES_WIRE_BYTES || (len - 4) % NAMES_WIRE_BYTES ||
        nr > NAMES_MAX_PAGES) {
        send_error(cl, "malformed request");
        return;
    }
    for (unsigned i = 0; i < nr; i++) {
        const uint8_t *at = data + 4 + i * NAMES_WIRE_BYTES;

        pages[i] = (struct page_id){
            .owner = frame_u32(at),
            .page = frame_u32(at + 4) | (uint64_t)frame_u32(at + 8) << 32,
        };
    }
    n = find_node(cl, frame_u32(data));
    if (n) {
        cl->names = names_ask(n, pages, nr, on_names, cl);
    }
}

/* ---- requests ---- */

void control_stop(struct control *c, bool at_once)
{
    struct machine *m = c->machine;

    /* Asked before the nodes end, so they still answer. */
    if (c->recorder && m->state == MACHINE_RUNNING) {
        recorder_last(c->recorder);
    }
    /* What is not up yet has nothing to save. */
    machine_stop(m, at_once || m->state == MACHINE_BOOTING);
}

void control_record(struct control *c, struct recorder *recorder)
{
    c->recorder = recorder;
}

static void request_down(struct client *cl, const uint8_t *data, gsize len)
{
    struct machine *m = cl->control->machine;

    if (len != 4 || frame_u32(data) > 1) {
        send_error(cl, "malformed request");
        return;
    }
    machine_log(m, "asked to stop%s", frame_u32(data) ? " at once" : "");
    control_stop(cl->control, frame_u32(data) == 1);
}

static void request(struct client *cl, const struct agent_frame *f,
                    const uint8_t *payload)
{
    switch (f->type) {
    case CTL_STATUS: {
        g_autoptr(JsonNode) status = machine_status(cl->control->machine);

        send_reply(cl, status);
        return;
    }
    case CTL_STATS:
        request_stats(cl);
        return;
    case CTL_NAMES:
        request_names(cl, payload, f->len);
        return;
    case CTL_DOWN:
        request_down(cl, payload, f->len);
        return;
    case CTL_EXEC:
        request_exec(cl, payload, f->len);
        return;
    case CTL_CONSOLE:
        request_console(cl, payload, f->len);
        return;
    default:
        send_error(cl, "unknown request %u", f->type);
    }
}

static void handle_frame(struct client *cl, const struct agent_frame *f,
                         const uint8_t *payload)
{
    if (cl->finished) {
        return; /* crossed our last frame */
    }
    if (f->session != 0) {
        send_error(cl, "malformed frame");
    } else if (!cl->greeted) {
        if (f->type != CTL_HELLO || f->len != 4) {
            send_error(cl, "the first frame must be a greeting");
        } else if (frame_u32(payload) != CTL_VERSION) {
            send_error(cl,
                       "the supervisor of machine %s speaks control "
                       "protocol version %d, this command version %u: use the "
                       "chimera that started it, or end process %d",
                       cl->control->machine->config->name, CTL_VERSION,
                       frame_u32(payload), (int)getpid());
        }
        cl->greeted = true;
    } else if (cl->session) {
        session_frame(cl, f, payload);
    } else if (cl->console) {
        console_frame(cl, f, payload);
    } else if (f->type == CTL_DOWN || !cl->requested) {
        cl->requested = cl != cl->control->starter;
        request(cl, f, payload);
    } else {
        send_error(cl, "a second request on one connection");
    }
}

static gsize on_client_input(struct conn *conn, const uint8_t *data, gsize len,
                             void *opaque)
{
    struct client *cl = opaque;
    g_autoptr(GError) error = NULL;
    struct agent_frame f;
    gssize n = frame_parse(data, len, CTL_MAGIC, &f, &error);

    if (n > 0) {
        handle_frame(cl, &f, data + sizeof(f));
        return (gsize)n;
    }
    if (n < 0) {
        send_error(cl, "malformed input: %s", error->message);
        return len;
    }
    return 0;
}

/* ---- clients come and go ---- */

static void client_drop(struct client *cl)
{
    struct control *c = cl->control;

    if (cl->session) {
        agent_session_abandon(cl->session);
    }
    if (cl->stats) {
        collect_cancel(cl->stats);
    }
    if (cl->names) {
        names_cancel(cl->names);
    }
    g_ptr_array_remove_fast(c->clients, cl);
    conn_free(cl->conn);
    g_free(cl);
}

static void on_client_closed(struct conn *conn, const GError *error,
                             void *opaque)
{
    struct client *cl = opaque;
    struct control *c = cl->control;
    struct machine *m = c->machine;
    bool starter = cl == c->starter;

    if (starter) {
        c->starter = NULL;
    }
    client_drop(cl);
    if (starter && (c->ephemeral || m->state == MACHINE_BOOTING)) {
        machine_log(m, "the command that started the machine is gone");
        control_stop(c, false);
    }
}

static const struct conn_ops client_conn_ops = {
    .input = on_client_input,
    .closed = on_client_closed,
};

static struct client *client_new(struct control *c, int fd)
{
    struct client *cl = g_new0(struct client, 1);

    cl->control = c;
    cl->conn = conn_new(fd, MAX_INPUT_BYTES, &client_conn_ops, cl);
    g_ptr_array_add(c->clients, cl);
    send_u32(cl, CTL_HELLO, 0, CTL_VERSION);
    return cl;
}

static gboolean on_connection(int fd, GIOCondition cond, gpointer opaque)
{
    struct control *c = opaque;
    struct ucred cred = { .uid = (uid_t)-1 };
    socklen_t len = sizeof(cred);
    int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC);

    if (client < 0) {
        return G_SOURCE_CONTINUE; /* it is gone, or no descriptors: later */
    }
    getsockopt(client, SOL_SOCKET, SO_PEERCRED, &cred, &len);
    if ((cred.uid != getuid() && cred.uid != 0) ||
        c->clients->len >= MAX_CLIENTS) {
        close(client);
        return G_SOURCE_CONTINUE;
    }
    client_new(c, client);
    return G_SOURCE_CONTINUE;
}

/* ---- what the machine tells ---- */

static void on_progress(struct machine *m, struct node *n, const char *event)
{
    struct control *c = m->opaque;
    g_autoptr(JsonBuilder) b = NULL;
    g_autoptr(JsonNode) root = NULL;

    if (!c->starter) {
        return;
    }
    b = json_builder_new();
    json_builder_begin_object(b);
    json_builder_set_member_name(b, "node");
    json_builder_add_int_value(b, n->index);
    json_builder_set_member_name(b, "event");
    json_builder_add_string_value(b, event);
    json_builder_set_member_name(b, "seconds");
    json_builder_add_double_value(
        b, (double)(g_get_monotonic_time() - m->start_us) / 1e6);
    json_builder_end_object(b);
    root = json_builder_get_root(b);
    send_json(c->starter, CTL_PROGRESS, root);
}

static void on_ready(struct machine *m)
{
    struct control *c = m->opaque;
    g_autoptr(JsonNode) status = machine_status(m);

    if (c->recorder) {
        recorder_begin(c->recorder);
    }
    if (c->starter) {
        send_json(c->starter, CTL_READY, status);
    }
}

static void on_node_down(struct machine *m, struct node *n)
{
    struct control *c = m->opaque;

    /* Sessions were told by their agent's end; consoles end here. */
    for (unsigned i = 0; i < c->clients->len; i++) {
        struct client *cl = c->clients->pdata[i];

        if (cl->console == n) {
            send_error(cl, "node %s went down: %s", n->config->name, n->reason);
        }
    }
}

struct control *control_new(struct machine *m, int lifeline_fd, bool ephemeral)
{
    struct control *c = g_new0(struct control, 1);

    c->machine = m;
    c->ephemeral = ephemeral;
    c->listen_fd = -1;
    c->clients = g_ptr_array_new();
    m->opaque = c;
    m->on_progress = on_progress;
    m->on_ready = on_ready;
    m->on_node_down = on_node_down;
    m->on_console = on_console;
    c->starter = client_new(c, lifeline_fd);
    return c;
}

bool control_listen(struct control *c, GError **error)
{
    g_autofree char *path = rundir_file(c->machine->rd, "control.sock");
    struct sockaddr_un sun = { .sun_family = AF_UNIX };

    g_strlcpy(sun.sun_path, path, sizeof(sun.sun_path));
    c->listen_fd =
        socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (c->listen_fd < 0 ||
        bind(c->listen_fd, (struct sockaddr *)&sun, sizeof(sun)) < 0 ||
        listen(c->listen_fd, 64) < 0) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_HOST,
                    "cannot listen on %s: %s", path, g_strerror(errno));
        return false;
    }
    c->listen_source = g_unix_fd_add(c->listen_fd, G_IO_IN, on_connection, c);
    return true;
}

void control_finish(struct control *c, const char *error_text)
{
    if (c->listen_source) {
        g_source_remove(c->listen_source);
    }
    close_fd(&c->listen_fd);
    while (c->clients->len > 0) {
        struct client *cl = c->clients->pdata[0];

        if (error_text) {
            send_error(cl, "%s", error_text);
        } else {
            send_last(cl, CTL_BYE, NULL, 0);
        }
        conn_flush(cl->conn, LAST_WORDS_MS);
        client_drop(cl);
    }
    g_ptr_array_unref(c->clients);
    g_free(c);
}
