/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * compute: kernels inside a node of a machine against the same kernels in a
 * stock QEMU of the same build with plain RAM, on each ISA, in turn. The goal
 * is for computing; what the first touch of memory costs is shown beside it.
 */
#include "bench.h"

#include <stdio.h>
#include <string.h>

#define COMPUTE_GOAL 1.02
#define COMPUTE_TIMEOUT_S 240
#define NR_KERNELS 4

struct side {
    GArray *seconds[NR_KERNELS];
    char checksum[NR_KERNELS][16];
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

/* Picks the "compute NAME SECONDS CHECKSUM" lines out of a console. */
static void collect(struct side *side, const char *output, gboolean keep)
{
    g_auto(GStrv) lines = g_strsplit_set(output, "\r\n", -1);
    int found = 0;

    for (char **line = lines; *line; line++) {
        char name[16], checksum[16];
        double seconds;

        if (sscanf(*line, "compute %15s %lf %15s", name, &seconds,
                   checksum) != 3) {
            continue;
        }
        for (int k = 0; k < NR_KERNELS; k++) {
            if (g_str_equal(name, kernels[k].name)) {
                found++;
                g_strlcpy(side->checksum[k], checksum,
                          sizeof(side->checksum[k]));
                if (keep) {
                    g_array_append_val(side->seconds[k], seconds);
                }
            }
        }
    }
    if (found != NR_KERNELS) {
        bench_check(g_error_new(g_quark_from_static_string("bench"), 0,
                                "%d of %d kernels reported:\n%s", found,
                                NR_KERNELS, output));
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

    for (int k = 0; k < NR_KERNELS; k++) {
        ours.seconds[k] = g_array_new(FALSE, FALSE, sizeof(double));
        stock.seconds[k] = g_array_new(FALSE, FALSE, sizeof(double));
    }
    for (int i = -1; i < options->samples; i++) {
        const char *const run[] = {
            chimera, "run", "-q", "--name", "bench",
            "--share", share, "--node",
            node, options->config, "--", "./compute", NULL
        };
        g_auto(GStrv) plain = bench_stock_argv(
            isa, 2, "1G", share,
            "mkdir -p /s; mount -t 9p -o trans=virtio,version=9p2000.L share "
            "/s; /s/compute; poweroff -f");
        g_autoptr(GError) error = NULL;
        g_autofree char *a = NULL, *b = NULL;

        a = bench_run(run, COMPUTE_TIMEOUT_S, NULL, &error);
        bench_check(error);
        collect(&ours, a, i >= 0);
        b = bench_run((const char *const *)plain, COMPUTE_TIMEOUT_S, NULL,
                      &error);
        bench_check(error);
        collect(&stock, b, i >= 0);
        for (int k = 0; k < NR_KERNELS; k++) {
            if (!g_str_equal(ours.checksum[k], stock.checksum[k])) {
                bench_check(g_error_new(
                    g_quark_from_static_string("bench"), 0,
                    "%s on %s: checksum %s in the node, %s in stock QEMU",
                    kernels[k].name, isa, ours.checksum[k], stock.checksum[k]));
            }
        }
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
