/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "top.h"

#include "table.h"

/* So much a second; what is less than one keeps a digit. */
static char *rate(double n, double seconds)
{
    double v = seconds > 0 ? n / seconds : 0;

    return v <= 0 ? g_strdup("-")
                  : g_strdup_printf(v < 9.95 ? "%.1f" : "%.0f", v);
}

static char *megabytes(uint64_t bytes, double seconds)
{
    double v = seconds > 0 ? (double)bytes / 1e6 / seconds : 0;

    return v <= 0 ? g_strdup("-")
                  : g_strdup_printf(v < 0.0995 ? "%.3f" : v < 99.5 ? "%.1f"
                                                                   : "%.0f",
                                    v);
}

static char *percent(uint64_t part, uint64_t whole)
{
    return whole ? g_strdup_printf("%.0f %%", 100.0 * (double)part /
                                                  (double)whole)
                 : g_strdup("-");
}

static char *percentile(const struct histogram *h, double p)
{
    return format_ns(histogram_percentile(h, p));
}

static void faults(const struct sample *s, GString *out)
{
    static const char *const heads[] = {
        "NODE",        ">READS/s", ">WRITES/s", ">UPGR/s", ">MB/s-IN",
        ">MB/s-OUT",   ">GIVEN-UP/s", ">PREFETCH/s", ">USEFUL", ">WASTED",
        ">MSGS/s", NULL
    };
    struct table *t = table_new(heads);

    for (unsigned i = 0; i < s->nr_nodes; i++) {
        const struct node_sample *n = &s->node[i];
#define COUNT(c) node_counter(s, i, REGION_##c)
        uint64_t asked = COUNT(AHEAD_USEFUL) + COUNT(AHEAD_WASTED);
        uint64_t upgrades = COUNT(UPGRADES);

        if (n->error) {
            continue;
        }
        table_add(t, g_strdup(n->name));
        table_add(t, rate((double)COUNT(READS), s->t));
        /* An upgrade counts as a write when it begins, as one when it ends. */
        table_add(t, rate((double)COUNT(WRITES) - (double)upgrades, s->t));
        table_add(t, rate((double)upgrades, s->t));
        table_add(t, megabytes(node_bytes(s, i, true), s->t));
        table_add(t, megabytes(node_bytes(s, i, false), s->t));
        table_add(t, rate((double)(COUNT(INVALIDATIONS) + COUNT(DOWNGRADES)),
                          s->t));
        table_add(t, rate((double)COUNT(AHEAD_ASKED), s->t));
        table_add(t, percent(COUNT(AHEAD_USEFUL), asked));
        table_add(t, percent(COUNT(AHEAD_WASTED), asked));
        table_add(t, rate((double)n->link[LINK_MESSAGES_OUT], s->t));
#undef COUNT
    }
    table_format(t, "  ", out);
}

static void latencies(const struct sample *s, GString *out)
{
    static const char *const heads[] = {
        "NODE",        ">READ-p50", ">READ-p99",    ">WRITE-p50",
        ">WRITE-p99",  ">UPGRADE-p50", ">UPGRADE-p99", NULL
    };
    struct table *t = table_new(heads);

    for (unsigned i = 0; i < s->nr_nodes; i++) {
        if (s->node[i].error) {
            continue;
        }
        table_add(t, g_strdup(s->node[i].name));
        for (unsigned l = 0; l < NR_LATENCIES; l++) {
            struct histogram h;

            node_latency(s, i, l, &h);
            table_add(t, percentile(&h, 50));
            table_add(t, percentile(&h, 99));
        }
    }
    table_format(t, "  ", out);
}

static void hottest(const struct sample *s, top_who *who, void *opaque,
                    GString *out)
{
    static const char *const heads[] = { "NODE",       "MEMORY-OF", ">PAGE",
                                         ">FAULTS/s",  ">WRITES",   "WHO",
                                         NULL };
    g_autoptr(GArray) spots = sample_hot_spots(s, TOP_HOT_SPOTS);
    struct table *t;

    if (spots->len == 0) {
        g_string_append(out, "  no page was waited for\n");
        return;
    }
    t = table_new(heads);
    for (unsigned i = 0; i < spots->len; i++) {
        const struct hot_spot *h = &g_array_index(spots, struct hot_spot, i);
        const char *name = who(h->node, h->owner, h->page.page, opaque);

        table_add(t, g_strdup(s->node[h->node].name));
        table_add(t, g_strdup(s->node[h->owner].name));
        table_add(t, g_strdup_printf("%" G_GUINT64_FORMAT,
                                     (guint64)h->page.page));
        table_add(t, rate((double)h->page.faults, s->t));
        table_add(t, percent(h->page.writes, h->page.faults));
        table_add(t, g_strdup(name ? name : "-"));
    }
    table_format(t, "  ", out);
}

static void messages(const struct sample *s, GString *out)
{
    static const char *const heads[] = { "NODE",      ">MSGS/s-OUT",
                                         ">MSGS/s-IN", ">MB/s-OUT",
                                         ">MB/s-IN",  ">DOORBELLS/s", NULL };
    struct table *t = table_new(heads);

    for (unsigned i = 0; i < s->nr_nodes; i++) {
        const struct node_sample *n = &s->node[i];

        if (n->error) {
            continue;
        }
        table_add(t, g_strdup(n->name));
        table_add(t, rate((double)n->link[LINK_MESSAGES_OUT], s->t));
        table_add(t, rate((double)n->link[LINK_MESSAGES_IN], s->t));
        table_add(t, megabytes(n->link[LINK_BYTES_OUT], s->t));
        table_add(t, megabytes(n->link[LINK_BYTES_IN], s->t));
        table_add(t, rate((double)n->link[LINK_DOORBELLS], s->t));
    }
    table_format(t, "  ", out);
}

void top_render(const struct sample *s, const char *machine, const char *when,
                top_who *who, void *opaque, GString *out)
{
    bool dsm = false;

    for (unsigned i = 0; i < s->nr_nodes; i++) {
        dsm = dsm || s->node[i].dsm;
    }
    g_string_append_printf(out, "%s: %u nodes, coherence %s, %s, the last "
                                "%.1f s\n",
                           machine, s->nr_nodes, dsm ? "dsm" : "shared", when,
                           s->t);
    for (unsigned i = 0; i < s->nr_nodes; i++) {
        if (s->node[i].error) {
            g_string_append_printf(out, "  node %s: %s\n", s->node[i].name,
                                   s->node[i].error);
        }
    }
    if (!dsm) {
        g_string_append(out, "\nAll nodes map the same memory, so there are no "
                             "page faults between them. Messages:\n");
        messages(s, out);
        return;
    }
    g_string_append(out, "\nWaiting for pages of other nodes\n");
    faults(s, out);
    g_string_append(out, "\nHow long\n");
    latencies(s, out);
    g_string_append(out, "\nThe hottest pages\n");
    hottest(s, who, opaque, out);
}
