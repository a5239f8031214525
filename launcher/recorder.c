/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "recorder.h"

#include "collect.h"
#include "names.h"
#include "recording.h"
#include "rundir.h"
#include "sample.h"
#include "util.h"

#include <errno.h>
#include <unistd.h>

enum {
    PERIOD_MS = 1000,
    HOT_SPOTS = 16, /* of an interval whose names are asked for */
    ASK_AGAIN_US = 5 * G_USEC_PER_SEC, /* the same node */
    MAX_NAMES = 1000, /* different pages in a recording */
};

struct recorder {
    struct machine *machine;
    struct recording_writer *writer; /* NULL: it failed */
    guint timer;
    gint64 begin_us;
    unsigned ticks;
    struct recorder_sample *pending; /* the last one that was asked for */
    struct sample *last; /* the counters of the last sample */
    GHashTable *named; /* "node owner page" -> who */
    gint64 *asked_us; /* by node: when it was asked for names */
};

/* One question that is under way. */
struct recorder_sample {
    struct recorder *recorder;
    gint64 ms;
};

static gint64 now_ms(const struct recorder *r)
{
    return (g_get_monotonic_time() - r->begin_us) / 1000;
}

static void recorder_fail(struct recorder *r, GError *error)
{
    machine_log(r->machine, "the recording ends: %s", error->message);
    g_error_free(error);
    g_clear_pointer(&r->writer, recording_close);
    if (r->timer) {
        g_source_remove(r->timer);
        r->timer = 0;
    }
}

static void write_line(struct recorder *r, JsonNode *line)
{
    GError *error = NULL;

    if (r->writer && !recording_add(r->writer, line, &error)) {
        recorder_fail(r, error);
    }
}

/* ---- names ---- */

static char *name_key(unsigned node, gint64 owner, gint64 page)
{
    return g_strdup_printf("%u %" G_GINT64_FORMAT " %" G_GINT64_FORMAT, node,
                           owner, page);
}

/* What is new of what a node said. */
static void on_names(JsonNode *names, const char *why, void *opaque)
{
    struct recorder *r = opaque;
    g_autoptr(JsonArray) news = json_array_new();
    g_autoptr(JsonNode) line = NULL;
    unsigned node;
    JsonArray *pages;
    JsonObject *o;

    if (!names) {
        return;
    }
    o = json_node_get_object(names);
    node = (unsigned)json_object_get_int_member(o, "node");
    pages = json_object_get_array_member(o, "pages");
    for (unsigned i = 0; i < json_array_get_length(pages); i++) {
        JsonObject *p = json_array_get_object_element(pages, i);
        const char *who = json_object_get_string_member(p, "who");
        g_autofree char *key =
            name_key(node, json_object_get_int_member(p, "owner"),
                     json_object_get_int_member(p, "page"));
        const char *known = g_hash_table_lookup(r->named, key);

        if (g_strcmp0(known, who) != 0 &&
            (known || g_hash_table_size(r->named) < MAX_NAMES)) {
            json_object_set_int_member(p, "node", node);
            json_array_add_object_element(news, json_object_ref(p));
            g_hash_table_replace(r->named, g_steal_pointer(&key),
                                 g_strdup(who));
        }
    }
    if (json_array_get_length(news)) {
        line = recording_names(news, now_ms(r));
        write_line(r, line);
    }
}

/* Pages whose name is known are not asked for again: a recording is cheap. */
static void ask_names(struct recorder *r, const struct sample *interval)
{
    struct machine *m = r->machine;
    g_autoptr(GArray) spots = sample_hot_spots(interval, HOT_SPOTS);
    gint64 now = g_get_monotonic_time();

    for (unsigned i = 0; i < m->nr_nodes && m->state == MACHINE_RUNNING; i++) {
        struct page_id pages[HOT_SPOTS];
        unsigned nr = 0;

        for (unsigned k = 0; k < spots->len; k++) {
            const struct hot_spot *s =
                &g_array_index(spots, struct hot_spot, k);
            g_autofree char *key =
                name_key(i, s->owner, (gint64)s->page.page);

            if (s->node == i && !g_hash_table_contains(r->named, key)) {
                pages[nr++] = (struct page_id){ s->owner, s->page.page };
            }
        }
        if (nr > 0 && agent_is_ready(m->nodes[i].agent) &&
            (!r->asked_us[i] || now - r->asked_us[i] >= ASK_AGAIN_US)) {
            r->asked_us[i] = now;
            names_ask(&m->nodes[i], pages, nr, on_names, r);
        }
    }
}

/* ---- samples ---- */

static void on_stats(JsonNode *stats, void *opaque)
{
    g_autofree struct recorder_sample *rs = opaque;
    struct recorder *r = rs->recorder;
    g_autoptr(JsonNode) line = recording_sample(stats, rs->ms);
    g_autoptr(Sample) now = NULL;
    g_autoptr(Sample) interval = NULL;

    if (r->pending == rs) {
        r->pending = NULL;
    }
    write_line(r, line);
    if (!r->writer) {
        return;
    }
    now = sample_parse(json_node_get_object(stats), 0, NULL);
    interval = sample_parse(json_node_get_object(stats), 0, NULL);
    if (interval && r->last && sample_subtract(interval, r->last)) {
        ask_names(r, interval);
    }
    sample_free(r->last);
    r->last = g_steal_pointer(&now);
}

static void take_sample(struct recorder *r)
{
    struct recorder_sample *rs = g_new0(struct recorder_sample, 1);

    rs->recorder = r;
    rs->ms = now_ms(r);
    r->pending = rs;
    collect_start(r->machine, on_stats, rs);
}

static gboolean on_tick(gpointer opaque)
{
    struct recorder *r = opaque;

    /* A node that is slow to answer makes the samples fewer. */
    if (++r->ticks % recording_every(r->writer) == 0 && !r->pending) {
        take_sample(r);
    }
    return G_SOURCE_CONTINUE;
}

void recorder_begin(struct recorder *r)
{
    g_autoptr(GDateTime) utc = g_date_time_new_now_utc();
    g_autofree char *started = g_date_time_format(utc, "%Y-%m-%d %H:%M:%S UTC");
    g_autoptr(JsonNode) machine = machine_status(r->machine);
    GError *error = NULL;

    json_object_set_boolean_member(json_node_get_object(machine), "prefetch",
                                   r->machine->config->prefetch);
    r->begin_us = g_get_monotonic_time();
    r->asked_us = g_new0(gint64, r->machine->nr_nodes);
    if (!recording_begin(r->writer, machine, started, &error)) {
        recorder_fail(r, error);
        return;
    }
    r->timer = g_timeout_add(PERIOD_MS, on_tick, r);
    take_sample(r);
}

void recorder_last(struct recorder *r)
{
    if (r->timer) {
        g_source_remove(r->timer);
        r->timer = 0;
        take_sample(r);
    }
}

struct recorder *recorder_new(struct machine *m, const char *path,
                              GError **error)
{
    g_autofree char *link = rundir_file(m->rd, "recording");
    struct recorder *r = g_new0(struct recorder, 1);

    r->machine = m;
    r->named = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    r->writer = recording_create(path, RECORDING_MAX_BYTES, error);
    if (r->writer && symlink(path, link) < 0) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_HOST,
                    "cannot create %s: %s", link, g_strerror(errno));
        g_clear_pointer(&r->writer, recording_close);
    }
    if (!r->writer) {
        recorder_free(r);
        return NULL;
    }
    return r;
}

void recorder_free(struct recorder *r)
{
    if (r) {
        if (r->timer) {
            g_source_remove(r->timer);
        }
        recording_close(r->writer);
        sample_free(r->last);
        g_hash_table_unref(r->named);
        g_free(r->asked_us);
        g_free(r);
    }
}
