/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qmp.h"

#include "conn.h"
#include "util.h"

#include <string.h>

enum { MAX_LINE_BYTES = 4 << 20 };

struct pending {
    qmp_reply *reply;
    void *opaque;
};

struct qmp {
    struct conn *conn;
    const struct qmp_ops *ops;
    void *opaque;
    enum { WAIT_GREETING, WAIT_CAPABILITIES, READY } state;
    GString *early; /* commands waiting for the handshake */
    GHashTable *pending; /* id -> struct pending */
    unsigned last_id;
};

static void fail_pending(struct qmp *qmp, const GError *why)
{
    g_autoptr(GHashTable) pending = qmp->pending;
    GHashTableIter it;
    gpointer value;

    qmp->pending = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    g_hash_table_iter_init(&it, pending);
    while (g_hash_table_iter_next(&it, NULL, &value)) {
        struct pending *p = value;

        p->reply(NULL, why, p->opaque);
    }
}

static void qmp_end(struct qmp *qmp, const GError *error)
{
    g_autoptr(GError) gone = g_error_new(CHIMERA_ERROR, CHIMERA_ERROR_STATE,
                                         "QEMU closed its monitor: %s",
                                         error ? error->message : "end of file");

    fail_pending(qmp, gone);
    qmp->ops->closed(qmp, error, qmp->opaque);
}

static void on_closed(struct conn *conn, const GError *error, void *opaque)
{
    qmp_end(opaque, error);
}

/* The members of JSON objects, of the right type or NULL. */
static JsonObject *get_object(JsonObject *o, const char *name)
{
    JsonNode *n = json_object_get_member(o, name);

    return n && JSON_NODE_HOLDS_OBJECT(n) ? json_node_get_object(n) : NULL;
}

static const char *get_string(JsonObject *o, const char *name)
{
    JsonNode *n = json_object_get_member(o, name);

    return n && JSON_NODE_HOLDS_VALUE(n) &&
                   json_node_get_value_type(n) == G_TYPE_STRING
               ? json_node_get_string(n)
               : NULL;
}

static void on_reply(struct qmp *qmp, JsonObject *o)
{
    JsonObject *err = get_object(o, "error");
    JsonNode *id_node = json_object_get_member(o, "id");
    g_autoptr(GError) error = NULL;
    gpointer key, value;

    if (err) {
        const char *desc = get_string(err, "desc");

        g_set_error(&error, CHIMERA_ERROR, CHIMERA_ERROR_STATE, "QEMU: %s",
                    desc ? desc : "unknown error");
    }
    if (!id_node || !JSON_NODE_HOLDS_VALUE(id_node)) {
        return; /* nobody's: we give every command an id */
    }
    if (g_hash_table_steal_extended(
            qmp->pending, GUINT_TO_POINTER((guint)json_node_get_int(id_node)),
            &key, &value)) {
        g_autofree struct pending *p = value;

        p->reply(err ? NULL : json_object_get_member(o, "return"), error,
                 p->opaque);
    }
}

static void on_capabilities(JsonNode *ret, const GError *error, void *opaque)
{
    struct qmp *qmp = opaque;

    if (!ret) {
        return; /* the connection ended, or QEMU is too old: closed follows */
    }
    qmp->state = READY;
    conn_write(qmp->conn, qmp->early->str, qmp->early->len);
    g_string_truncate(qmp->early, 0);
    qmp->ops->ready(qmp, qmp->opaque);
}

static void send_command(struct qmp *qmp, const char *exec, const char *command,
                         const char *arguments, bool now, qmp_reply *reply,
                         void *opaque)
{
    struct pending *p = g_new(struct pending, 1);
    g_autofree char *line = NULL;

    *p = (struct pending){ reply, opaque };
    g_hash_table_insert(qmp->pending, GUINT_TO_POINTER(++qmp->last_id), p);
    line = g_strdup_printf("{\"%s\":\"%s\"%s%s,\"id\":%u}\n", exec, command,
                           arguments ? ",\"arguments\":" : "",
                           arguments ? arguments : "", qmp->last_id);
    if (now) {
        conn_write(qmp->conn, line, strlen(line));
    } else {
        g_string_append(qmp->early, line);
    }
}

static bool handle_line(struct qmp *qmp, const char *line, gsize len,
                        GError **error)
{
    g_autoptr(JsonParser) parser = json_parser_new();
    const char *event;
    JsonNode *root;
    JsonObject *o;

    if (!json_parser_load_from_data(parser, line, (gssize)len, error)) {
        return false;
    }
    root = json_parser_get_root(parser);
    if (!root || !JSON_NODE_HOLDS_OBJECT(root)) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_PROTO,
                    "not a QMP message");
        return false;
    }
    o = json_node_get_object(root);
    if (qmp->state == WAIT_GREETING) {
        if (!json_object_has_member(o, "QMP")) {
            g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_PROTO,
                        "not a QMP greeting");
            return false;
        }
        qmp->state = WAIT_CAPABILITIES;
        send_command(qmp, "execute", "qmp_capabilities",
                     "{\"enable\":[\"oob\"]}", true, on_capabilities, qmp);
    } else if ((event = get_string(o, "event"))) {
        qmp->ops->event(qmp, event, get_object(o, "data"), qmp->opaque);
    } else {
        on_reply(qmp, o);
    }
    return true;
}

static gsize on_input(struct conn *conn, const uint8_t *data, gsize len,
                      void *opaque)
{
    const uint8_t *nl = memchr(data, '\n', len);
    g_autoptr(GError) error = NULL;
    gsize n;

    if (!nl) {
        return 0;
    }
    n = (gsize)(nl - data);
    if (n > 0 && data[n - 1] == '\r') {
        n--;
    }
    if (n > 0 && !handle_line(opaque, (const char *)data, n, &error)) {
        qmp_end(opaque, error);
        return 0;
    }
    return (gsize)(nl - data) + 1;
}

static const struct conn_ops qmp_conn_ops = {
    .input = on_input,
    .closed = on_closed,
};

struct qmp *qmp_new(int fd, const struct qmp_ops *ops, void *opaque)
{
    struct qmp *qmp = g_new0(struct qmp, 1);

    qmp->ops = ops;
    qmp->opaque = opaque;
    qmp->early = g_string_new(NULL);
    qmp->pending = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    qmp->conn = conn_new(fd, MAX_LINE_BYTES, &qmp_conn_ops, qmp);
    return qmp;
}

void qmp_free(struct qmp *qmp)
{
    if (qmp) {
        g_autoptr(GError) gone =
            g_error_new(CHIMERA_ERROR, CHIMERA_ERROR_STATE, "QEMU is gone");

        conn_free(qmp->conn);
        fail_pending(qmp, gone);
        g_string_free(qmp->early, TRUE);
        g_hash_table_unref(qmp->pending);
        g_free(qmp);
    }
}

void qmp_execute(struct qmp *qmp, const char *command, bool oob,
                 qmp_reply *reply, void *opaque)
{
    send_command(qmp, oob ? "exec-oob" : "execute", command, NULL,
                 qmp->state == READY, reply, opaque);
}

void qmp_drain(struct qmp *qmp)
{
    conn_drain(qmp->conn);
}
