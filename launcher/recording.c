/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "recording.h"

#include "sample.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum {
    MAX_HOT_PAGES = 32, /* of a region; the rest is not worth the room */
    MAX_READ_BYTES = 64 << 20,
    MAX_DEPTH = 32,
};

/* ---- lines ---- */

static bool is_static(const char *name)
{
    static const char *const names[] = { "isa",          "cpus",     "size",
                                         "address",      "classes",  "state",
                                         "machine-uuid", "reason",   NULL };

    return g_strv_contains(names, name);
}

static JsonNode *prune(JsonNode *node);

static void prune_member(JsonObject *o, const char *name, JsonNode *node,
                         gpointer to)
{
    JsonNode *pruned = is_static(name) ? NULL : prune(node);

    if (pruned) {
        json_object_set_member(to, name, pruned);
    }
}

static int hotter(gconstpointer a, gconstpointer b)
{
    JsonObject *x = json_node_get_object(*(JsonNode **)a);
    JsonObject *y = json_node_get_object(*(JsonNode **)b);
    gint64 fx = json_object_get_int_member_with_default(x, "faults", 0);
    gint64 fy = json_object_get_int_member_with_default(y, "faults", 0);

    return (fx < fy) - (fx > fy);
}

/* Of a list of hot pages the hottest; others as they are, less zeros behind. */
static JsonNode *prune_array(JsonArray *a)
{
    g_autoptr(GPtrArray) v = g_ptr_array_new();
    g_autoptr(JsonArray) out = json_array_new();
    unsigned n = json_array_get_length(a);
    bool hot = n > 0;

    for (unsigned i = 0; i < n; i++) {
        JsonNode *e = json_array_get_element(a, i);

        hot = hot && JSON_NODE_HOLDS_OBJECT(e) &&
              json_object_has_member(json_node_get_object(e), "missed");
        g_ptr_array_add(v, e);
    }
    if (hot) {
        g_ptr_array_sort(v, hotter);
        n = MIN(n, (unsigned)MAX_HOT_PAGES);
    }
    while (n > 0 && JSON_NODE_HOLDS_VALUE((JsonNode *)v->pdata[n - 1]) &&
           json_node_get_value_type(v->pdata[n - 1]) == G_TYPE_INT64 &&
           json_node_get_int(v->pdata[n - 1]) == 0) {
        n--;
    }
    for (unsigned i = 0; i < n; i++) {
        JsonNode *e = v->pdata[i];
        JsonNode *pruned =
            JSON_NODE_HOLDS_VALUE(e) ? json_node_copy(e) : prune(e);

        if (!pruned) { /* its place in the list has a meaning */
            pruned = json_node_init_object(json_node_alloc(), NULL);
            json_node_take_object(pruned, json_object_new());
        }
        json_array_add_element(out, pruned);
    }
    return n ? json_node_init_array(json_node_alloc(), out) : NULL;
}

/* A copy without what reads as zero; NULL when nothing is left. */
static JsonNode *prune(JsonNode *node)
{
    g_autoptr(JsonObject) out = NULL;

    if (JSON_NODE_HOLDS_ARRAY(node)) {
        return prune_array(json_node_get_array(node));
    }
    if (JSON_NODE_HOLDS_VALUE(node)) {
        GType type = json_node_get_value_type(node);

        return (type == G_TYPE_INT64 && json_node_get_int(node) == 0) ||
                       (type == G_TYPE_STRING && !*json_node_get_string(node))
                   ? NULL
                   : json_node_copy(node);
    }
    if (!JSON_NODE_HOLDS_OBJECT(node)) {
        return NULL;
    }
    out = json_object_new();
    json_object_foreach_member(json_node_get_object(node), prune_member, out);
    return json_object_get_size(out)
               ? json_node_init_object(json_node_alloc(), out)
               : NULL;
}

static JsonNode *line_of(const char *name, JsonNode *member, gint64 ms)
{
    g_autoptr(JsonObject) o = json_object_new();

    json_object_set_int_member(o, "ms", ms);
    json_object_set_member(o, name, member);
    return json_node_init_object(json_node_alloc(), o);
}

JsonNode *recording_sample(JsonNode *stats, gint64 ms)
{
    JsonObject *o = json_node_get_object(stats);

    /* Every node has a name, so something is left of it. */
    return line_of("nodes", prune(json_object_get_member(o, "nodes")), ms);
}

JsonNode *recording_names(JsonArray *names, gint64 ms)
{
    return line_of("names", json_node_init_array(json_node_alloc(), names), ms);
}

/* ---- writing ---- */

struct recording_writer {
    char *path;
    int fd;
    uint64_t bytes, max_bytes;
    unsigned every;
};

static bool failed(const struct recording_writer *w, const char *what,
                   GError **error)
{
    g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_HOST, "%s %s: %s", what,
                w->path, g_strerror(errno));
    return false;
}

struct recording_writer *recording_create(const char *path, uint64_t max_bytes,
                                          GError **error)
{
    struct recording_writer *w = g_new0(struct recording_writer, 1);
    struct stat st;

    w->path = g_strdup(path);
    w->max_bytes = max_bytes;
    w->every = 1;
    w->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK,
                 0666);
    if (w->fd < 0 || fstat(w->fd, &st) < 0) {
        failed(w, "cannot record to", error);
    } else if (!S_ISREG(st.st_mode)) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_HOST,
                    "cannot record to %s: it is not a regular file", path);
    } else if (ftruncate(w->fd, 0) < 0) {
        failed(w, "cannot record to", error);
    } else {
        return w;
    }
    recording_close(w);
    return NULL;
}

void recording_close(struct recording_writer *w)
{
    if (w) {
        close_fd(&w->fd);
        g_free(w->path);
        g_free(w);
    }
}

unsigned recording_every(const struct recording_writer *w)
{
    return w->every;
}

/* Whole, or not at all. */
static bool append(struct recording_writer *w, const char *text, gsize len,
                   GError **error)
{
    int err = 0;

    for (gsize done = 0; done < len && !err;) {
        ssize_t n =
            pwrite(w->fd, text + done, len - done, (off_t)(w->bytes + done));

        if (n >= 0) {
            done += (gsize)n;
        } else if (errno != EINTR) {
            err = errno;
        }
    }
    if (err) {
        if (ftruncate(w->fd, (off_t)w->bytes) < 0) {
            /* the reader finds that its end is missing */
        }
        errno = err;
        return failed(w, "cannot write to", error);
    }
    w->bytes += len;
    return true;
}

/* A quote inside of a text has a backslash before it. */
static bool is_sample(const char *line, gsize len)
{
    return memmem(line, len, "\"nodes\":", 8) && !memmem(line, MIN(len, 32),
                                                        "chimera-recording", 17);
}

/* Every second sample goes; the new file takes the place of the old one. */
static bool thin(struct recording_writer *w, GError **error)
{
    g_autofree char *text = NULL, *temporary = g_strconcat(w->path, ".new", NULL);
    g_autoptr(GString) kept = g_string_new(NULL);
    struct stat st;
    bool odd = false;
    gsize len, at = 0;
    int fd;

    if (!g_file_get_contents(w->path, &text, &len, error)) {
        return false;
    }
    while (at < len) {
        const char *nl = memchr(text + at, '\n', len - at);
        gsize n = nl ? (gsize)(nl - text) + 1 - at : len - at;

        if (is_sample(text + at, n)) {
            odd = !odd;
        }
        if (!is_sample(text + at, n) || odd) {
            g_string_append_len(kept, text + at, (gssize)n);
        }
        at += n;
    }
    fd = open(temporary, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW,
              0666);
    if (fd < 0) {
        return failed(w, "cannot write beside", error);
    }
    if (fstat(w->fd, &st) == 0 && fchmod(fd, st.st_mode & 0777) < 0) {
        /* then it is as the umask has it */
    }
    errno = write_all(fd, kept->str, kept->len);
    if (errno || rename(temporary, w->path) < 0) {
        failed(w, "cannot write beside", error);
        unlink(temporary);
        close(fd);
        return false;
    }
    close(w->fd);
    w->fd = fd;
    w->bytes = kept->len;
    w->every *= 2;
    return true;
}

bool recording_add(struct recording_writer *w, JsonNode *line, GError **error)
{
    g_autofree char *text = json_to_string(line, FALSE);
    g_autofree char *whole = g_strconcat(text, "\n", NULL);
    gsize len = strlen(whole);

    while (w->bytes + len > w->max_bytes) {
        uint64_t before = w->bytes;

        if (!thin(w, error)) {
            return false;
        }
        if (w->bytes >= before) {
            g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_STATE,
                        "%s is full", w->path);
            return false;
        }
    }
    return append(w, whole, len, error);
}

bool recording_begin(struct recording_writer *w, JsonNode *machine,
                     const char *started, GError **error)
{
    g_autoptr(JsonBuilder) b = json_builder_new();
    g_autoptr(JsonNode) head = NULL;

    json_builder_begin_object(b);
    json_builder_set_member_name(b, "chimera-recording");
    json_builder_add_int_value(b, RECORDING_VERSION);
    json_builder_set_member_name(b, "version");
    json_builder_add_string_value(b, CHIMERA_VERSION);
    json_builder_set_member_name(b, "started");
    json_builder_add_string_value(b, started);
    json_builder_set_member_name(b, "machine");
    json_builder_add_value(b, json_node_copy(machine));
    json_builder_end_object(b);
    head = json_builder_get_root(b);
    return recording_add(w, head, error);
}

/* ---- reading ---- */

struct recording {
    char *path, *text;
    gsize len, at;
    unsigned line; /* the number of the one read last */
    bool growing;
    JsonNode *head, *node;
};

static bool recording_error(const struct recording *r, GError **error,
                            const char *fmt, ...) G_GNUC_PRINTF(3, 4);

static bool recording_error(const struct recording *r, GError **error,
                            const char *fmt, ...)
{
    g_autofree char *what = NULL;
    va_list ap;

    va_start(ap, fmt);
    what = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_PROTO, "%s:%u: %s", r->path,
                r->line, what);
    return false;
}

void recording_prefix(const struct recording *r, GError **error)
{
    if (error && *error) {
        g_prefix_error(error, "%s:%u: ", r->path, r->line);
    }
}

void recording_free(struct recording *r)
{
    if (r) {
        g_clear_pointer(&r->head, json_node_unref);
        g_clear_pointer(&r->node, json_node_unref);
        g_free(r->path);
        g_free(r->text);
        g_free(r);
    }
}

/* Nested deeper than any line of ours: the parser would recurse as deep. */
static bool is_too_deep(const char *text, gsize len)
{
    bool quoted = false;
    unsigned depth = 0;

    for (gsize i = 0; i < len; i++) {
        char c = text[i];

        if (quoted) {
            i += c == '\\';
            quoted = c != '"';
        } else if (c == '"') {
            quoted = true;
        } else if (c == '[' || c == '{') {
            if (++depth > MAX_DEPTH) {
                return true;
            }
        } else if ((c == ']' || c == '}') && depth > 0) {
            depth--;
        }
    }
    return false;
}

/* false: at the end, or an error. */
static bool next_line(struct recording *r, GError **error)
{
    const char *start = r->text + r->at, *nl;
    g_autoptr(JsonParser) parser = json_parser_new();
    g_autoptr(GError) why = NULL;
    gsize len;

    g_clear_pointer(&r->node, json_node_unref);
    if (r->at >= r->len) {
        return false;
    }
    nl = memchr(start, '\n', r->len - r->at);
    if (!nl && r->growing && r->line > 0) {
        return false;
    }
    r->line++;
    if (!nl && r->line > 1) {
        return recording_error(r, error,
                               "the file is cut off in this line; the first "
                               "%u lines alone are whole",
                               r->line - 1);
    }
    len = nl ? (gsize)(nl - start) : r->len - r->at;
    r->at += len + 1;
    if (memchr(start, '\0', len) || !g_utf8_validate(start, (gssize)len, NULL)) {
        return recording_error(r, error, "this is not text");
    }
    if (is_too_deep(start, len)) {
        return recording_error(r, error, "nested too deeply");
    }
    if (!json_parser_load_from_data(parser, start, (gssize)len, &why)) {
        g_autofree char *text = printable_line(why->message, -1);

        return recording_error(r, error, "not JSON: %s", text);
    }
    r->node = json_parser_steal_root(parser);
    if (!r->node || !JSON_NODE_HOLDS_OBJECT(r->node)) {
        return recording_error(r, error, "not a JSON object");
    }
    return true;
}

static bool check_head(struct recording *r, GError **error)
{
    g_autoptr(GError) why = NULL;
    uint64_t version;
    JsonObject *o;
    JsonNode *n;

    if (!next_line(r, &why)) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_PROTO,
                    "%s is not a recording of 'chimera run --record'%s%s",
                    r->path, why ? ": " : "", why ? why->message : "");
        return false;
    }
    o = json_node_get_object(r->node);
    if (!json_object_has_member(o, "chimera-recording") ||
        !json_get_u64(o, "chimera-recording", &version, NULL)) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_PROTO,
                    "%s is not a recording of 'chimera run --record': its "
                    "first line does not say so",
                    r->path);
        return false;
    }
    if (version != RECORDING_VERSION) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_PROTO,
                    "%s is a recording of version %" G_GUINT64_FORMAT
                    ", this chimera reads version %d",
                    r->path, (guint64)version, RECORDING_VERSION);
        return false;
    }
    n = json_object_get_member(o, "machine");
    if (!n || !JSON_NODE_HOLDS_OBJECT(n)) {
        return recording_error(r, error, "'machine' is not an object");
    }
    r->head = g_steal_pointer(&r->node);
    return true;
}

struct recording *recording_open(const char *path, bool growing, GError **error)
{
    struct recording *r = g_new0(struct recording, 1);
    struct stat st;

    r->path = g_strdup(path);
    r->growing = growing;
    if (stat(path, &st) < 0) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_HOST,
                    "cannot read %s: %s", path, g_strerror(errno));
    } else if (!S_ISREG(st.st_mode)) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_HOST,
                    "cannot read %s: it is not a regular file", path);
    } else if (st.st_size > MAX_READ_BYTES) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_PROTO,
                    "%s is not a recording: those have at most %d MiB", path,
                    MAX_READ_BYTES >> 20);
    } else if (st.st_size == 0) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_PROTO,
                    "%s is empty: a recording begins when its machine is up",
                    path);
    } else if (g_file_get_contents(path, &r->text, &r->len, error) &&
               check_head(r, error)) {
        return r;
    }
    recording_free(r);
    return NULL;
}

JsonObject *recording_head(const struct recording *r)
{
    return json_node_get_object(r->head);
}

JsonObject *recording_next(struct recording *r, uint64_t *ret_ms,
                           GError **error)
{
    JsonObject *o;
    uint64_t ms;

    if (!next_line(r, error)) {
        return NULL;
    }
    o = json_node_get_object(r->node);
    if (!json_object_has_member(o, "ms") ||
        !json_get_u64(o, "ms", &ms, NULL) || ms > G_MAXINT64 / 2) {
        recording_error(r, error, "'ms' is not a time");
        return NULL;
    }
    *ret_ms = ms;
    return o;
}
