/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * boot: a whole two-node machine from the command to its end, against two
 * stock QEMUs of the same build that boot the same kernels one after the
 * other, run uname and power off.
 */
#include "bench.h"

#define BOOT_GOAL 1.3
#define BOOT_TIMEOUT_S 120

static double stock_seconds(const char *isa)
{
    g_autoptr(GError) error = NULL;
    g_auto(GStrv) argv =
        bench_stock_argv(isa, 2, "1G", NULL, "uname -m; poweroff -f");
    g_autofree char *output = NULL;
    double seconds = 0;

    output = bench_run((const char *const *)argv, BOOT_TIMEOUT_S, &seconds,
                       &error);
    bench_check(error);
    if (!strstr(output, isa)) {
        g_set_error(&error, g_quark_from_static_string("bench"), 0,
                    "the stock %s machine did not say its name:\n%s", isa,
                    output);
        bench_check(error);
    }
    return seconds;
}

int main(int argc, char **argv)
{
    struct bench_options options;
    g_autoptr(GArray) ours = g_array_new(FALSE, FALSE, sizeof(double));
    g_autoptr(GArray) stock = g_array_new(FALSE, FALSE, sizeof(double));
    g_autofree char *chimera = NULL;

    bench_init(&argc, &argv,
               "Boot a machine, run lsnodes, shut it down; against two stock "
               "QEMUs booted in turn.",
               7, &options);
    chimera = g_build_filename(bench_prefix(), "bin", "chimera", NULL);
    for (int i = -1; i < options.samples; i++) {
        const char *const run[] = {
            chimera,   "run", "-q", "--name", "bench",
            options.config, "--",
            "/bin/sh", "-c",  "lsnodes; uname -m", NULL
        };
        g_autoptr(GError) error = NULL;
        g_autofree char *output = NULL;
        double seconds, stock_sum;

        output = bench_run(run, BOOT_TIMEOUT_S, &seconds, &error);
        bench_check(error);
        stock_sum = stock_seconds("x86_64") + stock_seconds("aarch64");
        if (i >= 0) { /* the first pair only warms the page cache */
            g_array_append_val(ours, seconds);
            g_array_append_val(stock, stock_sum);
        }
    }
    bench_emit(&options, &(struct bench_figure) {
        .name = "boot",
        .kase = "run-lsnodes",
        .unit = "s",
        .samples = ours,
        .reference = BENCH_PEER,
        .reference_samples = stock,
        .goal = BOOT_GOAL,
    });
    return 0;
}
