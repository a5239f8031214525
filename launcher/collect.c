/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "collect.h"

enum { TIMEOUT_MS = 2000 };

struct collect {
    struct machine *machine;
    collect_done *done; /* NULL: called, or cancelled */
    void *opaque;
    gint64 asked_us;
    unsigned waiting; /* replies still to come; the last one frees */
    guint timer;
    unsigned n;
    JsonNode **replies;
    char **errors;
};

struct collect_reply {
    struct collect *collect;
    unsigned index;
};

/* What is there goes out; what is missing is named. */
static void collect_answer(struct collect *c)
{
    struct machine *m = c->machine;
    g_autoptr(JsonBuilder) b = json_builder_new();
    g_autoptr(JsonNode) root = NULL;
    collect_done *done = c->done;

    json_builder_begin_object(b);
    json_builder_set_member_name(b, "name");
    json_builder_add_string_value(b, m->config->name);
    json_builder_set_member_name(b, "asked_us");
    json_builder_add_int_value(b, c->asked_us);
    json_builder_set_member_name(b, "nodes");
    json_builder_begin_array(b);
    for (unsigned i = 0; i < c->n; i++) {
        json_builder_begin_object(b);
        json_builder_set_member_name(b, "index");
        json_builder_add_int_value(b, i);
        json_builder_set_member_name(b, "name");
        json_builder_add_string_value(b, m->nodes[i].config->name);
        json_builder_set_member_name(b, c->replies[i] ? "dsm" : "error");
        if (c->replies[i]) {
            json_builder_add_value(b, g_steal_pointer(&c->replies[i]));
        } else {
            json_builder_add_string_value(
                b, c->errors[i] ? c->errors[i] : "its monitor does not answer");
        }
        json_builder_end_object(b);
    }
    json_builder_end_array(b);
    json_builder_end_object(b);
    root = json_builder_get_root(b);
    c->done = NULL;
    done(root, c->opaque);
}

static void collect_progress(struct collect *c)
{
    if (c->waiting > 0) {
        return;
    }
    if (c->done) {
        collect_answer(c);
    }
    if (c->timer) {
        g_source_remove(c->timer);
    }
    for (unsigned i = 0; i < c->n; i++) {
        g_clear_pointer(&c->replies[i], json_node_unref);
        g_free(c->errors[i]);
    }
    g_free(c->replies);
    g_free(c->errors);
    g_free(c);
}

static void on_reply(JsonNode *ret, const GError *error, void *opaque)
{
    g_autofree struct collect_reply *reply = opaque;
    struct collect *c = reply->collect;

    if (ret) {
        c->replies[reply->index] = json_node_copy(ret);
    } else {
        c->errors[reply->index] = g_strdup(error->message);
    }
    c->waiting--;
    collect_progress(c);
}

static gboolean on_timeout(gpointer opaque)
{
    struct collect *c = opaque;

    c->timer = 0;
    if (c->done) {
        collect_answer(c);
    }
    return G_SOURCE_REMOVE;
}

/* Answers also when there is nobody to ask, but never before it returns. */
static gboolean on_nobody(gpointer opaque)
{
    struct collect *c = opaque;

    c->timer = 0;
    collect_progress(c);
    return G_SOURCE_REMOVE;
}

struct collect *collect_start(struct machine *m, collect_done *done,
                              void *opaque)
{
    struct collect *c = g_new0(struct collect, 1);

    c->machine = m;
    c->done = done;
    c->opaque = opaque;
    c->asked_us = g_get_monotonic_time();
    c->n = m->nr_nodes;
    c->replies = g_new0(JsonNode *, c->n);
    c->errors = g_new0(char *, c->n);
    for (unsigned i = 0; i < c->n; i++) {
        struct node *n = &m->nodes[i];

        if (n->qmp) {
            struct collect_reply *reply = g_new(struct collect_reply, 1);

            *reply = (struct collect_reply){ c, i };
            c->waiting++;
            qmp_execute(n->qmp, "query-dsm", true, on_reply, reply);
        } else {
            c->errors[i] = g_strdup_printf("node is down: %s", n->reason);
        }
    }
    c->timer = c->waiting ? g_timeout_add(TIMEOUT_MS, on_timeout, c)
                          : g_idle_add(on_nobody, c);
    return c;
}

void collect_cancel(struct collect *c)
{
    c->done = NULL;
}
