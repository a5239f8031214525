/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * compute: kernels inside a node of a machine against the same kernels in a
 * stock QEMU of the same build with plain RAM, on each ISA. The two run at the
 * same time, and compute in turn, a round each: a host that slows down slows
 * both, so the ratio is that of rounds that were neighbours. Pairs are
 * measured on several boots, for where memory and code happen to lie differs
 * from one to the next. The goal is for computing; what the first touch of
 * memory costs is shown beside it.
 */
#include "bench.h"

#include <stdio.h>
#include <string.h>

#define COMPUTE_GOAL 1.02
#define COMPUTE_TIMEOUT_S 120
#define COMPUTE_ROUNDS 8    /* pairs a boot */
#define NR_KERNELS 4

struct side {
    struct bench_dialogue *dialogue;
    GArray *seconds[NR_KERNELS];
    char checksum[16];      /* of the last round */
};

static const struct {
    const char *name;
    double goal;    /* 0: none */
} kernels[NR_KERNELS] = {
    { "integer", COMPUTE_GOAL },
    { "triad", COMPUTE_GOAL },
    { "chase", COMPUTE_GOAL },
    { "touch", 0 },
};

static void side_start(struct side *side, const char *const *argv)
{
    g_autofree char *line = NULL;
    g_autoptr(GError) error = NULL;

    side->dialogue = bench_dialogue_start(argv, &error);
    bench_check(error);
    line = bench_dialogue_ask(side->dialogue, NULL, "compute ready",
                              COMPUTE_TIMEOUT_S, &error);
    bench_check(g_steal_pointer(&error));
}

/* @keep: not the first round of a boot, which fills arrays and caches. */
static void side_round(struct side *side, int k, gboolean keep)
{
    g_autofree char *prefix = g_strconcat("compute ", kernels[k].name, " ",
                                          NULL);
    g_autofree char *line = NULL;
    g_autoptr(GError) error = NULL;
    double seconds;

    line = bench_dialogue_ask(side->dialogue, kernels[k].name, prefix,
                              COMPUTE_TIMEOUT_S, &error);
    if (line && sscanf(line + strlen(prefix), "%lf %15s", &seconds,
                       side->checksum) != 2) {
        g_set_error(&error, g_quark_from_static_string("bench"), 0,
                    "not a result: '%s'", line);
    }
    bench_check(g_steal_pointer(&error));
    if (keep) {
        g_array_append_val(side->seconds[k], seconds);
    }
}

static void measure(const struct bench_options *options, const char *isa,
                    const char *node)
{
    struct side ours = { 0 }, stock = { 0 };
    g_autofree char *chimera =
        g_build_filename(bench_prefix(), "bin", "chimera", NULL);
    g_autofree char *program = g_build_filename(
        bench_prefix(), "libexec", "chimera", "guest", isa, "compute", NULL);
    g_autofree char *share = g_path_get_dirname(program);
    const char *const run[] = {
        chimera, "run", "-q", "--name", "bench", "--share", share, "--node",
        node, options->config, "--", "./compute", NULL
    };
    g_auto(GStrv) plain = bench_stock_argv(
        isa, 2, "1G", share,
        "mkdir -p /s; mount -t 9p -o trans=virtio,version=9p2000.L share /s; "
        "/s/compute; poweroff -f");

    for (int k = 0; k < NR_KERNELS; k++) {
        ours.seconds[k] = g_array_new(FALSE, FALSE, sizeof(double));
        stock.seconds[k] = g_array_new(FALSE, FALSE, sizeof(double));
    }
    for (int boot = 0; boot < options->samples; boot++) {
        side_start(&ours, run);
        side_start(&stock, (const char *const *)plain);
        for (int i = -1; i < COMPUTE_ROUNDS; i++) {
            struct side *first = i & 1 ? &ours : &stock;
            struct side *second = i & 1 ? &stock : &ours;

            for (int k = 0; k < NR_KERNELS; k++) {
                side_round(first, k, i >= 0);
                side_round(second, k, i >= 0);
                if (!g_str_equal(ours.checksum, stock.checksum)) {
                    bench_check(g_error_new(
                        g_quark_from_static_string("bench"), 0,
                        "%s on %s: checksum %s in the node, %s in stock QEMU",
                        kernels[k].name, isa, ours.checksum, stock.checksum));
                }
            }
        }
        bench_dialogue_end(ours.dialogue, COMPUTE_TIMEOUT_S);
        /* Its console cannot be closed; it has nothing to lose. */
        bench_dialogue_end(stock.dialogue, 0);
    }
    for (int k = 0; k < NR_KERNELS; k++) {
        g_autofree char *kase = g_strdup_printf("%s-%s", isa,
                                                kernels[k].name);

        bench_emit(options, &(struct bench_figure) {
            .name = "compute",
            .kase = kase,
            .unit = "s",
            .samples = ours.seconds[k],
            .reference = BENCH_PEER,
            .reference_samples = stock.seconds[k],
            .goal = kernels[k].goal,
            .paired = TRUE,
        });
        g_array_unref(ours.seconds[k]);
        g_array_unref(stock.seconds[k]);
    }
}

int main(int argc, char **argv)
{
    struct bench_options options;

    bench_init(&argc, &argv,
               "Compute kernels in a node against a stock QEMU with plain "
               "RAM.", 5, &options);
    measure(&options, "x86_64", "x86");
    measure(&options, "aarch64", "arm");
    return 0;
}
