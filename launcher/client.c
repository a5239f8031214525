/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "client.h"

#include "conn.h"
#include "frame.h"
#include "paths.h"
#include "rundir.h"
#include "util.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    MAX_INPUT_BYTES = 2 * (sizeof(struct agent_frame) + AGENT_MAX_PAYLOAD),
    MAX_JSON_BYTES = 64 << 20, /* 64 nodes that all fight */
    QUERY_TIMEOUT_MS = 5000,
    /* Longer than the supervisor's own limits for guests and QEMUs. */
    DOWN_TIMEOUT_MS = 40000,
    /* Killing and freeing memory; then the supervisor itself is killed. */
    FORCED_DOWN_TIMEOUT_MS = 5000,
};

struct client {
    struct conn *conn;
    const struct client_ops *ops;
    void *opaque;
    bool greeted;
    GString *json;
    GError *error; /* CTL_ERROR, until the connection closes */
};

void client_send(struct client *cl, unsigned type, unsigned stream,
                 const void *data, gsize len)
{
    struct agent_frame f;

    frame_encode(&f, CTL_MAGIC, (uint16_t)type, (uint16_t)stream, 0,
                 (uint32_t)len);
    conn_write(cl->conn, &f, sizeof(f));
    conn_write(cl->conn, data, len);
}

void client_send_u32(struct client *cl, unsigned type, unsigned stream,
                     uint32_t value)
{
    uint8_t wire[4];

    frame_put_u32(wire, value);
    client_send(cl, type, stream, wire, sizeof(wire));
}

gsize client_queued_bytes(const struct client *cl)
{
    return conn_queued_bytes(cl->conn);
}

static void client_end(struct client *cl, GError *error)
{
    if (!cl->error) {
        cl->error = error;
    } else {
        g_clear_error(&error);
    }
    cl->ops->closed(cl, cl->error, cl->opaque);
}

static bool on_json(struct client *cl, unsigned type, const uint8_t *payload,
                    gsize len, GError **error)
{
    g_autoptr(JsonNode) node = NULL;

    if (len > 0) {
        g_string_append_len(cl->json, (const char *)payload, (gssize)len);
        if (cl->json->len > MAX_JSON_BYTES) {
            g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_PROTO,
                        "the supervisor's answer is too long");
            return false;
        }
        return true;
    }
    node = json_from_string(cl->json->str, error);
    g_string_truncate(cl->json, 0);
    if (!node) {
        return false;
    }
    if (!JSON_NODE_HOLDS_OBJECT(node)) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_PROTO,
                    "the supervisor's answer is no JSON object");
        return false;
    }
    cl->ops->json(cl, type, node, cl->opaque);
    return true;
}

static bool on_frame(struct client *cl, const struct agent_frame *f,
                     const uint8_t *payload, GError **error)
{
    if (!cl->greeted) {
        if (f->type != CTL_HELLO || f->len != 4 ||
            frame_u32(payload) != CTL_VERSION) {
            g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_PROTO,
                        "the supervisor speaks control protocol version %u, "
                        "this command version %d: use the chimera that "
                        "started the machine",
                        f->len == 4 ? frame_u32(payload) : 0, CTL_VERSION);
            return false;
        }
        cl->greeted = true;
        return true;
    }
    switch (f->type) {
    case CTL_ERROR:
        if (!cl->error) {
            cl->error = g_error_new(CHIMERA_ERROR, CHIMERA_ERROR_STATE, "%.*s",
                                    (int)f->len, (char *)payload);
        }
        return true;
    case CTL_REPLY:
    case CTL_PROGRESS:
    case CTL_READY:
        return on_json(cl, f->type, payload, f->len, error);
    default:
        cl->ops->frame(cl, f->type, f->stream, payload, f->len, cl->opaque);
        return true;
    }
}

static gsize on_input(struct conn *conn, const uint8_t *data, gsize len,
                      void *opaque)
{
    struct client *cl = opaque;
    g_autoptr(GError) error = NULL;
    struct agent_frame f;
    gssize n = frame_parse(data, len, CTL_MAGIC, &f, &error);

    if (n == 0) {
        return 0;
    }
    if (n < 0 || !on_frame(cl, &f, data + sizeof(f), &error)) {
        client_end(cl, g_steal_pointer(&error));
        return 0;
    }
    return (gsize)n;
}

static void on_closed(struct conn *conn, const GError *error, void *opaque)
{
    client_end(opaque, error ? g_error_copy(error) : NULL);
}

static const struct conn_ops client_conn_ops = {
    .input = on_input,
    .closed = on_closed,
};

struct client *client_new(int fd, const struct client_ops *ops, void *opaque)
{
    struct client *cl = g_new0(struct client, 1);

    cl->ops = ops;
    cl->opaque = opaque;
    cl->json = g_string_new(NULL);
    cl->conn = conn_new(fd, MAX_INPUT_BYTES, &client_conn_ops, cl);
    client_send_u32(cl, CTL_HELLO, 0, CTL_VERSION);
    return cl;
}

void client_free(struct client *cl)
{
    if (cl) {
        conn_free(cl->conn);
        g_string_free(cl->json, TRUE);
        g_clear_error(&cl->error);
        g_free(cl);
    }
}

int client_connect(const char *name, GError **error)
{
    g_autofree char *root = runtime_root();
    g_autofree char *path = g_build_filename(root, name, "control.sock", NULL);
    struct sockaddr_un sun = { .sun_family = AF_UNIX };
    int fd, err;
    pid_t pid;

    if (rundir_probe(name, &pid) != RUNDIR_OWNED) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_TARGET,
                    "no machine '%s' is running", name);
        return -1;
    }
    if (g_strlcpy(sun.sun_path, path, sizeof(sun.sun_path)) >=
        sizeof(sun.sun_path)) {
        err = ENAMETOOLONG;
        fd = -1;
    } else {
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        err = fd < 0 || connect(fd, (struct sockaddr *)&sun, sizeof(sun)) < 0
                  ? errno
                  : 0;
    }
    if (err) {
        close_fd(&fd);
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_FLEETING,
                    "machine '%s' is starting or ending: %s: %s", name, path,
                    g_strerror(err));
        return -1;
    }
    return fd;
}

/* ---- one question, one answer ---- */

struct query {
    GMainLoop *loop;
    JsonNode *answer;
    GError *error;
    bool bye, timed_out;
};

static void query_frame(struct client *cl, unsigned type, unsigned stream,
                        const uint8_t *payload, gsize len, void *opaque)
{
    struct query *q = opaque;

    q->bye = type == CTL_BYE;
}

static void query_json(struct client *cl, unsigned type, JsonNode *node,
                       void *opaque)
{
    struct query *q = opaque;

    g_clear_pointer(&q->answer, json_node_unref);
    q->answer = json_node_ref(node);
}

static void query_closed(struct client *cl, const GError *error, void *opaque)
{
    struct query *q = opaque;

    if (error) {
        q->error = g_error_copy(error);
    }
    g_main_loop_quit(q->loop);
}

static gboolean query_timeout(gpointer opaque)
{
    struct query *q = opaque;

    q->timed_out = true;
    g_main_loop_quit(q->loop);
    return G_SOURCE_CONTINUE;
}

/* Sends @type and waits until the supervisor closes the connection. */
static bool ask(const char *name, unsigned type, const void *data, gsize len,
                unsigned timeout_ms, struct query *q, GError **error)
{
    static const struct client_ops ops = {
        .frame = query_frame,
        .json = query_json,
        .closed = query_closed,
    };
    int fd = client_connect(name, error);
    struct client *cl;
    guint timer;

    if (fd < 0) {
        return false;
    }
    *q = (struct query){ .loop = g_main_loop_new(NULL, FALSE) };
    cl = client_new(fd, &ops, q);
    client_send(cl, type, 0, data, len);
    timer = g_timeout_add(timeout_ms, query_timeout, q);
    g_main_loop_run(q->loop);
    g_source_remove(timer);
    client_free(cl);
    g_main_loop_unref(q->loop);
    if (q->timed_out) {
        pid_t pid;

        rundir_probe(name, &pid);
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_STATE,
                    "machine '%s': its supervisor, process %d, does not answer "
                    "within %u s; 'chimera down --force %s' ends it",
                    name, (int)pid, timeout_ms / 1000, name);
    } else if (q->error) {
        g_propagate_error(error, g_steal_pointer(&q->error));
    } else {
        return true;
    }
    g_clear_error(&q->error);
    g_clear_pointer(&q->answer, json_node_unref);
    return false;
}

JsonNode *client_query(const char *name, unsigned type, GError **error)
{
    struct query q;

    if (!ask(name, type, NULL, 0, QUERY_TIMEOUT_MS, &q, error)) {
        return NULL;
    }
    if (!q.answer) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_FLEETING,
                    "machine '%s' is ending", name);
    }
    return q.answer;
}

bool client_down(const char *name, bool at_once, GError **error)
{
    struct query q;
    uint8_t wire[4];

    frame_put_u32(wire, at_once);
    if (!ask(name, CTL_DOWN, wire, sizeof(wire),
             at_once ? FORCED_DOWN_TIMEOUT_MS : DOWN_TIMEOUT_MS, &q, error)) {
        return false;
    }
    g_clear_pointer(&q.answer, json_node_unref);
    if (!q.bye) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_STATE,
                    "machine '%s': its supervisor died; its guard cleans up",
                    name);
    }
    return q.bye;
}

/* Until the lock is free: supervisor and guard are gone then. */
static void wait_for_end(const char *name)
{
    struct rundir *rd = rundir_create(name, NULL);

    if (rd) {
        rundir_remove(rd->path);
        rundir_free(rd);
    }
}

bool client_kill(const char *name, GError **error)
{
    struct ucred cred = { .pid = 0 };
    socklen_t len = sizeof(cred);
    int fd = client_connect(name, error);
    struct pollfd p;
    int pidfd;

    if (fd < 0) {
        return false;
    }
    /*
     * The process that listens, by the kernel's word. Our connection keeps
     * nothing alive, but as long as it stands the listener, so its pid, is
     * not somebody else's.
     */
    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len);
    pidfd = (int)syscall(SYS_pidfd_open, cred.pid, 0);
    p = (struct pollfd){ .fd = fd, .events = POLLRDHUP };
    if (pidfd >= 0 && poll(&p, 1, 0) == 0) {
        syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
        p = (struct pollfd){ .fd = pidfd, .events = POLLIN };
        while (poll(&p, 1, -1) < 0 && errno == EINTR) {}
    }
    close_fd(&pidfd);
    close(fd);
    wait_for_end(name);
    return true;
}
