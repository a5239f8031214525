/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * First all of the recording is read and reduced: what happened in each
 * interval between two samples, by node and by range of memory, and sums of
 * the whole. Then the page is written from that.
 */
#include "report.h"

#include "html.h"
#include "sample.h"
#include "util.h"

#include <string.h>

enum {
    MAX_COLUMNS = 160, /* of a plot over time */
    MAX_ROWS = 48, /* of a map */
    MAX_TABLE_ROWS = 100,
    HOT_PAGES = 40, /* in the table */
    HOT_ROWS = 24, /* of them in the map */
};

/* What is shown over time, by node. */
enum series {
    SERIES_READS,
    SERIES_WRITES,
    SERIES_UPGRADES,
    SERIES_BYTES_IN,
    SERIES_BYTES_OUT,
    SERIES_MESSAGES_OUT,
    SERIES_MESSAGES_IN,
    NR_SERIES
};

struct interval {
    double from, to;
    double *series; /* [node * NR_SERIES + series]: counts */
    double *heat; /* [owner * SAMPLE_RANGES + range]: faults of all nodes */
};

struct report {
    JsonObject *head;
    unsigned nr_nodes, nr_samples;
    char **names; /* of nodes */
    bool dsm;
    struct sample *last, *total; /* total: sums of the intervals */
    GPtrArray *intervals; /* of struct interval */
    GPtrArray *events; /* of char * */
    GHashTable *pages; /* "node owner page" -> struct page_total */
    GHashTable *who; /* the same -> char * */
};

struct page_total {
    unsigned node, owner;
    struct hot_page at; /* as it was read last, */
    unsigned seen; /* at the end of interval seen - 1 */
    uint64_t faults, writes; /* since the first sample */
    GArray *news; /* of struct page_news, by time */
};

/* Faults in the intervals from @first up to @last, nobody knows when. */
struct page_news {
    unsigned first, last;
    double faults;
};

/* ---- reading ---- */

static void page_total_free(gpointer data)
{
    struct page_total *p = data;

    g_array_unref(p->news);
    g_free(p);
}

static void interval_free(gpointer data)
{
    struct interval *i = data;

    g_free(i->series);
    g_free(i->heat);
    g_free(i);
}

static void report_free(struct report *rep)
{
    sample_free(rep->last);
    sample_free(rep->total);
    g_strfreev(rep->names);
    g_ptr_array_unref(rep->intervals);
    g_ptr_array_unref(rep->events);
    g_hash_table_unref(rep->pages);
    g_hash_table_unref(rep->who);
    g_free(rep);
}
typedef struct report Report;
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Report, report_free)

static char *page_key(uint64_t node, uint64_t owner, uint64_t page)
{
    return g_strdup_printf("%" G_GUINT64_FORMAT " %" G_GUINT64_FORMAT
                           " %" G_GUINT64_FORMAT,
                           (guint64)node, (guint64)owner, (guint64)page);
}

/*
 * A sample has only the hottest pages, so one may be missing in between; the
 * last one that had it is what its faults are counted from.
 */
static void add_page(struct report *rep, unsigned node, unsigned owner,
                     const struct hot_page *h, bool first)
{
    g_autofree char *key = page_key(node, owner, h->page);
    struct page_total *p = g_hash_table_lookup(rep->pages, key);

    if (!p) {
        p = g_new0(struct page_total, 1);
        p->node = node;
        p->owner = owner;
        p->news = g_array_new(FALSE, FALSE, sizeof(struct page_news));
        g_hash_table_insert(rep->pages, g_steal_pointer(&key), p);
    } else if (p->at.missed != h->missed || p->at.faults > h->faults) {
        p->at = (struct hot_page){ 0 };
    }
    if (!first && h->faults > p->at.faults) {
        unsigned last = rep->intervals->len - 1;
        struct page_news news = { p->at.faults ? MIN(p->seen, last) : last, last,
                                  (double)(h->faults - p->at.faults) };

        g_array_append_val(p->news, news);
        p->faults += h->faults - p->at.faults;
        p->writes += h->writes - MIN(h->writes, p->at.writes);
    }
    p->at = *h;
    p->seen = rep->intervals->len;
}

static void add_pages(struct report *rep, const struct sample *s, bool first)
{
    for (unsigned n = 0; n < s->nr_nodes; n++) {
        for (unsigned o = 0; o < s->nr_nodes; o++) {
            const struct region_sample *r = &s->node[n].region[o];

            for (unsigned i = 0; i < r->nr_hot; i++) {
                add_page(rep, n, o, &r->hot[i], first);
            }
        }
    }
}

static void add_region(struct region_sample *to, const struct region_sample *r)
{
    to->attached = to->attached || r->attached;
    to->page_bytes = MAX(to->page_bytes, r->page_bytes);
    to->range_pages = MAX(to->range_pages, r->range_pages);
    for (unsigned c = 0; c < REGION_NR_COUNTERS; c++) {
        to->counter[c] += r->counter[c];
    }
    for (unsigned l = 0; l < NR_LATENCIES; l++) {
        histogram_add(&to->latency[l], &r->latency[l]);
    }
    for (unsigned i = 0; i < SAMPLE_RANGES; i++) {
        to->range[i] += r->range[i];
    }
}

static void add_interval(struct report *rep, const struct sample *s, double from)
{
    struct interval *iv = g_new0(struct interval, 1);

    iv->from = from;
    iv->to = from + s->t;
    iv->series = g_new0(double, s->nr_nodes * NR_SERIES);
    iv->heat = g_new0(double, s->nr_nodes * SAMPLE_RANGES);
    for (unsigned n = 0; n < s->nr_nodes; n++) {
        const struct node_sample *node = &s->node[n];
        double *v = &iv->series[n * NR_SERIES];
        uint64_t writes = node_counter(s, n, REGION_WRITES);
        uint64_t upgrades = node_counter(s, n, REGION_UPGRADES);

        v[SERIES_READS] = (double)node_counter(s, n, REGION_READS);
        v[SERIES_WRITES] = (double)(writes - MIN(writes, upgrades));
        v[SERIES_UPGRADES] = (double)upgrades;
        v[SERIES_BYTES_IN] = (double)node_bytes(s, n, true);
        v[SERIES_BYTES_OUT] = (double)node_bytes(s, n, false);
        v[SERIES_MESSAGES_OUT] = (double)node->link[LINK_MESSAGES_OUT];
        v[SERIES_MESSAGES_IN] = (double)node->link[LINK_MESSAGES_IN];
        for (unsigned o = 0; o < s->nr_nodes; o++) {
            for (unsigned i = 0; i < SAMPLE_RANGES; i++) {
                iv->heat[o * SAMPLE_RANGES + i] +=
                    (double)node->region[o].range[i];
            }
            add_region(&rep->total->node[n].region[o], &node->region[o]);
        }
        for (unsigned c = 0; c < LINK_NR_COUNTERS; c++) {
            rep->total->node[n].link[c] += node->link[c];
        }
    }
    g_ptr_array_add(rep->intervals, iv);
    rep->total->t += s->t;
}

static bool first_sample(struct report *rep, JsonObject *line, double t,
                         GError **error)
{
    g_autoptr(Sample) s = sample_parse(line, t, error);

    if (!s) {
        return false;
    }
    for (unsigned i = 0; i < s->nr_nodes; i++) {
        rep->dsm = rep->dsm || s->node[i].dsm;
    }
    rep->nr_nodes = s->nr_nodes;
    rep->names = g_new0(char *, s->nr_nodes + 1);
    rep->total = g_new0(struct sample, 1);
    rep->total->nr_nodes = s->nr_nodes;
    rep->total->node = g_new0(struct node_sample, s->nr_nodes);
    for (unsigned i = 0; i < s->nr_nodes; i++) {
        rep->names[i] = g_strdup(s->node[i].name);
        rep->total->node[i].region = g_new0(struct region_sample, s->nr_nodes);
    }
    add_pages(rep, s, true);
    rep->last = g_steal_pointer(&s);
    return true;
}

/* Nodes that go down while it is recorded. */
static void note_events(struct report *rep, const struct sample *s)
{
    for (unsigned i = 0; i < s->nr_nodes; i++) {
        if (s->node[i].error &&
            g_strcmp0(s->node[i].error, rep->last->node[i].error) != 0) {
            g_ptr_array_add(rep->events,
                            g_strdup_printf("At %.1f s, node %s: %s", s->t,
                                            s->node[i].name, s->node[i].error));
        }
    }
}

static bool take_sample(struct report *rep, JsonObject *line, double t,
                        GError **error)
{
    g_autoptr(Sample) now = NULL;
    g_autoptr(Sample) interval = NULL;

    rep->nr_samples++;
    if (!rep->last) {
        return first_sample(rep, line, t, error);
    }
    now = sample_parse(line, t, error);
    if (!now) {
        return false;
    }
    interval = sample_parse(line, t, NULL);
    if (t < rep->last->t || !sample_subtract(interval, rep->last)) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_PROTO,
                    t < rep->last->t ? "it is earlier than the line before"
                                     : "it has other nodes than those before");
        return false;
    }
    if (interval->t > 0) {
        note_events(rep, now);
        add_interval(rep, interval, rep->last->t);
        add_pages(rep, now, false);
        sample_free(rep->last);
        rep->last = g_steal_pointer(&now);
    }
    return true;
}

static bool take_names(struct report *rep, JsonObject *line, GError **error)
{
    JsonArray *names;

    if (!json_get_array(line, "names", &names, error)) {
        return false;
    }
    for (unsigned i = 0; i < json_array_get_length(names); i++) {
        JsonNode *n = json_array_get_element(names, i);
        JsonObject *o = JSON_NODE_HOLDS_OBJECT(n) ? json_node_get_object(n)
                                                  : NULL;
        uint64_t node, owner, page;
        const char *who;

        if (!o) {
            g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_PROTO,
                        "'names' is not a list of objects");
            return false;
        }
        if (!json_get_u64(o, "node", &node, error) ||
            !json_get_u64(o, "owner", &owner, error) ||
            !json_get_u64(o, "page", &page, error) ||
            !json_get_text(o, "who", &who, error)) {
            return false;
        }
        g_hash_table_replace(rep->who, page_key(node, owner, page),
                             printable_line(who, -1));
    }
    return true;
}

static struct report *report_read(struct recording *r, GError **error)
{
    g_autoptr(Report) rep = g_new0(struct report, 1);
    GError *why = NULL;
    JsonObject *line;
    uint64_t ms;

    rep->head = recording_head(r);
    rep->intervals = g_ptr_array_new_with_free_func(interval_free);
    rep->events = g_ptr_array_new_with_free_func(g_free);
    rep->pages = g_hash_table_new_full(g_str_hash, g_str_equal, g_free,
                                       page_total_free);
    rep->who = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    while ((line = recording_next(r, &ms, &why))) {
        bool good = false;

        if (json_object_has_member(line, "nodes")) {
            good = take_sample(rep, line, (double)ms / 1000, &why);
        } else if (json_object_has_member(line, "names")) {
            good = take_names(rep, line, &why);
        } else {
            g_set_error(&why, CHIMERA_ERROR, CHIMERA_ERROR_PROTO,
                        "neither a sample nor a list of names");
        }
        if (!good) {
            recording_prefix(r, &why);
            break;
        }
    }
    if (!why && !rep->last) {
        g_set_error(&why, CHIMERA_ERROR, CHIMERA_ERROR_PROTO,
                    "no sample in it: the machine ended before the first one");
        recording_prefix(r, &why);
    }
    if (why || !rep->last) {
        g_propagate_error(error, why);
        return NULL;
    }
    return g_steal_pointer(&rep);
}

/* ---- columns of the plots ---- */

struct columns {
    unsigned nr;
    double *x; /* nr + 1 of them */
    unsigned *first; /* interval with which a column begins; nr + 1 of them */
};

/* As many intervals to a column as are needed that there are not too many. */
static struct columns *columns_new(const struct report *rep)
{
    struct columns *c = g_new0(struct columns, 1);
    unsigned n = rep->intervals->len;

    c->nr = MIN(n, (unsigned)MAX_COLUMNS);
    c->x = g_new0(double, c->nr + 1);
    c->first = g_new0(unsigned, c->nr + 1);
    for (unsigned i = 0; i <= c->nr && n; i++) {
        struct interval *iv;

        c->first[i] = (unsigned)((uint64_t)i * n / c->nr);
        iv = rep->intervals->pdata[MIN(c->first[i], n - 1)];
        c->x[i] = i < c->nr ? iv->from : iv->to;
    }
    return c;
}

static void columns_free(struct columns *c)
{
    g_free(c->x);
    g_free(c->first);
    g_free(c);
}
typedef struct columns Columns;
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Columns, columns_free)

static double column_rate(const struct report *rep, const struct columns *c,
                          unsigned column, unsigned at, bool heat)
{
    double sum = 0, seconds = c->x[column + 1] - c->x[column];

    for (unsigned i = c->first[column]; i < c->first[column + 1]; i++) {
        const struct interval *iv = rep->intervals->pdata[i];

        sum += heat ? iv->heat[at] : iv->series[at];
    }
    return seconds > 0 ? sum / seconds : 0;
}

/* One line for each node, at the middles of the columns. */
static void plot_series(GString *out, const struct report *rep,
                        const struct columns *c, const char *title,
                        const char *unit, double scale, unsigned nr_series,
                        const enum series *series)
{
    g_autofree double *x = g_new0(double, c->nr + 1);
    g_autofree double *y = g_new0(double, rep->nr_nodes * c->nr + 1);
    g_autofree struct plot_line *lines =
        g_new0(struct plot_line, rep->nr_nodes);

    for (unsigned k = 0; k < c->nr; k++) {
        x[k] = (c->x[k] + c->x[k + 1]) / 2;
    }
    for (unsigned n = 0; n < rep->nr_nodes; n++) {
        double *of = &y[n * c->nr];

        lines[n] = (struct plot_line){ rep->names[n], of };
        for (unsigned k = 0; k < c->nr; k++) {
            for (unsigned s = 0; s < nr_series; s++) {
                of[k] += scale * column_rate(rep, c, k,
                                             n * NR_SERIES + series[s], false);
            }
        }
    }
    plot_lines(out, title, unit, x, c->nr, lines, rep->nr_nodes);
}

/* ---- the sections ---- */

static const char *head_text(JsonObject *o, const char *name)
{
    const char *s;

    return json_get_text(o, name, &s, NULL) ? s : "";
}

static double head_count(JsonObject *o, const char *name)
{
    uint64_t v;

    return json_get_u64(o, name, &v, NULL) ? (double)v : 0;
}

static void section_configuration(const struct report *rep, GString *out)
{
    static const char *const heads[] = { ">#",   "Node",        "ISA",
                                         ">CPUs", ">Memory", "Accelerator",
                                         "Kernel", NULL };
    JsonObject *m = json_object_get_object_member(rep->head, "machine");
    struct html_table *t = html_table_new(heads, NULL);
    JsonArray *nodes = NULL;

    html_section(out, "configuration", "Configuration");
    json_get_array(m, "nodes", &nodes, NULL);
    for (unsigned i = 0; nodes && i < json_array_get_length(nodes); i++) {
        JsonNode *e = json_array_get_element(nodes, i);
        g_autofree char *size = NULL;
        JsonObject *n;

        if (!JSON_NODE_HOLDS_OBJECT(e)) {
            continue;
        }
        n = json_node_get_object(e);
        size = format_size((uint64_t)head_count(n, "memory_bytes"));
        html_cell(t, "%u", i);
        html_cell(t, "%s", head_text(n, "name"));
        html_cell(t, "%s", head_text(n, "isa"));
        html_cell(t, "%.0f", head_count(n, "cpus"));
        html_cell(t, "%s", size);
        html_cell(t, "%s", head_text(n, "accel"));
        html_cell(t, "%s", head_text(n, "system"));
    }
    html_table_end(t, out);
    html_note(out, "Configuration file %s; coherence %s%s; uuid %s; chimera %s.",
              head_text(m, "config"), head_text(m, "coherence"),
              !rep->dsm ? ""
              : json_object_get_boolean_member_with_default(m, "prefetch", FALSE)
                  ? ", with prefetch"
                  : ", without prefetch",
              head_text(m, "uuid"), head_text(rep->head, "version"));
    for (unsigned i = 0; i < rep->events->len; i++) {
        html_note(out, "%s", (char *)rep->events->pdata[i]);
    }
}

static void cell_count(struct html_table *t, double v)
{
    g_autofree char *text = html_count(v);

    html_cell(t, "%s", v > 0 ? text : "-");
}

static void traffic_table(const struct report *rep, GString *out)
{
    static const char *const heads[] = {
        "Node",         ">Reads",         ">Writes", ">Upgrades", ">MB in",
        ">MB out", ">Given up to write", ">Given up to read", NULL
    };
    const struct sample *s = rep->total;
    struct html_table *t = html_table_new(heads, NULL);

    for (unsigned n = 0; n < rep->nr_nodes; n++) {
        uint64_t writes = node_counter(s, n, REGION_WRITES);
        uint64_t upgrades = node_counter(s, n, REGION_UPGRADES);

        html_cell(t, "%s", rep->names[n]);
        cell_count(t, (double)node_counter(s, n, REGION_READS));
        cell_count(t, (double)(writes - MIN(writes, upgrades)));
        cell_count(t, (double)upgrades);
        html_cell(t, "%.1f", (double)node_bytes(s, n, true) / 1e6);
        html_cell(t, "%.1f", (double)node_bytes(s, n, false) / 1e6);
        cell_count(t, (double)node_counter(s, n, REGION_INVALIDATIONS));
        cell_count(t, (double)node_counter(s, n, REGION_DOWNGRADES));
    }
    html_table_end(t, out);
}

static void traffic_over_time(const struct report *rep, const struct columns *c,
                              GString *out)
{
    static const char *const heads[] = { ">From s", ">To s", "Node",
                                         ">Reads/s", ">Writes/s",
                                         ">Upgrades/s", ">MB/s in",
                                         ">MB/s out", ">Messages/s out",
                                         NULL };
    struct html_table *t = html_table_new(heads, "The same in numbers");
    unsigned every = 1;

    while (c->nr / every * rep->nr_nodes > MAX_TABLE_ROWS && every < c->nr) {
        every++;
    }
    for (unsigned k = 0; k + every <= c->nr; k += every) {
        for (unsigned n = 0; n < rep->nr_nodes; n++) {
            double v[NR_SERIES] = { 0 }, seconds = c->x[k + every] - c->x[k];

            for (unsigned s = 0; s < NR_SERIES; s++) {
                for (unsigned i = k; i < k + every; i++) {
                    v[s] += column_rate(rep, c, i, n * NR_SERIES + s, false) *
                            (c->x[i + 1] - c->x[i]) / seconds;
                }
            }
            html_cell(t, "%.1f", c->x[k]);
            html_cell(t, "%.1f", c->x[k + every]);
            html_cell(t, "%s", rep->names[n]);
            html_cell(t, "%.0f", v[SERIES_READS]);
            html_cell(t, "%.0f", v[SERIES_WRITES]);
            html_cell(t, "%.0f", v[SERIES_UPGRADES]);
            html_cell(t, "%.2f", v[SERIES_BYTES_IN] / 1e6);
            html_cell(t, "%.2f", v[SERIES_BYTES_OUT] / 1e6);
            html_cell(t, "%.0f", v[SERIES_MESSAGES_OUT]);
        }
    }
    html_table_end(t, out);
}

/* What shared memory, or a run in which nothing happened, has to say. */
static bool nothing_to_show(const struct report *rep, double counted,
                            GString *out)
{
    if (!rep->dsm) {
        html_note(out, "All nodes map the same memory (coherence shared), so "
                       "there are no page faults between them.");
        return true;
    }
    if (!(counted > 0)) {
        html_note(out, "Nothing of this happened.");
        return true;
    }
    return false;
}

static double total_of(const struct report *rep, enum region_counter c)
{
    double sum = 0;

    for (unsigned n = 0; n < rep->nr_nodes; n++) {
        sum += (double)node_counter(rep->total, n, c);
    }
    return sum;
}

static double total_faults(const struct report *rep)
{
    return total_of(rep, REGION_READS) + total_of(rep, REGION_WRITES);
}

static void section_traffic(const struct report *rep, const struct columns *c,
                            GString *out)
{
    static const enum series in[] = { SERIES_BYTES_IN };
    static const enum series to[] = { SERIES_BYTES_OUT };
    static const enum series faults[] = { SERIES_READS, SERIES_WRITES,
                                          SERIES_UPGRADES };

    html_section(out, "traffic", "Traffic");
    if (c->nr == 0) {
        html_note(out, "The recording has a single sample, so there is no time "
                       "in which something could have happened.");
        return;
    }
    html_note(out, "Bytes of pages and messages, without the headers of pages. "
                   "Reads, writes and upgrades are accesses that waited for "
                   "another node: to read, to write, and to write what was "
                   "readable already.");
    plot_series(out, rep, c, "Received by", "MB/s", 1e-6, 1, in);
    plot_series(out, rep, c, "Sent by", "MB/s", 1e-6, 1, to);
    if (rep->dsm) {
        plot_series(out, rep, c, "Waiting for pages", "faults/s", 1, 3, faults);
    }
    traffic_table(rep, out);
    traffic_over_time(rep, c, out);
}

/* "40.5 MiB" */
static char *offset_text(double bytes)
{
    return bytes < 1 << 20 ? g_strdup_printf("%.0f KiB", bytes / 1024)
                           : g_strdup_printf("%.4g MiB", bytes / (1 << 20));
}

/* The faults of all nodes in one owner's memory. */
static void heat_of(const struct report *rep, const struct columns *c,
                    unsigned owner, GString *out)
{
    g_autoptr(GPtrArray) labels = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GArray) v = g_array_new(FALSE, FALSE, sizeof(double));
    g_auto(GStrv) heads = g_new0(char *, rep->nr_nodes + 4);
    double range[SAMPLE_RANGES] = { 0 }, range_bytes = 0;
    g_autofree char *title = NULL;
    unsigned active = 0, merge = 1;
    struct html_table *t;

    for (unsigned n = 0; n < rep->nr_nodes; n++) {
        const struct region_sample *r = &rep->total->node[n].region[owner];

        range_bytes = MAX(range_bytes,
                          (double)r->range_pages * (double)r->page_bytes);
        for (unsigned i = 0; i < SAMPLE_RANGES; i++) {
            range[i] += (double)r->range[i];
        }
    }
    for (unsigned i = 0; i < SAMPLE_RANGES; i++) {
        active += range[i] > 0;
    }
    if (active == 0) {
        return;
    }
    while (active > MAX_ROWS) {
        merge *= 2;
        active = 0;
        for (unsigned i = 0; i < SAMPLE_RANGES; i += merge) {
            bool any = false;

            for (unsigned k = i; k < i + merge && k < SAMPLE_RANGES; k++) {
                any = any || range[k] > 0;
            }
            active += any;
        }
    }
    html_heading(out, "Memory of %s", rep->names[owner]);
    heads[0] = g_strdup("From");
    heads[1] = g_strdup("To");
    for (unsigned n = 0; n < rep->nr_nodes; n++) {
        heads[2 + n] = g_strdup_printf(">By %s", rep->names[n]);
    }
    heads[2 + rep->nr_nodes] = g_strdup(">All");
    t = html_table_new((const char *const *)heads, "By node, in numbers");
    for (unsigned i = 0; i < SAMPLE_RANGES; i += merge) {
        g_autofree char *from = offset_text(i * range_bytes);
        g_autofree char *to = offset_text((i + merge) * range_bytes);
        double all = 0;

        for (unsigned k = i; k < i + merge && k < SAMPLE_RANGES; k++) {
            all += range[k];
        }
        if (!(all > 0)) {
            continue;
        }
        html_cell(t, "%s", from);
        html_cell(t, "%s", to);
        for (unsigned n = 0; n < rep->nr_nodes; n++) {
            const struct region_sample *r = &rep->total->node[n].region[owner];
            double sum = 0;

            for (unsigned k = i; k < i + merge && k < SAMPLE_RANGES; k++) {
                sum += (double)r->range[k];
            }
            cell_count(t, sum);
        }
        cell_count(t, all);
        g_ptr_array_add(labels, g_strdup_printf("from %s", from));
        for (unsigned col = 0; col < c->nr; col++) {
            double sum = 0;

            for (unsigned k = i; k < i + merge && k < SAMPLE_RANGES; k++) {
                sum +=
                    column_rate(rep, c, col, owner * SAMPLE_RANGES + k, true);
            }
            g_array_append_val(v, sum);
        }
    }
    title = g_strdup_printf("Faults of all nodes in the memory of %s, by "
                            "offset and time",
                            rep->names[owner]);
    plot_map(out, title, "faults/s", c->x, c->nr,
             (const char *const *)labels->pdata, labels->len,
             (const double *)v->data);
    html_table_end(t, out);
}

static int hotter(gconstpointer a, gconstpointer b)
{
    const struct page_total *x = *(struct page_total *const *)a;
    const struct page_total *y = *(struct page_total *const *)b;

    if (x->faults != y->faults) {
        return x->faults < y->faults ? 1 : -1;
    }
    return x->at.page != y->at.page ? (x->at.page < y->at.page ? -1 : 1)
                                    : (int)x->node - (int)y->node;
}

/* When the hottest pages were waited for. */
static void map_pages(const struct report *rep, const struct columns *c,
                      const GPtrArray *pages, GString *out)
{
    unsigned nr = MIN(pages->len, (unsigned)HOT_ROWS);
    g_autofree double *v = g_new0(double, nr * c->nr + 1);
    g_auto(GStrv) labels = g_new0(char *, nr + 1);

    for (unsigned i = 0; i < nr; i++) {
        const struct page_total *p = pages->pdata[i];
        unsigned col = 0;

        labels[i] = g_strdup_printf("%s: %s %" G_GUINT64_FORMAT,
                                    rep->names[p->node], rep->names[p->owner],
                                    (guint64)p->at.page);
        for (unsigned k = 0; k < p->news->len; k++) {
            const struct page_news *news =
                &g_array_index(p->news, struct page_news, k);

            for (unsigned at = news->first; at <= news->last; at++) {
                while (col + 1 < c->nr && c->first[col + 1] <= at) {
                    col++;
                }
                v[i * c->nr + col] += news->faults /
                                      (news->last - news->first + 1) /
                                      (c->x[col + 1] - c->x[col]);
            }
        }
    }
    plot_map(out, "Faults of a node in a page of a node, by time", "faults/s",
             c->x, c->nr, (const char *const *)labels, nr, v);
}

static void hottest_pages(const struct report *rep, const struct columns *c,
                          GString *out)
{
    static const char *const heads[] = { "Node",    "Memory of", ">Page",
                                         ">Faults", ">To write", "Who",
                                         NULL };
    g_autoptr(GPtrArray) pages = g_ptr_array_new();
    struct html_table *t = html_table_new(heads, NULL);
    GHashTableIter it;
    gpointer value;

    g_hash_table_iter_init(&it, rep->pages);
    while (g_hash_table_iter_next(&it, NULL, &value)) {
        const struct page_total *p = value;

        if (p->faults > 0) {
            g_ptr_array_add(pages, value);
        }
    }
    g_ptr_array_sort(pages, hotter);
    for (unsigned i = 0; i < pages->len && i < HOT_PAGES; i++) {
        const struct page_total *p = pages->pdata[i];
        g_autofree char *key = page_key(p->node, p->owner, p->at.page);
        const char *who = g_hash_table_lookup(rep->who, key);

        html_cell(t, "%s", rep->names[p->node]);
        html_cell(t, "%s", rep->names[p->owner]);
        html_cell(t, "%" G_GUINT64_FORMAT, (guint64)p->at.page);
        cell_count(t, (double)p->faults);
        html_cell(t, "%.0f %%",
                  100 * (double)p->writes / (double)p->faults);
        html_cell(t, "%s", who ? who : "-");
    }
    if (pages->len) {
        html_heading(out, "The hottest pages");
        html_note(out, "By the node that waited for them, and who had them "
                       "when their node was asked.");
        map_pages(rep, c, pages, out);
    }
    html_table_end(t, out);
}

static void section_heat(const struct report *rep, const struct columns *c,
                         GString *out)
{
    html_section(out, "heat", "Page heat");
    if (nothing_to_show(rep, total_faults(rep), out)) {
        return;
    }
    for (unsigned o = 0; o < rep->nr_nodes; o++) {
        heat_of(rep, c, o, out);
    }
    hottest_pages(rep, c, out);
}

static void section_latency(const struct report *rep, GString *out)
{
    static const char *const heads[] = { "Node", "Wait", ">Count", ">p50",
                                         ">p90", ">p99", ">p99.9", NULL };
    struct html_table *t = html_table_new(heads, NULL);
    char *labels[HISTOGRAM_BUCKETS];

    html_section(out, "latency", "Latency");
    if (nothing_to_show(rep, total_faults(rep), out)) {
        html_table_end(t, out);
        return;
    }
    html_note(out, "How long accesses waited. A group of bars reaches from its "
                   "label to twice that; inside of a factor of two the "
                   "percentiles are estimates.");
    for (unsigned b = 0; b < HISTOGRAM_BUCKETS; b++) {
        labels[b] = format_ns((double)(UINT64_C(1) << b));
    }
    for (unsigned n = 0; n < rep->nr_nodes; n++) {
        double y[NR_LATENCIES][HISTOGRAM_BUCKETS];
        struct plot_line bars[NR_LATENCIES];
        g_autofree char *title =
            g_strdup_printf("Waits on node %s", rep->names[n]);

        for (unsigned l = 0; l < NR_LATENCIES; l++) {
            static const double percents[] = { 50, 90, 99, 99.9 };
            struct histogram h;

            node_latency(rep->total, n, l, &h);
            for (unsigned b = 0; b < HISTOGRAM_BUCKETS; b++) {
                y[l][b] = (double)h.bucket[b];
            }
            bars[l] = (struct plot_line){ latency_names[l], y[l] };
            if (!histogram_count(&h)) {
                continue;
            }
            html_cell(t, "%s", rep->names[n]);
            html_cell(t, "%s", latency_names[l]);
            cell_count(t, (double)histogram_count(&h));
            for (unsigned p = 0; p < G_N_ELEMENTS(percents); p++) {
                g_autofree char *v =
                    format_ns(histogram_percentile(&h, percents[p]));

                html_cell(t, "%s", v);
            }
        }
        plot_bars(out, title, "count", (const char *const *)labels,
                  HISTOGRAM_BUCKETS, bars, NR_LATENCIES);
    }
    html_table_end(t, out);
    for (unsigned b = 0; b < HISTOGRAM_BUCKETS; b++) {
        g_free(labels[b]);
    }
}

static void section_prefetch(const struct report *rep, GString *out)
{
    static const enum region_counter counters[] = {
        REGION_AHEAD_ASKED, REGION_AHEAD_DECLINED, REGION_AHEAD_USEFUL,
        REGION_AHEAD_WASTED
    };
    static const char *const names[] = { "asked for", "declined", "useful",
                                         "wasted" };
    static const char *const heads[] = { "Node",    ">Asked for", ">Declined",
                                         ">Useful", ">Wasted",    NULL };
    g_autofree double *y = g_new0(double, 4 * rep->nr_nodes);
    struct html_table *t = html_table_new(heads, NULL);
    struct plot_line bars[4];

    html_section(out, "prefetch", "Prefetch");
    if (nothing_to_show(rep, total_of(rep, REGION_AHEAD_ASKED), out)) {
        html_table_end(t, out);
        return;
    }
    html_note(out, "Pages asked for ahead of their use; declined are those "
                   "that somebody was using. Of a batch whose first page was "
                   "used all pages count as useful.");
    for (unsigned n = 0; n < rep->nr_nodes; n++) {
        html_cell(t, "%s", rep->names[n]);
        for (unsigned k = 0; k < 4; k++) {
            double v = (double)node_counter(rep->total, n, counters[k]);

            y[k * rep->nr_nodes + n] = v;
            cell_count(t, v);
        }
    }
    for (unsigned k = 0; k < 4; k++) {
        bars[k] = (struct plot_line){ names[k], &y[k * rep->nr_nodes] };
    }
    plot_bars(out, "Pages fetched ahead by", "pages",
              (const char *const *)rep->names, rep->nr_nodes, bars, 4);
    html_table_end(t, out);
}

static void section_messages(const struct report *rep, const struct columns *c,
                             GString *out)
{
    static const enum series sent[] = { SERIES_MESSAGES_OUT };
    static const char *const heads[] = { "Node",      ">Sent",   ">Received",
                                         ">MB sent",  ">MB received",
                                         ">Doorbells", ">Errors", NULL };
    struct html_table *t = html_table_new(heads, NULL);

    html_section(out, "messages", "Messages");
    html_note(out, "What the kernels and programs of the nodes say to each "
                   "other, pages not included.");
    if (c->nr > 0) {
        plot_series(out, rep, c, "Messages sent by", "messages/s", 1, 1, sent);
    }
    for (unsigned n = 0; n < rep->nr_nodes; n++) {
        const uint64_t *l = rep->total->node[n].link;

        html_cell(t, "%s", rep->names[n]);
        cell_count(t, (double)l[LINK_MESSAGES_OUT]);
        cell_count(t, (double)l[LINK_MESSAGES_IN]);
        html_cell(t, "%.2f", (double)l[LINK_BYTES_OUT] / 1e6);
        html_cell(t, "%.2f", (double)l[LINK_BYTES_IN] / 1e6);
        cell_count(t, (double)l[LINK_DOORBELLS]);
        cell_count(t, (double)l[LINK_ERRORS]);
    }
    html_table_end(t, out);
}

char *report_html(struct recording *r, GError **error)
{
    g_autoptr(Report) rep = report_read(r, error);
    g_autoptr(Columns) c = NULL;
    g_autoptr(GString) out = NULL;
    g_autofree char *title = NULL;
    JsonObject *machine;

    if (!rep) {
        return NULL;
    }
    machine = json_object_get_object_member(rep->head, "machine");
    c = columns_new(rep);
    out = g_string_new(NULL);
    title = g_strdup_printf("Run of machine %s", head_text(machine, "name"));
    html_begin(out, title);
    html_note(out, "Up since %s; recorded for %.1f s in %u samples; coherence "
                   "%s, %u nodes.",
              head_text(rep->head, "started"), rep->last->t, rep->nr_samples,
              head_text(machine, "coherence"), rep->nr_nodes);
    g_string_append(out, "<nav><a href=\"#configuration\">Configuration</a>"
                         "<a href=\"#traffic\">Traffic</a>"
                         "<a href=\"#heat\">Page heat</a>"
                         "<a href=\"#latency\">Latency</a>"
                         "<a href=\"#prefetch\">Prefetch</a>"
                         "<a href=\"#messages\">Messages</a></nav>\n");
    section_configuration(rep, out);
    section_traffic(rep, c, out);
    section_heat(rep, c, out);
    section_latency(rep, out);
    section_prefetch(rep, out);
    section_messages(rep, c, out);
    html_end(out);
    return g_string_free(g_steal_pointer(&out), FALSE);
}
