/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * top: what the nodes of a machine wait for, again and again. Each round is
 * one question for the counters; the pages that turn out hottest are then
 * asked for by name, which may take a node as long as it likes: the display
 * does not wait for it, batch mode does, and the supervisor says when it has
 * waited long enough.
 */
#include "client.h"
#include "command.h"
#include "frame.h"
#include "names.h"
#include "signals.h"
#include "target.h"
#include "terminal.h"
#include "top.h"
#include "util.h"

#include <errno.h>
#include <glib-unix.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

enum {
    STATS_TIMEOUT_MS = 5000, /* a supervisor that lives answers at once */
    NAME_KEEPS_US = 5 * G_USEC_PER_SEC,
    MAX_NAMES = 4096,
};

/* Who has a page on a node. */
struct name {
    char *who; /* NULL: nobody knows */
    gint64 asked_us;
};

struct top {
    char *machine;
    GMainLoop *loop;
    bool batch, on_screen, over;
    uint64_t rounds; /* still to show; UINT64_MAX: for ever */
    guint period_ms;

    struct sample *last, *interval;
    struct question *stats;
    unsigned names_waiting; /* questions for names under way */
    bool shown; /* @interval is */
    GHashTable *names; /* "node owner page" -> struct name */
    guint tick;
    GError *error;
    int signal;
};

/* One request, one answer. */
struct question {
    struct top *top;
    struct client *client;
    guint timer;
    unsigned node; /* of names */
    void (*answered)(struct question *q, JsonNode *answer, const GError *why);
    JsonNode *answer;
};

static void top_quit(struct top *t)
{
    t->over = true;
    g_main_loop_quit(t->loop);
}

/* ---- questions ---- */

static gboolean question_free(gpointer opaque)
{
    struct question *q = opaque;

    client_free(q->client);
    g_clear_pointer(&q->answer, json_node_unref);
    g_free(q);
    return G_SOURCE_REMOVE;
}

static void question_frame(struct client *cl, unsigned type, unsigned stream,
                           const uint8_t *payload, gsize len, void *opaque)
{
}

static void question_json(struct client *cl, unsigned type, JsonNode *node,
                          void *opaque)
{
    struct question *q = opaque;

    g_clear_pointer(&q->answer, json_node_unref);
    q->answer = json_node_ref(node);
}

static void question_over(struct question *q, const GError *why)
{
    if (q->timer) {
        g_source_remove(q->timer);
        q->timer = 0;
        q->answered(q, q->answer, why);
        g_idle_add(question_free, q); /* not inside its own call */
    }
}

static void question_closed(struct client *cl, const GError *error,
                            void *opaque)
{
    question_over(opaque, error);
}

static gboolean question_timeout(gpointer opaque)
{
    struct question *q = opaque;
    g_autoptr(GError) why =
        g_error_new(CHIMERA_ERROR, CHIMERA_ERROR_STATE,
                    "machine '%s': its supervisor does not answer",
                    q->top->machine);

    g_clear_pointer(&q->answer, json_node_unref);
    question_over(q, why);
    return G_SOURCE_CONTINUE; /* removed already */
}

static struct question *
ask(struct top *t, unsigned type, const void *data, gsize len,
    void (*answered)(struct question *q, JsonNode *answer, const GError *why),
    GError **error)
{
    static const struct client_ops ops = {
        .frame = question_frame,
        .json = question_json,
        .closed = question_closed,
    };
    int fd = client_connect(t->machine, error);
    struct question *q;

    if (fd < 0) {
        return NULL;
    }
    q = g_new0(struct question, 1);
    q->top = t;
    q->answered = answered;
    q->client = client_new(fd, &ops, q);
    q->timer = g_timeout_add(STATS_TIMEOUT_MS, question_timeout, q);
    client_send(q->client, type, 0, data, len);
    return q;
}

/* ---- names ---- */

static void name_free(gpointer data)
{
    struct name *n = data;

    g_free(n->who);
    g_free(n);
}

static char *name_key(unsigned node, unsigned owner, uint64_t page)
{
    return g_strdup_printf("%u %u %" G_GUINT64_FORMAT, node, owner,
                           (guint64)page);
}

static const char *who(unsigned node, unsigned owner, uint64_t page,
                       void *opaque)
{
    struct top *t = opaque;
    g_autofree char *key = name_key(node, owner, page);
    const struct name *n = g_hash_table_lookup(t->names, key);

    return n ? n->who : NULL;
}

static void take_name(struct top *t, unsigned node, JsonNode *of)
{
    g_autofree char *key = NULL;
    uint64_t owner, page;
    const char *text;
    struct name *n;

    if (!JSON_NODE_HOLDS_OBJECT(of) ||
        !json_get_u64(json_node_get_object(of), "owner", &owner, NULL) ||
        !json_get_u64(json_node_get_object(of), "page", &page, NULL) ||
        !json_get_text(json_node_get_object(of), "who", &text, NULL)) {
        return;
    }
    key = name_key(node, (unsigned)owner, page);
    n = g_hash_table_lookup(t->names, key);
    if (n) { /* it was asked for */
        g_free(n->who);
        n->who = printable_line(text, -1);
    }
}

static void show(struct top *t);

/* An error leaves the names unknown: they are asked for again later. */
static void on_names(struct question *q, JsonNode *answer, const GError *why)
{
    struct top *t = q->top;
    JsonArray *pages = NULL;

    if (answer) {
        json_get_array(json_node_get_object(answer), "pages", &pages, NULL);
    }
    for (unsigned i = 0; pages && i < json_array_get_length(pages); i++) {
        take_name(t, q->node, json_array_get_element(pages, i));
    }
    t->names_waiting--;
    if (!t->over && t->names_waiting == 0) {
        show(t);
    }
}

/* The pages of @spots on @node that are not known, or not for certain now. */
static unsigned unknown_names(struct top *t, const GArray *spots, unsigned node,
                              uint8_t *wire)
{
    gint64 now = g_get_monotonic_time();
    unsigned nr = 0;

    for (unsigned i = 0; i < spots->len; i++) {
        const struct hot_spot *s = &g_array_index(spots, struct hot_spot, i);
        g_autofree char *key = name_key(node, s->owner, s->page.page);
        struct name *n = g_hash_table_lookup(t->names, key);
        uint8_t *at = wire + nr * NAMES_WIRE_BYTES;

        if (s->node != node || (n && now - n->asked_us < NAME_KEEPS_US)) {
            continue;
        }
        if (!n) {
            n = g_new0(struct name, 1);
            g_hash_table_insert(t->names, g_steal_pointer(&key), n);
        }
        n->asked_us = now;
        frame_put_u32(at, s->owner);
        frame_put_u32(at + 4, (uint32_t)s->page.page);
        frame_put_u32(at + 8, (uint32_t)(s->page.page >> 32));
        nr++;
    }
    return nr;
}

static void ask_names(struct top *t)
{
    g_autoptr(GArray) spots = sample_hot_spots(t->interval, TOP_HOT_SPOTS);

    if (g_hash_table_size(t->names) > MAX_NAMES) {
        g_hash_table_remove_all(t->names);
    }
    for (unsigned i = 0; i < t->interval->nr_nodes; i++) {
        uint8_t wire[4 + TOP_HOT_SPOTS * NAMES_WIRE_BYTES];
        unsigned nr = unknown_names(t, spots, i, wire + 4);
        struct question *q;

        if (nr == 0) {
            continue;
        }
        frame_put_u32(wire, i);
        q = ask(t, CTL_NAMES, wire, 4 + nr * NAMES_WIRE_BYTES, on_names, NULL);
        if (q) {
            q->node = i;
            t->names_waiting++;
        }
    }
}

/* ---- the display ---- */

/* What fits, each line up to the width, behind it nothing of before. */
static void draw(const char *text)
{
    g_autoptr(GString) out = g_string_new("\x1b[H");
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    uint16_t rows = 24, cols = 80;

    terminal_size(STDOUT_FILENO, &rows, &cols);
    for (unsigned i = 0; lines[i] && i < rows; i++) {
        const char *end = lines[i];

        /* every character counts as one column: names are ASCII mostly */
        for (unsigned c = 0; *end && c < cols; c++) {
            end = g_utf8_next_char(end);
        }
        g_string_append_printf(out, "%s%.*s\x1b[K", i ? "\r\n" : "",
                               (int)(end - lines[i]), lines[i]);
    }
    g_string_append(out, "\x1b[J");
    write_all(STDOUT_FILENO, out->str, out->len);
}

static void show(struct top *t)
{
    g_autoptr(GDateTime) now = g_date_time_new_now_local();
    g_autofree char *when = g_date_time_format(now, "%H:%M:%S");
    g_autoptr(GString) out = g_string_new(NULL);

    if (!t->interval || (t->batch && t->shown)) {
        return;
    }
    top_render(t->interval, t->machine, when, who, t, out);
    if (!t->batch) {
        g_string_append(out, "\nq quits");
        draw(out->str);
    } else {
        g_string_append_c(out, '\n');
        if (write_all(STDOUT_FILENO, out->str, out->len) != 0) {
            top_quit(t); /* nobody reads it */
            return;
        }
    }
    if (!t->shown) {
        t->shown = true;
        if (t->rounds != UINT64_MAX && --t->rounds == 0) {
            top_quit(t);
        }
    }
}

static void screen_leave(struct top *t)
{
    static const char leave[] = "\x1b[?25h\x1b[?1049l";

    if (t->on_screen) {
        t->on_screen = false;
        write_all(STDOUT_FILENO, leave, strlen(leave));
        terminal_restore();
    }
}

static gboolean on_key(int fd, GIOCondition cond, gpointer opaque)
{
    struct top *t = opaque;
    char key[64];
    ssize_t n = read(fd, key, sizeof(key));

    if (n < 0 && (errno == EINTR || errno == EAGAIN)) {
        return G_SOURCE_CONTINUE;
    }
    if (n <= 0) { /* the terminal is gone */
        top_quit(t);
        return G_SOURCE_REMOVE;
    }
    for (ssize_t i = 0; i < n; i++) {
        if (key[i] == 'q' || key[i] == 'Q') {
            top_quit(t);
        } else if (key[i] == 3) { /* ^C: raw mode makes no signal of it */
            t->signal = SIGINT;
            top_quit(t);
        }
    }
    return G_SOURCE_CONTINUE;
}

static void screen_enter(struct top *t)
{
    static const char enter[] = "\x1b[?1049h\x1b[?25l\x1b[2J";

    t->on_screen = true;
    if (terminal_raw()) {
        g_unix_fd_add(STDIN_FILENO, G_IO_IN | G_IO_HUP, on_key, t);
    }
    write_all(STDOUT_FILENO, enter, strlen(enter));
}

/* ---- rounds ---- */

static void top_fail(struct top *t, GError *error)
{
    if (!t->error) {
        t->error = error;
    } else {
        g_error_free(error);
    }
    top_quit(t);
}

static gboolean on_tick(gpointer opaque);

static void on_stats(struct question *q, JsonNode *answer, const GError *why)
{
    struct top *t = q->top;
    g_autoptr(Sample) now = NULL;
    g_autoptr(Sample) interval = NULL;
    GError *error = NULL;
    uint64_t at_us;
    double at = 0;

    t->stats = NULL;
    if (t->over) {
        return;
    }
    if (!answer) {
        top_fail(t, why ? g_error_copy(why)
                        : g_error_new(CHIMERA_ERROR, CHIMERA_ERROR_STATE,
                                      "machine '%s' has ended", t->machine));
        return;
    }
    /* When it was asked: the answer may have waited for a busy host. */
    if (json_get_u64(json_node_get_object(answer), "asked_us", &at_us, &error)) {
        at = (double)at_us / 1e6;
        now = sample_parse(json_node_get_object(answer), at, &error);
    }
    if (!now) {
        g_prefix_error(&error, "machine '%s': its counters: ", t->machine);
        top_fail(t, error);
        return;
    }
    interval = sample_parse(json_node_get_object(answer), at, NULL);
    if (t->last && sample_subtract(interval, t->last)) {
        sample_free(t->interval);
        t->interval = g_steal_pointer(&interval);
        t->shown = false;
        if (t->names_waiting == 0) {
            ask_names(t);
        }
        if (!t->batch || t->names_waiting == 0) {
            show(t);
        }
    }
    sample_free(t->last);
    t->last = g_steal_pointer(&now);
}

static gboolean on_tick(gpointer opaque)
{
    struct top *t = opaque;
    GError *error = NULL;

    /* In batch mode no round is left out because names are slow. */
    if (t->stats || (t->batch && t->interval && !t->shown)) {
        return G_SOURCE_CONTINUE;
    }
    t->stats = ask(t, CTL_STATS, NULL, 0, on_stats, &error);
    if (!t->stats) {
        top_fail(t, error);
        return G_SOURCE_REMOVE;
    }
    return G_SOURCE_CONTINUE;
}

static void on_signal(int signal, void *opaque)
{
    struct top *t = opaque;

    if (signal == SIGWINCH) {
        if (t->on_screen) {
            show(t);
        }
        return;
    }
    t->signal = signal;
    top_quit(t);
}

/* Seconds with a fraction; false: it is something else. */
static bool parse_delay(const char *text, guint *ret_ms)
{
    char *end;
    double s = g_ascii_strtod(text, &end);

    if (end == text || *end || !(s >= 0.1 && s <= 3600)) {
        return false;
    }
    *ret_ms = (guint)(s * 1000 + 0.5);
    return true;
}

static int top_run(struct top *t)
{
    int code = EXIT_OK;

    t->loop = g_main_loop_new(NULL, FALSE);
    t->names = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, name_free);
    signals_block();
    signals_handle(on_signal, t);
    if (!t->batch) {
        screen_enter(t);
    }
    t->tick = g_timeout_add(t->period_ms, on_tick, t);
    on_tick(t);
    if (!t->over) {
        g_main_loop_run(t->loop);
    }
    screen_leave(t);
    if (t->error) {
        code = command_failed(EXIT_FAILED, t->error);
    } else if (t->signal) {
        code = EXIT_SIGNAL_BASE + t->signal;
    }
    return code;
}

int builtin_top(char **args)
{
    char *delay = NULL, *count = NULL;
    static struct top t; /* until the process ends: sources point to it */
    const struct option_spec specs[] = {
        { "delay", 'd', OPTION_STRING, &delay },
        { "count", 'n', OPTION_STRING, &count },
        { "batch", 'b', OPTION_FLAG, &t.batch },
        { NULL },
    };
    GError *error = NULL;

    t.period_ms = 1000;
    t.rounds = UINT64_MAX;
    if (!command_options("top", specs, &args)) {
        return EXIT_USAGE;
    }
    if (*args && args[1]) {
        return command_usage("top", "unexpected '%s'", args[1]);
    }
    if (delay && !parse_delay(delay, &t.period_ms)) {
        return command_usage("top", "-d: found '%s'; allowed: 0.1 to 3600 "
                                    "seconds", delay);
    }
    if (count && !parse_uint(count, 1, UINT32_MAX, &t.rounds)) {
        return command_usage("top", "-n: found '%s'; allowed: a number of at "
                                    "least 1", count);
    }
    if (!t.batch && !isatty(STDOUT_FILENO)) {
        return command_usage("top", "standard output is no terminal; -b is for "
                                    "that");
    }
    t.machine = target_machine(*args, &error);
    if (!t.machine) {
        return command_failed(EXIT_FAILED, error);
    }
    return top_run(&t);
}
