/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What top, report and recordings are made of. */
#include "histogram.h"
#include "html.h"
#include "names.h"
#include "recording.h"
#include "report.h"
#include "sample.h"
#include "top.h"
#include "util.h"

#include <glib/gstdio.h>
#include <string.h>

/* ---- histograms ---- */

static void test_percentiles(void)
{
    struct histogram h = { 0 };

    g_assert_cmpfloat(histogram_percentile(&h, 50), <, 0);
    h.bucket[10] = 100; /* 1024 up to 2048 */
    g_assert_cmpfloat_with_epsilon(histogram_percentile(&h, 50), 1536, 1e-6);
    g_assert_cmpfloat_with_epsilon(histogram_percentile(&h, 100), 2048, 1e-6);
    h.bucket[20] = 1;
    /* 101 in all: rank 50.5 is in the first bucket, 99.99 too, 100.1 not */
    g_assert_cmpfloat(histogram_percentile(&h, 99), <, 2048);
    g_assert_cmpfloat(histogram_percentile(&h, 99.9), >, 1 << 20);
    g_assert_cmpfloat(histogram_percentile(&h, 99.9), <=, 2 << 20);
    memset(&h, 0, sizeof(h));
    h.bucket[0] = 2; /* 0 and 1 ns */
    g_assert_cmpfloat_with_epsilon(histogram_percentile(&h, 50), 1, 1e-6);
    memset(&h, 0, sizeof(h));
    h.bucket[HISTOGRAM_BUCKETS - 1] = UINT64_C(1) << 62;
    g_assert_cmpfloat(histogram_percentile(&h, 99), <=,
                      (double)(UINT64_C(1) << HISTOGRAM_BUCKETS));
    /* they never fall, and each lies in the bucket that holds its rank */
    for (unsigned round = 0; round < 200; round++) {
        double last = 0;

        memset(&h, 0, sizeof(h));
        for (unsigned i = 0; i < 6; i++) {
            h.bucket[g_test_rand_int_range(0, HISTOGRAM_BUCKETS)] +=
                (uint64_t)g_test_rand_int_range(1, 1000);
        }
        for (int p = 1; p <= 100; p++) {
            double v = histogram_percentile(&h, p);
            uint64_t below = 0;
            unsigned b = 0;

            g_assert_cmpfloat(v, >=, last);
            for (; (double)(UINT64_C(2) << b) < v; b++) {
                below += h.bucket[b];
            }
            g_assert_cmpfloat((double)below, <=,
                              p / 100.0 * (double)histogram_count(&h));
            last = v;
        }
    }
}

static void test_subtract_histogram(void)
{
    struct histogram a = { { 1, 2, 3 } }, b = { { 5, 2, 1 } };

    histogram_subtract(&b, &a);
    g_assert_cmpuint(b.bucket[0], ==, 4);
    g_assert_cmpuint(b.bucket[1], ==, 0);
    g_assert_cmpuint(b.bucket[2], ==, 1); /* it began anew */
    g_assert_cmpuint(histogram_count(&b), ==, 5);
}

static void test_format_ns(void)
{
    static const struct {
        double ns;
        const char *text;
    } cases[] = {
        { -1, "-" },         { 0, "0 ns" },        { 999, "999 ns" },
        { 1024, "1.02 us" }, { 12345, "12.3 us" }, { 123456, "123 us" },
        { 999600, "1.00 ms" }, { 5e9, "5.00 s" },  { 5e12, "5000 s" },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *text = format_ns(cases[i].ns);

        g_assert_cmpstr(text, ==, cases[i].text);
    }
}

/* ---- samples ---- */

/* Two nodes; of node 0 in the memory of node 1: @reads, and @hot pages. */
static char *stats_text(unsigned reads, unsigned messages, const char *hot)
{
    return g_strdup_printf(
        "{\"name\":\"m\",\"nodes\":["
        "{\"index\":0,\"name\":\"x86\",\"dsm\":{\"node\":0,"
        "\"coherence\":\"dsm\",\"nodes\":[{\"name\":\"x86\",\"region\":"
        "{\"page-size\":4096}},{\"name\":\"arm\",\"messages-sent\":%u,"
        "\"bytes-sent\":%u,\"region\":{\"page-size\":4096,\"read-faults\":%u,"
        "\"pages-received\":%u,\"read-ns\":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,%u],"
        "\"heat\":{\"faults\":%u,\"range-pages\":512,\"ranges\":[0,0,0,%u],"
        "\"pages\":[%s]}}}]}},"
        "{\"index\":1,\"name\":\"arm\",\"dsm\":{\"node\":1,"
        "\"coherence\":\"dsm\",\"nodes\":[{\"name\":\"x86\",\"region\":"
        "{\"page-size\":4096}},{\"name\":\"arm\",\"region\":"
        "{\"page-size\":4096,\"pages-sent\":%u}}]}}]}",
        messages, 100 * messages, reads, reads, reads, reads, reads, hot,
        reads);
}

static JsonNode *stats(unsigned reads, unsigned messages, const char *hot)
{
    g_autofree char *text = stats_text(reads, messages, hot);
    JsonNode *node = json_from_string(text, NULL);

    g_assert_nonnull(node);
    return node;
}

static struct sample *sample(double t, unsigned reads, unsigned messages,
                             const char *hot)
{
    g_autoptr(JsonNode) node = stats(reads, messages, hot);
    g_autoptr(GError) error = NULL;
    struct sample *s = sample_parse(json_node_get_object(node), t, &error);

    g_assert_no_error(error);
    g_assert_nonnull(s);
    return s;
}

#define HOT(page, faults, writes, missed)                     \
    "{\"page\":" #page ",\"faults\":" #faults ",\"writes\":" \
    #writes ",\"missed\":" #missed "}"

static void test_interval(void)
{
    g_autoptr(Sample) a =
        sample(10, 100, 7, HOT(1600, 40, 0, 0) "," HOT(1601, 30, 30, 2) ","
                           HOT(1602, 5, 0, 9) "," HOT(1603, 8, 1, 0));
    g_autoptr(Sample) b =
        sample(12, 400, 9, HOT(1600, 90, 10, 0) "," HOT(1601, 3, 1, 50) ","
                           HOT(1602, 5, 0, 9) "," HOT(1700, 20, 20, 9));
    g_autoptr(GArray) spots = NULL;
    struct histogram h;
    const struct hot_spot *s;

    g_assert_true(sample_subtract(b, a));
    g_assert_cmpfloat(b->t, ==, 2);
    g_assert_cmpuint(node_counter(b, 0, REGION_READS), ==, 300);
    g_assert_cmpuint(node_counter(b, 1, REGION_READS), ==, 0);
    g_assert_cmpuint(node_bytes(b, 0, true), ==, 300 * 4096);
    g_assert_cmpuint(node_bytes(b, 0, false), ==, 200);
    g_assert_cmpuint(node_bytes(b, 1, false), ==, 300 * 4096);
    node_latency(b, 0, LATENCY_READ, &h);
    g_assert_cmpuint(histogram_count(&h), ==, 300);
    g_assert_cmpuint(h.bucket[14], ==, 300);
    g_assert_cmpuint(b->node[0].region[1].range[3], ==, 300);

    /* stayed: the difference; came back: all; the same: not at all */
    spots = sample_hot_spots(b, 10);
    g_assert_cmpuint(spots->len, ==, 3);
    s = &g_array_index(spots, struct hot_spot, 0);
    g_assert_cmpuint(s->page.page, ==, 1600);
    g_assert_cmpuint(s->page.faults, ==, 50);
    g_assert_cmpuint(s->page.writes, ==, 10);
    g_assert_cmpuint(s->node, ==, 0);
    g_assert_cmpuint(s->owner, ==, 1);
    g_assert_cmpuint(s[1].page.page, ==, 1700);
    g_assert_cmpuint(s[1].page.faults, ==, 20);
    g_assert_cmpuint(s[2].page.page, ==, 1601);
    g_assert_cmpuint(s[2].page.faults, ==, 3);
}

/* A node that is down in one of the two has no difference. */
static void test_interval_of_lost_node(void)
{
    static const char text[] =
        "{\"nodes\":[{\"name\":\"x86\",\"error\":\"node is down: \\u001b[1m\"},"
        "{\"name\":\"arm\",\"dsm\":{}}]}";
    g_autoptr(JsonNode) node = json_from_string(text, NULL);
    g_autoptr(Sample) a = sample(1, 5, 5, "");
    g_autoptr(Sample) b = sample_parse(json_node_get_object(node), 2, NULL);

    g_assert_nonnull(b);
    g_assert_cmpstr(b->node[0].error, ==, "node is down: ");
    g_assert_true(sample_subtract(b, a));
    g_assert_cmpuint(b->node[0].link[LINK_MESSAGES_OUT], ==, 0);
    g_assert_cmpuint(node_counter(b, 0, REGION_READS), ==, 0);
}

static void test_bad_samples(void)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        { "{}", "'nodes' is not a list of 1 to 64 nodes" },
        { "{\"nodes\":{}}", "'nodes' is not a list" },
        { "{\"nodes\":[7]}", "'nodes' is not a list of objects" },
        { "{\"nodes\":[{\"name\":7}]}", "'name' is not a text" },
        { "{\"nodes\":[{\"dsm\":[]}]}", "'dsm' is not an object" },
        { "{\"nodes\":[{\"dsm\":{\"nodes\":[{},{}]}}]}",
          "'nodes' is not as long as the machine has nodes" },
        { "{\"nodes\":[{\"dsm\":{\"nodes\":[{\"messages-sent\":-1}]}}]}",
          "'messages-sent' is not a count" },
        { "{\"nodes\":[{\"dsm\":{\"nodes\":[{\"region\":"
          "{\"upgrades\":1.5}}]}}]}",
          "'upgrades' is not a count" },
        { "{\"nodes\":[{\"dsm\":{\"nodes\":[{\"region\":"
          "{\"read-ns\":[1,\"x\"]}}]}}]}",
          "'read-ns' is not a list of counts" },
        { "{\"nodes\":[{\"dsm\":{\"nodes\":[{\"region\":{\"write-ns\":"
          "[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,"
          "0,0,0,0,0,0,0,0]}}]}}]}",
          "'write-ns' is not a list of the right length" },
        { "{\"nodes\":[{\"dsm\":{\"nodes\":[{\"region\":{\"heat\":"
          "{\"pages\":[3]}}}]}}]}",
          "'pages' is not a list of objects" },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(JsonNode) node = json_from_string(cases[i].text, NULL);
        g_autoptr(GError) error = NULL;

        g_assert_null(sample_parse(json_node_get_object(node), 0, &error));
        g_assert_error(error, CHIMERA_ERROR, CHIMERA_ERROR_PROTO);
        g_assert_cmpstr(error->message, ==, cases[i].message);
    }
}

static void test_other_machine(void)
{
    static const char text[] = "{\"nodes\":[{\"name\":\"x86\"},{\"name\":"
                               "\"riscv\"}]}";
    g_autoptr(JsonNode) node = json_from_string(text, NULL);
    g_autoptr(Sample) a = sample(1, 5, 5, "");
    g_autoptr(Sample) b = sample_parse(json_node_get_object(node), 2, NULL);

    g_assert_false(sample_subtract(b, a));
}

/* ---- names ---- */

static void test_names(void)
{
    g_autoptr(GHashTable) pages =
        g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    g_autoptr(GHashTable) segments =
        g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    static const struct {
        const char *at_home, *home, *text;
    } cases[] = {
        { "relay[97]", NULL, "relay[97]" },
        { "relay[97]", "x86", "relay[97], on x86" },
        { "kernel: slab", "x86", "kernel: slab, on x86" },
        { "segment s: a[1]", NULL, "segment s: a[1]" },
        { "segment s: a[1]", "x86", "segment s: b[2], c[3]" },
        { "segment other: a[1]", "x86", "segment other" },
    };

    names_parse("10 relay[97]\n\n-3 no\n11\n12 \x1b[31mred\n"
                "segment s: b[2], c[3]\nsegment without\n99999999999999999999 x",
                pages, segments);
    g_assert_cmpuint(g_hash_table_size(pages), ==, 2);
    g_assert_cmpstr(g_hash_table_lookup(pages, "10"), ==, "relay[97]");
    g_assert_cmpuint(g_hash_table_size(segments), ==, 1);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *text =
            names_text(cases[i].at_home, cases[i].home, segments);

        g_assert_cmpstr(text, ==, cases[i].text);
    }
}

/* ---- top ---- */

static const char *who(unsigned node, unsigned owner, uint64_t page,
                       void *opaque)
{
    return node == 0 && owner == 1 && page == 1600 ? "segment s: pong[7]" : NULL;
}

static void test_top(void)
{
    g_autoptr(Sample) a = sample(1, 100, 0, HOT(1600, 1, 0, 0));
    g_autoptr(Sample) b =
        sample(3, 300, 10, HOT(1600, 101, 50, 0) "," HOT(1601, 20, 20, 0));
    g_autoptr(GString) out = g_string_new(NULL);

    g_assert_true(sample_subtract(b, a));
    top_render(b, "m", "12:00:00", who, NULL, out);
    g_assert_true(g_str_has_prefix(
        out->str, "m: 2 nodes, coherence dsm, 12:00:00, the last 2.0 s\n"));
    g_assert_true(g_regex_match_simple(
        "\n  x86 +100 +- +- +0\\.4 +0\\.00[01] +- +- +- +- +5\\.0\n", out->str, 0,
        0));
    g_assert_true(g_regex_match_simple(
        "\n  x86 +24\\.[0-9] us +32\\.[0-9] us +- +- +- +-\n", out->str, 0, 0));
    g_assert_true(g_regex_match_simple(
        "\n  x86 +arm +1600 +50 +50 % +segment s: pong\\[7\\]\n"
        "  x86 +arm +1601 +10 +100 % +-\n",
        out->str, 0, 0));
}

static void test_top_shared(void)
{
    static const char text[] =
        "{\"nodes\":[{\"name\":\"x86\",\"dsm\":{\"coherence\":\"shared\","
        "\"nodes\":[{},{\"messages-sent\":50}]}},"
        "{\"name\":\"arm\",\"error\":\"node is down: gone\"}]}";
    g_autoptr(JsonNode) node = json_from_string(text, NULL);
    g_autoptr(Sample) s = sample_parse(json_node_get_object(node), 2, NULL);
    g_autoptr(GString) out = g_string_new(NULL);

    top_render(s, "m", "now", who, NULL, out);
    g_assert_nonnull(strstr(out->str, "coherence shared"));
    g_assert_nonnull(strstr(out->str, "there are no page faults between them"));
    g_assert_nonnull(strstr(out->str, "  node arm: node is down: gone\n"));
    g_assert_true(g_regex_match_simple("\n  x86 +25 +- ", out->str, 0, 0));
    g_assert_null(strstr(out->str, "hottest"));
}

/* ---- recordings ---- */

struct files {
    char *dir, *path;
};

static void files_set_up(struct files *f, gconstpointer data)
{
    f->dir = g_dir_make_tmp("monitor-XXXXXX", NULL);
    f->path = g_build_filename(f->dir, "run.jsonl", NULL);
}

static void files_tear_down(struct files *f, gconstpointer data)
{
    g_remove(f->path);
    g_assert_cmpint(g_rmdir(f->dir), ==, 0); /* nothing else is left there */
    g_free(f->path);
    g_free(f->dir);
}

static struct recording_writer *begin(const char *path, uint64_t max_bytes)
{
    g_autoptr(JsonNode) machine = json_from_string(
        "{\"name\":\"m<&>\",\"coherence\":\"dsm\",\"nodes\":[{\"name\":\"x86\","
        "\"isa\":\"x86_64\",\"cpus\":2,\"memory_bytes\":1073741824}]}",
        NULL);
    g_autoptr(GError) error = NULL;
    struct recording_writer *w = recording_create(path, max_bytes, &error);

    g_assert_no_error(error);
    g_assert_true(recording_begin(w, machine, "2026-01-02", &error));
    return w;
}

static void add_sample(struct recording_writer *w, unsigned i)
{
    g_autoptr(JsonNode) node = stats(i * 10, i, HOT(1600, 5, 1, 0) ","
                                                HOT(1601, 0, 0, 0));
    g_autoptr(JsonNode) line = recording_sample(node, i * 1000);
    g_autoptr(GError) error = NULL;

    g_assert_true(recording_add(w, line, &error));
    g_assert_no_error(error);
}

static void add_name(struct recording_writer *w, const char *text)
{
    g_autoptr(JsonArray) names = json_array_new();
    g_autoptr(JsonNode) line = NULL;
    JsonObject *o = json_object_new();

    json_object_set_int_member(o, "node", 0);
    json_object_set_int_member(o, "owner", 1);
    json_object_set_int_member(o, "page", 1600);
    json_object_set_string_member(o, "who", text);
    json_array_add_object_element(names, o);
    line = recording_names(names, 1);
    g_assert_true(recording_add(w, line, NULL));
}

/* Times of the samples in @path; all of them parse. */
static GArray *times(const char *path)
{
    GArray *ms = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    g_autoptr(GError) error = NULL;
    struct recording *r = recording_open(path, false, &error);
    JsonObject *line;
    uint64_t at;

    g_assert_no_error(error);
    while ((line = recording_next(r, &at, &error))) {
        if (json_object_has_member(line, "nodes")) {
            g_autoptr(Sample) s = sample_parse(line, 0, &error);

            g_assert_no_error(error);
            g_assert_cmpuint(s->node[0].region[1].counter[REGION_READS], ==,
                             at / 100);
            g_assert_cmpuint(s->node[1].region[1].counter[REGION_PAGES_OUT], ==,
                             at / 100);
            g_assert_cmpuint(s->node[0].region[1].range[3], ==, at / 100);
            g_array_append_val(ms, at);
        }
    }
    g_assert_no_error(error);
    recording_free(r);
    return ms;
}

static void test_recording(struct files *f, gconstpointer data)
{
    struct recording_writer *w = begin(f->path, RECORDING_MAX_BYTES);
    g_autoptr(GArray) ms = NULL;

    add_sample(w, 0);
    add_name(w, "a \"nodes\": b");
    for (unsigned i = 1; i < 5; i++) {
        add_sample(w, i);
    }
    recording_close(w);
    ms = times(f->path);
    g_assert_cmpuint(ms->len, ==, 5);
    g_assert_cmpuint(g_array_index(ms, uint64_t, 4), ==, 4000);
}

/* It never grows beyond its bound, and what is left is spread evenly. */
static void test_thinning(struct files *f, gconstpointer data)
{
    enum { MAX = 20000 };
    struct recording_writer *w = begin(f->path, MAX);
    unsigned taken = 0;

    add_name(w, "somebody");
    for (unsigned i = 0; i < 1000; i++) {
        g_autoptr(GArray) ms = NULL;
        GStatBuf st;

        if (i % recording_every(w)) {
            continue;
        }
        add_sample(w, i);
        taken++;
        g_assert_cmpint(g_stat(f->path, &st), ==, 0);
        g_assert_cmpint(st.st_size, <=, MAX);
        ms = times(f->path);
        g_assert_cmpuint(g_array_index(ms, uint64_t, 0), ==, 0);
        g_assert_cmpuint(g_array_index(ms, uint64_t, ms->len - 1), ==,
                         i * 1000);
        for (unsigned k = 1; k + 1 < ms->len; k++) {
            g_assert_cmpuint(g_array_index(ms, uint64_t, k) -
                                 g_array_index(ms, uint64_t, k - 1), <=,
                             1000 * recording_every(w));
        }
    }
    g_assert_cmpuint(recording_every(w), >=, 8);
    g_assert_cmpuint(taken, <, 300);
    recording_close(w);
}

/* A bound that not even one sample fits into ends it with an error. */
static void test_full(struct files *f, gconstpointer data)
{
    struct recording_writer *w = begin(f->path, 400);
    g_autoptr(JsonNode) node = stats(1, 1, "");
    g_autoptr(JsonNode) line = recording_sample(node, 0);
    g_autoptr(GError) error = NULL;

    g_assert_false(recording_add(w, line, &error));
    g_assert_error(error, CHIMERA_ERROR, CHIMERA_ERROR_STATE);
    recording_close(w);
}

static void test_not_a_file(struct files *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *message =
        g_strdup_printf("cannot record to %s: it is not a regular file",
                        "/dev/null");

    g_assert_null(recording_create("/dev/null", 1000, &error));
    g_assert_cmpstr(error->message, ==, message);
    g_clear_error(&error);
    g_assert_null(recording_create(f->dir, 1000, &error));
    g_assert_error(error, CHIMERA_ERROR, CHIMERA_ERROR_HOST);
}

#define HEAD "{\"chimera-recording\":1,\"machine\":{\"coherence\":\"dsm\"}}\n"
#define NODES "\"nodes\":[{\"name\":\"x86\",\"dsm\":{}}]"

static void test_bad_recordings(struct files *f, gconstpointer data)
{
    static const struct {
        const char *text, *message; /* after the path */
    } cases[] = {
        { "", " is empty: a recording begins when its machine is up" },
        { "\x7f" "ELF", " is not a recording of 'chimera run --record': " },
        { "{}\n", " is not a recording of 'chimera run --record': its first "
                  "line does not say so" },
        { "[1]\n", " is not a recording of 'chimera run --record': " },
        { "{\"chimera-recording\":2,\"machine\":{}}\n",
          " is a recording of version 2, this chimera reads version 1" },
        { "{\"chimera-recording\":1}\n", ":1: 'machine' is not an object" },
        { HEAD, ":1: no sample in it: the machine ended before the first one" },
        { HEAD "{\"ms\":0," NODES "}\n{\"ms\":1000,\"no",
          ":3: the file is cut off in this line; the first 2 lines alone are "
          "whole" },
        { HEAD "{\"ms\":0," NODES "}", ":2: the file is cut off in this line" },
        { HEAD "{\"ms\":\"0\"," NODES "}\n", ":2: 'ms' is not a time" },
        { HEAD "{\"ms\":-1," NODES "}\n", ":2: 'ms' is not a time" },
        { HEAD "{" NODES "}\n", ":2: 'ms' is not a time" },
        { HEAD "{\"ms\":0}\n", ":2: neither a sample nor a list of names" },
        { HEAD "{\"ms\":0,\"names\":[1]}\n",
          ":2: 'names' is not a list of objects" },
        { HEAD "{\"ms\":0,\"nodes\":[{\"name\":1}]}\n",
          ":2: 'name' is not a text" },
        { HEAD "nonsense\n", ":2: not JSON: " },
        { HEAD "{\"ms\":0," NODES "}\n\xff\n", ":3: this is not text" },
        { HEAD "{\"ms\":9," NODES "}\n{\"ms\":8," NODES "}\n",
          ":3: it is earlier than the line before" },
        { HEAD "{\"ms\":0," NODES "}\n{\"ms\":8,\"nodes\":[{\"name\":\"y\"}]}\n",
          ":3: it has other nodes than those before" },
    };
    g_autoptr(GError) error = NULL;
    g_autoptr(GString) deep = g_string_new(HEAD);

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *html = NULL, *message =
            g_strconcat(f->path, cases[i].message, NULL);
        struct recording *r;

        g_assert_true(g_file_set_contents(f->path, cases[i].text, -1, NULL));
        r = recording_open(f->path, false, &error);
        html = r ? report_html(r, &error) : NULL;
        g_assert_null(html);
        g_assert_nonnull(error);
        if (!g_str_has_prefix(error->message, message)) {
            g_assert_cmpstr(error->message, ==, message);
        }
        g_clear_error(&error);
        recording_free(r);
    }
    for (unsigned i = 0; i < 1000000; i++) {
        g_string_append_c(deep, '[');
    }
    g_string_append_c(deep, '\n');
    g_assert_true(g_file_set_contents(f->path, deep->str, -1, NULL));
    {
        struct recording *r = recording_open(f->path, false, &error);
        g_autofree char *html = report_html(r, &error);

        g_assert_null(html);
        g_assert_true(g_str_has_suffix(error->message, ":2: nested too deeply"));
        recording_free(r);
    }
}

/* The last line of a file that is being written may not be whole yet. */
static void test_growing(struct files *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    struct recording *r;
    uint64_t ms;

    g_assert_true(g_file_set_contents(
        f->path, HEAD "{\"ms\":0," NODES "}\n{\"ms\":1000,\"no", -1, NULL));
    r = recording_open(f->path, true, &error);
    g_assert_no_error(error);
    g_assert_nonnull(recording_next(r, &ms, &error));
    g_assert_null(recording_next(r, &ms, &error));
    g_assert_no_error(error);
    recording_free(r);
}

/* ---- pages of HTML ---- */

struct counts {
    unsigned svgs, tables, sections;
    GString *text;
};

/* No coordinate is left of or above the drawing, or far outside of it. */
static void check_numbers(const char *value)
{
    g_auto(GStrv) words = g_regex_split_simple("[^-0-9.]+", value, 0, 0);

    g_assert_null(strstr(value, "nan"));
    g_assert_null(strstr(value, "inf"));
    for (char **w = words; *w; w++) {
        g_assert_cmpfloat(g_ascii_strtod(*w, NULL), >, -1);
        g_assert_cmpfloat(g_ascii_strtod(*w, NULL), <, 2000);
    }
}

static void on_element(GMarkupParseContext *c, const char *name,
                       const char **names, const char **values, gpointer data,
                       GError **error)
{
    struct counts *n = data;

    n->svgs += !strcmp(name, "svg");
    n->tables += !strcmp(name, "table");
    n->sections += !strcmp(name, "h2");
    for (; *names; names++, values++) {
        /* nothing is fetched from anywhere */
        g_assert_true(strcmp(*names, "src") != 0);
        g_assert_true(strcmp(*names, "href") != 0 || **values == '#');
        if (strchr("xydwh", **names) && strcmp(*names, "xmlns") != 0 &&
            strcmp(*names, "href") != 0) {
            check_numbers(*values);
        }
    }
}

static void on_text(GMarkupParseContext *c, const char *text, gsize len,
                    gpointer data, GError **error)
{
    g_string_append_len(((struct counts *)data)->text, text, (gssize)len);
}

static void check_page(const char *html, struct counts *ret)
{
    static const GMarkupParser parser = { .start_element = on_element,
                                          .text = on_text };
    g_autoptr(GMarkupParseContext) c = NULL;
    g_autoptr(GError) error = NULL;

    *ret = (struct counts){ .text = g_string_new(NULL) };
    c = g_markup_parse_context_new(&parser, 0, ret, NULL);
    g_markup_parse_context_parse(c, html, -1, &error);
    g_assert_no_error(error);
    g_markup_parse_context_end_parse(c, &error);
    g_assert_no_error(error);
    g_assert_null(strstr(html, "http://www.w3.org/1999/xlink"));
    g_assert_null(strstr(html, "<script"));
    g_assert_null(strstr(html, "url("));
}

static void test_html(void)
{
    static const char *const heads[] = { "Na<me", ">Number", NULL };
    static const char nasty[] = "<b>&\"'\x01\x1b\x7f\xff]]>\xef\xbf\xbf";
    struct html_table *t = html_table_new(heads, nasty);
    g_autoptr(GString) out = g_string_new(NULL);
    struct counts n;

    html_begin(out, nasty);
    html_section(out, "one", nasty);
    html_heading(out, "%s", nasty);
    html_note(out, "%s", nasty);
    for (unsigned i = 0; i < 3; i++) {
        html_cell(t, "%s", nasty);
        html_cell(t, "%u", i);
    }
    html_table_end(t, out);
    html_table_end(html_table_new(heads, NULL), out); /* leaves nothing */
    html_end(out);
    check_page(out->str, &n);
    g_assert_cmpuint(n.tables, ==, 1);
    g_assert_nonnull(strstr(n.text->str, "<b>&\"'\xef\xbf\xbd]]>"));
    g_string_free(n.text, TRUE);
}

static void test_html_count(void)
{
    static const struct {
        double v;
        const char *text;
    } cases[] = { { 0, "0" },
                  { 999, "999" },
                  { 1000, "1\u202f000" },
                  { 1234567, "1\u202f234\u202f567" },
                  { -123456, "-123\u202f456" } };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *text = html_count(cases[i].v);

        g_assert_cmpstr(text, ==, cases[i].text);
    }
}

/* Every path of a plot stays inside of it, whatever the data. */
static void test_plots(void)
{
    static const double x[] = { 0, 1, 2, 50 };
    static const double sets[][3] = {
        { 0, 0, 0 },       { 1, 2, 3 },          { 1e-9, 0, 1e-12 },
        { 1e18, 1, 0 },    { 0.1, 1e300, 5 },    { 999.9, 1000, 1001 },
    };
    static const char *const labels[] = { "<a>", "b", "c" };
    struct plot_line lines[20];

    for (unsigned i = 0; i < G_N_ELEMENTS(sets); i++) {
        g_autoptr(GString) out = g_string_new("<d>");
        struct counts n;

        for (unsigned k = 0; k < G_N_ELEMENTS(lines); k++) {
            lines[k] = (struct plot_line){ "line & long name", sets[i] };
        }
        plot_lines(out, "Lines", "1/s", x, 3, lines, G_N_ELEMENTS(lines));
        plot_lines(out, "A point", "1/s", x, 1, lines, 1);
        plot_lines(out, "Nothing", "1/s", x, 0, lines, 1);
        plot_bars(out, "Bars", "count", labels, 3, lines, 2);
        plot_map(out, "Map", "1/s", x, 3, labels, 1, sets[i]);
        plot_map(out, "Column", "1/s", x, 1, labels, 3, sets[i]);
        g_string_append(out, "</d>");
        check_page(out->str, &n);
        g_assert_cmpuint(n.svgs, ==, i == 0 ? 3 : 6);
        g_string_free(n.text, TRUE);
    }
}

static void test_report(struct files *f, gconstpointer data)
{
    static const char *const parts[] = {
        "Run of machine m<&>", "Configuration",  "Traffic",
        "Page heat",           "Latency",        "Prefetch",
        "Messages",            "Memory of arm",  "segment s: pong[7]",
        "1G",                  "The hottest pages",
    };
    struct recording_writer *w = begin(f->path, RECORDING_MAX_BYTES);
    g_autoptr(GError) error = NULL;
    g_autofree char *html = NULL;
    struct recording *r;
    struct counts n;

    for (unsigned i = 0; i < 300; i++) {
        g_autofree char *hot = g_strdup_printf(
            "{\"page\":1600,\"faults\":%u,\"writes\":%u}", 10 * i, 5 * i);
        g_autoptr(JsonNode) node = stats(i * 10, i, hot);
        g_autoptr(JsonNode) line = recording_sample(node, i * 1000);

        g_assert_true(recording_add(w, line, &error));
    }
    add_name(w, "segment s: pong[7]");
    recording_close(w);
    r = recording_open(f->path, false, &error);
    g_assert_no_error(error);
    html = report_html(r, &error);
    g_assert_no_error(error);
    recording_free(r);
    check_page(html, &n);
    for (unsigned i = 0; i < G_N_ELEMENTS(parts); i++) {
        if (!strstr(n.text->str, parts[i])) {
            g_error("'%s' is missing", parts[i]);
        }
    }
    g_assert_cmpuint(n.sections, ==, 6);
    g_assert_cmpuint(n.svgs, >=, 6);
    g_assert_cmpuint(n.tables, >=, 6);
    /* 2990 reads in all, each of the bucket from 16.4 us */
    g_assert_nonnull(strstr(n.text->str, "2\u202f990"));
    g_assert_nonnull(strstr(n.text->str, "16.4 us"));
    g_string_free(n.text, TRUE);
}

static void test_report_of_one_sample(struct files *f, gconstpointer data)
{
    struct recording_writer *w = begin(f->path, RECORDING_MAX_BYTES);
    g_autofree char *html = NULL;
    g_autoptr(GError) error = NULL;
    struct recording *r;
    struct counts n;

    add_sample(w, 3);
    recording_close(w);
    r = recording_open(f->path, false, &error);
    html = report_html(r, &error);
    g_assert_no_error(error);
    recording_free(r);
    check_page(html, &n);
    g_assert_cmpuint(n.sections, ==, 6);
    g_assert_nonnull(strstr(n.text->str, "a single sample"));
    g_string_free(n.text, TRUE);
}

#define FILES(name, test)                                               \
    g_test_add(name, struct files, NULL, files_set_up, test, \
               files_tear_down)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/histogram/percentiles", test_percentiles);
    g_test_add_func("/histogram/subtract", test_subtract_histogram);
    g_test_add_func("/histogram/format", test_format_ns);
    g_test_add_func("/sample/interval", test_interval);
    g_test_add_func("/sample/lost-node", test_interval_of_lost_node);
    g_test_add_func("/sample/bad", test_bad_samples);
    g_test_add_func("/sample/other-machine", test_other_machine);
    g_test_add_func("/names", test_names);
    g_test_add_func("/top/dsm", test_top);
    g_test_add_func("/top/shared", test_top_shared);
    FILES("/recording/lines", test_recording);
    FILES("/recording/thinning", test_thinning);
    FILES("/recording/full", test_full);
    FILES("/recording/not-a-file", test_not_a_file);
    FILES("/recording/bad", test_bad_recordings);
    FILES("/recording/growing", test_growing);
    g_test_add_func("/html/texts", test_html);
    g_test_add_func("/html/count", test_html_count);
    g_test_add_func("/html/plots", test_plots);
    FILES("/report/whole", test_report);
    FILES("/report/one-sample", test_report_of_one_sample);
    return g_test_run();
}
