/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "sample.h"

#include "util.h"

#include <string.h>

const char *const latency_names[NR_LATENCIES] = { "read", "write", "upgrade" };

static const char *const region_members[REGION_NR_COUNTERS] = {
    [REGION_READS] = "read-faults",
    [REGION_WRITES] = "write-faults",
    [REGION_LOCAL] = "local-faults",
    [REGION_UPGRADES] = "upgrades",
    [REGION_PAGES_IN] = "pages-received",
    [REGION_PAGES_OUT] = "pages-sent",
    [REGION_INVALIDATIONS] = "invalidations",
    [REGION_DOWNGRADES] = "downgrades",
    [REGION_HOLDS] = "holds",
    [REGION_AHEAD_ASKED] = "prefetched",
    [REGION_AHEAD_DECLINED] = "prefetch-declined",
    [REGION_AHEAD_USEFUL] = "prefetch-useful",
    [REGION_AHEAD_WASTED] = "prefetch-wasted",
};

static const char *const link_members[LINK_NR_COUNTERS] = {
    [LINK_MESSAGES_OUT] = "messages-sent",
    [LINK_MESSAGES_IN] = "messages-received",
    [LINK_BYTES_OUT] = "bytes-sent",
    [LINK_BYTES_IN] = "bytes-received",
    [LINK_DOORBELLS] = "doorbells-sent",
    [LINK_ERRORS] = "protocol-errors",
};

static const char *const latency_members[NR_LATENCIES] = {
    [LATENCY_READ] = "read-ns",
    [LATENCY_WRITE] = "write-ns",
    [LATENCY_UPGRADE] = "upgrade-ns",
};

/* ---- JSON ---- */

static bool wrong(const char *name, const char *wanted, GError **error)
{
    g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_PROTO, "'%s' is not %s",
                name, wanted);
    return false;
}

static bool node_u64(JsonNode *n, uint64_t *ret)
{
    if (!JSON_NODE_HOLDS_VALUE(n) ||
        json_node_get_value_type(n) != G_TYPE_INT64 || json_node_get_int(n) < 0) {
        return false;
    }
    *ret = (uint64_t)json_node_get_int(n);
    return true;
}

bool json_get_u64(JsonObject *o, const char *name, uint64_t *ret,
                  GError **error)
{
    JsonNode *n = json_object_get_member(o, name);

    *ret = 0;
    return !n || node_u64(n, ret) || wrong(name, "a count", error);
}

bool json_get_text(JsonObject *o, const char *name, const char **ret,
                   GError **error)
{
    JsonNode *n = json_object_get_member(o, name);

    *ret = "";
    if (!n) {
        return true;
    }
    if (!JSON_NODE_HOLDS_VALUE(n) ||
        json_node_get_value_type(n) != G_TYPE_STRING) {
        return wrong(name, "a text", error);
    }
    *ret = json_node_get_string(n);
    return true;
}

bool json_get_array(JsonObject *o, const char *name, JsonArray **ret,
                    GError **error)
{
    JsonNode *n = json_object_get_member(o, name);

    *ret = NULL;
    if (!n) {
        return true;
    }
    if (!JSON_NODE_HOLDS_ARRAY(n)) {
        return wrong(name, "a list", error);
    }
    *ret = json_node_get_array(n);
    return true;
}

static bool get_object(JsonObject *o, const char *name, JsonObject **ret,
                       GError **error)
{
    JsonNode *n = json_object_get_member(o, name);

    *ret = NULL;
    if (!n) {
        return true;
    }
    if (!JSON_NODE_HOLDS_OBJECT(n)) {
        return wrong(name, "an object", error);
    }
    *ret = json_node_get_object(n);
    return true;
}

/* A list of counts, as long as it likes up to @max; the rest is 0. */
static bool get_counts(JsonObject *o, const char *name, uint64_t *ret,
                       unsigned max, GError **error)
{
    JsonArray *a;
    unsigned n;

    memset(ret, 0, max * sizeof(*ret));
    if (!json_get_array(o, name, &a, error)) {
        return false;
    }
    n = a ? json_array_get_length(a) : 0;
    if (n > max) {
        return wrong(name, "a list of the right length", error);
    }
    for (unsigned i = 0; i < n; i++) {
        if (!node_u64(json_array_get_element(a, i), &ret[i])) {
            return wrong(name, "a list of counts", error);
        }
    }
    return true;
}

/* ---- one moment ---- */

static bool parse_heat(JsonObject *o, struct region_sample *r, GError **error)
{
    JsonArray *pages;

    if (!json_get_u64(o, "range-pages", &r->range_pages, error) ||
        !get_counts(o, "ranges", r->range, SAMPLE_RANGES, error) ||
        !json_get_array(o, "pages", &pages, error)) {
        return false;
    }
    r->nr_hot = pages ? json_array_get_length(pages) : 0;
    if (r->nr_hot > SAMPLE_PAGES) {
        return wrong("pages", "a list of the right length", error);
    }
    for (unsigned i = 0; i < r->nr_hot; i++) {
        JsonNode *n = json_array_get_element(pages, i);
        struct hot_page *h = &r->hot[i];
        JsonObject *p;

        if (!JSON_NODE_HOLDS_OBJECT(n)) {
            return wrong("pages", "a list of objects", error);
        }
        p = json_node_get_object(n);
        if (!json_get_u64(p, "page", &h->page, error) ||
            !json_get_u64(p, "faults", &h->faults, error) ||
            !json_get_u64(p, "writes", &h->writes, error) ||
            !json_get_u64(p, "missed", &h->missed, error)) {
            return false;
        }
    }
    return true;
}

static bool parse_region(JsonObject *o, struct region_sample *r, GError **error)
{
    JsonObject *heat;
    uint64_t v;

    r->attached = true;
    if (!json_get_u64(o, "page-size", &v, error)) {
        return false;
    }
    if (v > 1 << 30) {
        return wrong("page-size", "a size of pages", error);
    }
    r->page_bytes = (uint32_t)v;
    for (unsigned c = 0; c < REGION_NR_COUNTERS; c++) {
        if (!json_get_u64(o, region_members[c], &r->counter[c], error)) {
            return false;
        }
    }
    for (unsigned l = 0; l < NR_LATENCIES; l++) {
        if (!get_counts(o, latency_members[l], r->latency[l].bucket,
                        HISTOGRAM_BUCKETS, error)) {
            return false;
        }
    }
    return get_object(o, "heat", &heat, error) &&
           (!heat || parse_heat(heat, r, error));
}

static bool parse_peer(JsonObject *o, struct node_sample *n,
                       struct region_sample *r, GError **error)
{
    JsonObject *region;

    for (unsigned c = 0; c < LINK_NR_COUNTERS; c++) {
        uint64_t v;

        if (!json_get_u64(o, link_members[c], &v, error)) {
            return false;
        }
        n->link[c] += v;
    }
    return get_object(o, "region", &region, error) &&
           (!region || parse_region(region, r, error));
}

static bool parse_node(JsonObject *o, struct node_sample *n, unsigned nr_nodes,
                       GError **error)
{
    const char *name, *text, *coherence;
    JsonArray *peers;
    JsonObject *dsm;

    if (!json_get_text(o, "name", &name, error) ||
        !json_get_text(o, "error", &text, error) ||
        !get_object(o, "dsm", &dsm, error)) {
        return false;
    }
    n->name = printable_line(name, -1);
    n->region = g_new0(struct region_sample, nr_nodes);
    if (!dsm) {
        n->error = *text ? printable_line(text, -1) : g_strdup("no counters");
        return true;
    }
    if (!json_get_text(dsm, "coherence", &coherence, error) ||
        !json_get_array(dsm, "nodes", &peers, error)) {
        return false;
    }
    n->dsm = !strcmp(coherence, "dsm");
    if (peers && json_array_get_length(peers) > nr_nodes) {
        return wrong("nodes", "as long as the machine has nodes", error);
    }
    for (unsigned i = 0; peers && i < json_array_get_length(peers); i++) {
        JsonNode *p = json_array_get_element(peers, i);

        if (!JSON_NODE_HOLDS_OBJECT(p)) {
            return wrong("nodes", "a list of objects", error);
        }
        if (!parse_peer(json_node_get_object(p), n, &n->region[i], error)) {
            return false;
        }
    }
    return true;
}

struct sample *sample_parse(JsonObject *stats, double t, GError **error)
{
    g_autoptr(Sample) s = g_new0(struct sample, 1);
    JsonArray *nodes;
    unsigned nr;

    s->t = t;
    if (!json_get_array(stats, "nodes", &nodes, error)) {
        return NULL;
    }
    nr = nodes ? json_array_get_length(nodes) : 0;
    if (nr == 0 || nr > CONFIG_MAX_NODES) {
        wrong("nodes", "a list of 1 to 64 nodes", error);
        return NULL;
    }
    s->node = g_new0(struct node_sample, nr);
    s->nr_nodes = nr;
    for (unsigned i = 0; i < nr; i++) {
        JsonNode *n = json_array_get_element(nodes, i);

        if (!JSON_NODE_HOLDS_OBJECT(n)) {
            wrong("nodes", "a list of objects", error);
            return NULL;
        }
        if (!parse_node(json_node_get_object(n), &s->node[i], nr, error)) {
            return NULL;
        }
    }
    return g_steal_pointer(&s);
}

void sample_free(struct sample *s)
{
    if (s) {
        for (unsigned i = 0; i < s->nr_nodes; i++) {
            g_free(s->node[i].name);
            g_free(s->node[i].error);
            g_free(s->node[i].region);
        }
        g_free(s->node);
        g_free(s);
    }
}

/* ---- what happened between two moments ---- */

/* A counter that has become smaller began anew. */
static void subtract(uint64_t *now, const uint64_t *before, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        if (now[i] >= before[i]) {
            now[i] -= before[i];
        }
    }
}

/* dsm.h says when the faults of a page may be subtracted. */
static void subtract_page(struct hot_page *p, const struct region_sample *before)
{
    for (unsigned i = 0; i < before->nr_hot; i++) {
        const struct hot_page *b = &before->hot[i];

        if (b->page == p->page && b->missed == p->missed &&
            b->faults <= p->faults) {
            p->faults -= b->faults;
            p->writes -= MIN(p->writes, b->writes);
            return;
        }
    }
}

static void subtract_region(struct region_sample *now,
                            const struct region_sample *before)
{
    unsigned kept = 0;

    subtract(now->counter, before->counter, REGION_NR_COUNTERS);
    for (unsigned l = 0; l < NR_LATENCIES; l++) {
        histogram_subtract(&now->latency[l], &before->latency[l]);
    }
    subtract(now->range, before->range, SAMPLE_RANGES);
    for (unsigned i = 0; i < now->nr_hot; i++) {
        subtract_page(&now->hot[i], before);
        if (now->hot[i].faults > 0) {
            now->hot[kept++] = now->hot[i];
        }
    }
    now->nr_hot = kept;
}

bool sample_subtract(struct sample *now, const struct sample *before)
{
    if (now->nr_nodes != before->nr_nodes) {
        return false;
    }
    for (unsigned i = 0; i < now->nr_nodes; i++) {
        if (strcmp(now->node[i].name, before->node[i].name) != 0) {
            return false;
        }
    }
    for (unsigned i = 0; i < now->nr_nodes; i++) {
        struct node_sample *n = &now->node[i];
        const struct node_sample *b = &before->node[i];

        if (n->error || b->error) { /* nothing to compare */
            memset(n->link, 0, sizeof(n->link));
            memset(n->region, 0, now->nr_nodes * sizeof(*n->region));
            continue;
        }
        subtract(n->link, b->link, LINK_NR_COUNTERS);
        for (unsigned r = 0; r < now->nr_nodes; r++) {
            subtract_region(&n->region[r], &b->region[r]);
        }
    }
    now->t -= before->t;
    return true;
}

uint64_t node_counter(const struct sample *s, unsigned node,
                      enum region_counter c)
{
    uint64_t sum = 0;

    for (unsigned r = 0; r < s->nr_nodes; r++) {
        sum += s->node[node].region[r].counter[c];
    }
    return sum;
}

void node_latency(const struct sample *s, unsigned node, enum latency l,
                  struct histogram *ret)
{
    memset(ret, 0, sizeof(*ret));
    for (unsigned r = 0; r < s->nr_nodes; r++) {
        histogram_add(ret, &s->node[node].region[r].latency[l]);
    }
}

uint64_t node_bytes(const struct sample *s, unsigned node, bool in)
{
    const struct node_sample *n = &s->node[node];
    uint64_t sum = n->link[in ? LINK_BYTES_IN : LINK_BYTES_OUT];

    for (unsigned r = 0; r < s->nr_nodes; r++) {
        sum += n->region[r].counter[in ? REGION_PAGES_IN : REGION_PAGES_OUT] *
               n->region[r].page_bytes;
    }
    return sum;
}

static int by_faults(gconstpointer a, gconstpointer b)
{
    const struct hot_spot *x = a, *y = b;

    if (x->page.faults != y->page.faults) {
        return x->page.faults < y->page.faults ? 1 : -1;
    }
    if (x->owner != y->owner || x->page.page == y->page.page) {
        return x->owner != y->owner ? (int)x->owner - (int)y->owner
                                    : (int)x->node - (int)y->node;
    }
    return x->page.page < y->page.page ? -1 : 1;
}

GArray *sample_hot_spots(const struct sample *s, unsigned max)
{
    GArray *spots = g_array_new(FALSE, FALSE, sizeof(struct hot_spot));

    for (unsigned n = 0; n < s->nr_nodes; n++) {
        for (unsigned r = 0; r < s->nr_nodes; r++) {
            const struct region_sample *region = &s->node[n].region[r];

            for (unsigned i = 0; i < region->nr_hot; i++) {
                struct hot_spot spot = { n, r, region->hot[i] };

                g_array_append_val(spots, spot);
            }
        }
    }
    g_array_sort(spots, by_faults);
    g_array_set_size(spots, MIN(spots->len, max));
    return spots;
}
