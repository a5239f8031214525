/* SPDX-License-Identifier: GPL-2.0-or-later */
/* stats: query-dsm of every node, side by side. */
#include "client.h"
#include "command.h"
#include "table.h"
#include "target.h"
#include "util.h"

#include <stdio.h>

#define STR(o, name) json_object_get_string_member_with_default(o, name, "")
#define INT(o, name) json_object_get_int_member_with_default(o, name, 0)

/*
 * The bucket in which the middle of a log2 histogram lies: the median is
 * between its bounds. -1 for an empty one.
 */
static int median_bucket(JsonArray *histogram)
{
    gint64 sum = 0, seen = 0;
    unsigned n = histogram ? json_array_get_length(histogram) : 0;

    for (unsigned i = 0; i < n; i++) {
        sum += json_array_get_int_element(histogram, i);
    }
    for (unsigned i = 0; i < n && sum > 0; i++) {
        seen += json_array_get_int_element(histogram, i);
        if (2 * seen >= sum) {
            return (int)i;
        }
    }
    return -1;
}

/* Between which times the middle of a histogram of nanoseconds lies. */
static char *median_time(JsonObject *of, const char *name)
{
    JsonNode *h = json_object_get_member(of, name);
    int b = median_bucket(h && JSON_NODE_HOLDS_ARRAY(h) ? json_node_get_array(h)
                                                        : NULL);

    return b < 0 ? g_strdup("-")
                 : g_strdup_printf("%.3g-%.3g us", (double)(1ull << b) / 1000,
                                   (double)(2ull << b) / 1000);
}

static void print_links(JsonObject *dsm, const char *name)
{
    static const char *const heads[] = {
        "PEER",        "STATE",       ">MSGS-SENT", ">MSGS-RCVD",
        ">BYTES-SENT", ">BYTES-RCVD", ">DOORBELLS", ">ERRORS",
        ">PING",       "REASON",      NULL
    };
    JsonNode *n = json_object_get_member(dsm, "nodes");
    JsonArray *nodes =
        n && JSON_NODE_HOLDS_ARRAY(n) ? json_node_get_array(n) : NULL;
    gint64 self = INT(dsm, "node");
    struct table *t = table_new(heads);

    printf("node %s:", name);
    if (INT(dsm, "exclusive-steps") || INT(dsm, "rejected")) {
        printf(" %" G_GINT64_FORMAT " exclusive steps, %" G_GINT64_FORMAT
               " connections rejected %s",
               INT(dsm, "exclusive-steps"), INT(dsm, "rejected"),
               STR(dsm, "rejected-reason"));
    }
    if (INT(dsm, "zeroed-pages")) {
        printf(" %" G_GINT64_FORMAT " lost pages read as zeros",
               INT(dsm, "zeroed-pages"));
    }
    printf("\n");
    for (unsigned i = 0; nodes && i < json_array_get_length(nodes); i++) {
        JsonObject *p = json_array_get_object_element(nodes, i);
        static const char *const counters[] = {
            "messages-sent",  "messages-received", "bytes-sent",
            "bytes-received", "doorbells-sent",    "protocol-errors",
        };

        if (i == self) {
            continue;
        }
        table_add(t, g_strdup(STR(p, "name")));
        table_add(t, g_strdup(STR(p, "state")));
        for (unsigned c = 0; c < G_N_ELEMENTS(counters); c++) {
            table_add(
                t, g_strdup_printf("%" G_GINT64_FORMAT, INT(p, counters[c])));
        }
        table_add(t, median_time(p, "ping-rtt-ns"));
        table_add(t, g_strdup(STR(p, "reason")));
    }
    table_print(t, "  ");
}

/* With coherence=dsm: the copies that the node has of the nodes' memory. */
static void print_regions(JsonObject *dsm)
{
    static const char *const heads[] = {
        "MEMORY-OF",     ">SHARED",     ">MODIFIED",    ">LOST",
        ">READ-FAULTS",  ">WRITE-FAULTS", ">UPGRADES",  ">PAGES-IN",
        ">PAGES-OUT",    ">INVALIDATED", ">PREFETCHED", ">USEFUL",
        ">READ",         ">WRITE",      NULL
    };
    static const char *const counters[] = {
        "pages-shared",   "pages-modified", "pages-lost",
        "read-faults",    "write-faults",   "upgrades",
        "pages-received", "pages-sent",     "invalidations",
        "prefetched",     "prefetch-useful",
    };
    JsonNode *n = json_object_get_member(dsm, "nodes");
    JsonArray *nodes =
        n && JSON_NODE_HOLDS_ARRAY(n) ? json_node_get_array(n) : NULL;
    struct table *t;

    if (g_strcmp0(STR(dsm, "coherence"), "dsm") != 0) {
        return;
    }
    t = table_new(heads);
    for (unsigned i = 0; nodes && i < json_array_get_length(nodes); i++) {
        JsonObject *owner = json_array_get_object_element(nodes, i);
        JsonNode *member = json_object_get_member(owner, "region");
        JsonObject *region = member && JSON_NODE_HOLDS_OBJECT(member)
                                 ? json_node_get_object(member)
                                 : NULL;

        if (!region) {
            continue;
        }
        table_add(t, g_strdup(STR(owner, "name")));
        for (unsigned c = 0; c < G_N_ELEMENTS(counters); c++) {
            table_add(t, g_strdup_printf("%" G_GINT64_FORMAT,
                                         INT(region, counters[c])));
        }
        table_add(t, median_time(region, "read-ns"));
        table_add(t, median_time(region, "write-ns"));
    }
    table_print(t, "  ");
}

int builtin_stats(char **args)
{
    bool json = false;
    const struct option_spec specs[] = {
        { "json", 0, OPTION_FLAG, &json },
        { NULL },
    };
    g_autofree char *machine = NULL;
    g_autoptr(JsonNode) answer = NULL;
    GError *error = NULL;
    JsonArray *nodes;

    if (!command_options("stats", specs, &args)) {
        return EXIT_USAGE;
    }
    if (*args && args[1]) {
        return command_usage("stats", "unexpected '%s'", args[1]);
    }
    machine = target_machine(*args, &error);
    if (machine) {
        answer = client_query(machine, CTL_STATS, &error);
    }
    if (!answer) {
        return command_failed(EXIT_FAILED, error);
    }
    if (json) {
        g_autofree char *text = json_to_string(answer, TRUE);

        printf("%s\n", text);
        return EXIT_OK;
    }
    nodes = json_object_get_array_member(json_node_get_object(answer), "nodes");
    for (unsigned i = 0; i < json_array_get_length(nodes); i++) {
        JsonObject *n = json_array_get_object_element(nodes, i);
        JsonNode *dsm = json_object_get_member(n, "dsm");

        if (dsm && JSON_NODE_HOLDS_OBJECT(dsm)) {
            print_links(json_node_get_object(dsm), STR(n, "name"));
            print_regions(json_node_get_object(dsm));
        } else {
            printf("node %s: no counters: %s\n", STR(n, "name"),
                   STR(n, "error"));
        }
    }
    return EXIT_OK;
}
