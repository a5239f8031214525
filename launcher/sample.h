/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The counters of a machine at one moment (chimera stats, a line of a
 * recording), and what happened between two moments.
 */
#ifndef CHIMERA_SAMPLE_H
#define CHIMERA_SAMPLE_H

#include "config.h"
#include "histogram.h"

#include <json-glib/json-glib.h>

enum { SAMPLE_RANGES = 128, SAMPLE_PAGES = 64 };

/* Counters of a region; in this order the members of DsmRegionInfo. */
enum region_counter {
    REGION_READS,
    REGION_WRITES, /* the upgrades too */
    REGION_LOCAL,
    REGION_UPGRADES,
    REGION_PAGES_IN,
    REGION_PAGES_OUT,
    REGION_INVALIDATIONS,
    REGION_DOWNGRADES,
    REGION_HOLDS,
    REGION_AHEAD_ASKED,
    REGION_AHEAD_DECLINED,
    REGION_AHEAD_USEFUL,
    REGION_AHEAD_WASTED,
    REGION_NR_COUNTERS
};

/* Counters of the links of a node, all together. */
enum link_counter {
    LINK_MESSAGES_OUT,
    LINK_MESSAGES_IN,
    LINK_BYTES_OUT,
    LINK_BYTES_IN,
    LINK_DOORBELLS,
    LINK_ERRORS,
    LINK_NR_COUNTERS
};

enum latency { LATENCY_READ, LATENCY_WRITE, LATENCY_UPGRADE, NR_LATENCIES };
extern const char *const latency_names[NR_LATENCIES];

struct hot_page {
    uint64_t page, faults, writes, missed;
};

struct region_sample {
    bool attached; /* false: the rest is 0 */
    uint32_t page_bytes;
    uint64_t counter[REGION_NR_COUNTERS];
    struct histogram latency[NR_LATENCIES];
    uint64_t range_pages;
    uint64_t range[SAMPLE_RANGES];
    unsigned nr_hot;
    struct hot_page hot[SAMPLE_PAGES];
};

struct node_sample {
    char *name;
    char *error; /* why there is nothing of it; NULL: there is */
    bool dsm; /* coherence=dsm */
    uint64_t link[LINK_NR_COUNTERS];
    struct region_sample *region; /* nr_nodes of them, by owner */
};

struct sample {
    double t; /* seconds, of its owner's clock */
    unsigned nr_nodes;
    struct node_sample *node;
};

/*
 * The answer to CTL_STATS, or the same without what is zero. Strict: the error
 * says which member is not what it must be.
 */
struct sample *sample_parse(JsonObject *stats, double t, GError **error);
void sample_free(struct sample *s);
typedef struct sample Sample;
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Sample, sample_free)

/*
 * What happened from @before to @now, which becomes that; its t is how long it
 * took. Pages that were not faulted for are left out. false: the two are not
 * of one machine.
 */
bool sample_subtract(struct sample *now, const struct sample *before);

/* Sums over the regions of a node. */
uint64_t node_counter(const struct sample *s, unsigned node,
                      enum region_counter c);
void node_latency(const struct sample *s, unsigned node, enum latency l,
                  struct histogram *ret);
/* Bytes of pages and messages, without the headers of pages. */
uint64_t node_bytes(const struct sample *s, unsigned node, bool in);

/* The hottest pages of all nodes, hottest first; at most @max. */
struct hot_spot {
    unsigned node, owner;
    struct hot_page page;
};
GArray *sample_hot_spots(const struct sample *s, unsigned max);

/* The JSON members of strictly one type; absent ones are 0, "", NULL. */
bool json_get_u64(JsonObject *o, const char *name, uint64_t *ret,
                  GError **error);
bool json_get_text(JsonObject *o, const char *name, const char **ret,
                   GError **error);
bool json_get_array(JsonObject *o, const char *name, JsonArray **ret,
                    GError **error);

#endif
