/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "names.h"

#include "util.h"

#include <string.h>

enum {
    TIMEOUT_MS = 2000,
    MAX_OUTPUT_BYTES = 64 << 10, /* less than a session's window */
    MAX_LINES = 256,
    MAX_WHO_BYTES = 200,
};

/* One node's part of the answer. */
struct part {
    struct names *names;
    struct node *node;
    struct agent_session *session; /* NULL: over */
    GString *output;
    bool good;
};

struct names {
    struct node *node;
    struct page_id pages[NAMES_MAX_PAGES];
    unsigned nr_pages;
    GPtrArray *parts; /* of struct part; the first is of node */
    unsigned waiting;
    char *why; /* what went wrong last */
    guint timer;
    names_done *done;
    void *opaque;
};

/* ---- what nodes say ---- */

void names_parse(const char *text, GHashTable *pages, GHashTable *segments)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", MAX_LINES);

    for (char **l = lines; *l; l++) {
        g_autofree char *line =
            printable_line(*l, (gssize)MIN(strlen(*l), MAX_WHO_BYTES));
        char *space = strchr(line, ' ');
        const char *colon = strstr(line, ": ");
        uint64_t page;

        if (g_str_has_prefix(line, "segment ") && colon) {
            g_hash_table_replace(segments,
                                 g_strndup(line, (gsize)(colon - line)),
                                 g_strdup(line));
        } else if (space) {
            *space = '\0';
            if (parse_uint(line, 0, G_MAXINT64, &page)) {
                g_hash_table_replace(pages, g_strdup(line),
                                     g_strdup(space + 1));
            }
        }
    }
}

char *names_text(const char *at_home, const char *home, GHashTable *segments)
{
    if (g_str_has_prefix(at_home, "segment ")) {
        g_autofree char *segment =
            g_strndup(at_home, strcspn(at_home, ":"));
        const char *here = g_hash_table_lookup(segments, segment);

        return g_strdup(!home ? at_home : here ? here : segment);
    }
    return home ? g_strdup_printf("%s, on %s", at_home, home)
                : g_strdup(at_home);
}

static GHashTable *texts_new(void)
{
    return g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
}

static JsonNode *names_json(struct names *names)
{
    g_autoptr(JsonBuilder) b = json_builder_new();
    g_autoptr(GHashTable) segments = texts_new();

    json_builder_begin_object(b);
    json_builder_set_member_name(b, "node");
    json_builder_add_int_value(b, names->node->index);
    json_builder_set_member_name(b, "pages");
    json_builder_begin_array(b);
    for (unsigned p = 0; p < names->parts->len; p++) {
        struct part *part = names->parts->pdata[p];
        g_autoptr(GHashTable) pages = texts_new();
        g_autoptr(GHashTable) others = texts_new();
        unsigned owner = part->node->index;

        if (part->good) {
            names_parse(part->output->str, pages, p ? others : segments);
        }
        for (unsigned i = 0; i < names->nr_pages; i++) {
            const struct page_id *id = &names->pages[i];
            g_autofree char *key =
                g_strdup_printf("%" G_GUINT64_FORMAT, (guint64)id->page);
            const char *at_home = id->owner == owner
                                      ? g_hash_table_lookup(pages, key)
                                      : NULL;
            g_autofree char *text = NULL;

            if (!at_home) {
                continue;
            }
            text = names_text(at_home, p ? part->node->config->name : NULL,
                              segments);
            json_builder_begin_object(b);
            json_builder_set_member_name(b, "owner");
            json_builder_add_int_value(b, owner);
            json_builder_set_member_name(b, "page");
            json_builder_add_int_value(b, (gint64)id->page);
            json_builder_set_member_name(b, "who");
            json_builder_add_string_value(b, text);
            json_builder_end_object(b);
        }
    }
    json_builder_end_array(b);
    json_builder_end_object(b);
    return json_builder_get_root(b);
}

/* ---- asking ---- */

static void part_free(gpointer data)
{
    struct part *part = data;

    if (part->session) {
        agent_session_abandon(part->session);
    }
    g_string_free(part->output, TRUE);
    g_free(part);
}

/* All have answered, or the time is over. Never inside somebody's call. */
static gboolean names_finish(gpointer opaque)
{
    struct names *names = opaque;
    bool any = false;

    for (unsigned i = 0; i < names->parts->len; i++) {
        struct part *part = names->parts->pdata[i];

        any = any || part->good;
    }
    if (names->done) {
        g_autoptr(JsonNode) node = any ? names_json(names) : NULL;

        names->done(node,
                    any          ? NULL
                    : names->why ? names->why
                                 : "no agent has answered in time",
                    names->opaque);
    }
    g_ptr_array_unref(names->parts);
    g_free(names->why);
    g_free(names);
    return G_SOURCE_REMOVE;
}

/* @why: NULL when it went well; taken over. */
static void part_over(struct part *part, char *why)
{
    struct names *names = part->names;

    part->session = NULL;
    part->good = !why;
    if (why) {
        g_free(names->why);
        names->why = why;
    }
    if (--names->waiting == 0) {
        if (names->timer) {
            g_source_remove(names->timer);
        }
        names->timer = g_idle_add(names_finish, names);
    }
}

static void on_started(struct agent_session *s, uint32_t pid, void *opaque)
{
}

static void on_data(struct agent_session *s, unsigned stream,
                    const uint8_t *data, gsize len, void *opaque)
{
    struct part *part = opaque;

    if (stream == 1 && part->output->len + len <= MAX_OUTPUT_BYTES) {
        g_string_append_len(part->output, (const char *)data, (gssize)len);
    }
}

static void on_grant(struct agent_session *s, uint32_t bytes, void *opaque)
{
}

static void on_end(struct agent_session *s, uint32_t kind, uint32_t value,
                   const char *text, void *opaque)
{
    part_over(opaque, kind == 0 && value == 0
                          ? NULL
                          : g_strdup_printf("chimera-pages failed: %s %u %s",
                                            kind == 1 ? "signal" : "status",
                                            value, text));
}

static void on_failed(struct agent_session *s, const char *why, void *opaque)
{
    part_over(opaque, g_strdup(why));
}

static const struct agent_session_ops ops = {
    .started = on_started,
    .data = on_data,
    .grant = on_grant,
    .exit = on_end,
    .failed = on_failed,
};

/* Has @n say what it knows of its own pages among those that are asked for. */
static void ask_part(struct names *names, struct node *n)
{
    static const char command[] = "arg=chimera-pages";
    struct part *part = g_new0(struct part, 1);
    g_autoptr(GString) strings = g_string_new(NULL);

    part->names = names;
    part->node = n;
    part->output = g_string_new(NULL);
    g_ptr_array_add(names->parts, part);
    names->waiting++;
    if (!agent_is_ready(n->agent)) {
        part_over(part, g_strdup_printf("the agent of node %s does not answer",
                                        n->config->name));
        return;
    }
    g_string_append_len(strings, command, sizeof(command));
    for (unsigned i = 0; i < names->nr_pages; i++) {
        if (names->pages[i].owner == n->index) {
            g_string_append_printf(strings, "arg=%" G_GUINT64_FORMAT,
                                   (guint64)names->pages[i].page);
            g_string_append_c(strings, '\0');
        }
    }
    part->session = agent_exec(n->agent, strings->str, strings->len, &ops, part);
}

struct names *names_ask(struct node *n, const struct page_id *pages,
                        unsigned nr, names_done *done, void *opaque)
{
    struct names *names = g_new0(struct names, 1);
    struct machine *m = n->machine;

    names->node = n;
    names->nr_pages = MIN(nr, (unsigned)NAMES_MAX_PAGES);
    memcpy(names->pages, pages, names->nr_pages * sizeof(*pages));
    names->parts = g_ptr_array_new_with_free_func(part_free);
    names->done = done;
    names->opaque = opaque;
    names->waiting = 1; /* until all are asked */
    ask_part(names, n);
    for (unsigned o = 0; o < m->nr_nodes; o++) {
        for (unsigned i = 0; i < names->nr_pages && &m->nodes[o] != n; i++) {
            if (names->pages[i].owner == o) {
                ask_part(names, &m->nodes[o]);
                break;
            }
        }
    }
    if (--names->waiting == 0) {
        names->timer = g_idle_add(names_finish, names);
    } else {
        names->timer = g_timeout_add(TIMEOUT_MS, names_finish, names);
    }
    return names;
}

void names_cancel(struct names *names)
{
    names->done = NULL;
}
