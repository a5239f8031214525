/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * threads: the same work by 1 to 8 threads of one process, half of them on
 * the other node, beside as many threads all at home, in turn on one machine.
 */
#include "bench.h"

#define THREADS_TIMEOUT_S 900

int main(int argc, char **argv)
{
    struct bench_options options;
    g_autoptr(GError) error = NULL;
    g_autofree char *output = NULL, *rounds = NULL;
    g_autofree char *chimera =
        g_build_filename(bench_prefix(), "bin", "chimera", NULL);
    g_autofree char *share = g_build_filename(
        bench_prefix(), "libexec", "chimera", "migrate", NULL);

    bench_init(&argc, &argv,
               "Work of 1 to 8 threads of one process on two nodes, beside "
               "all of them at home.", 9, &options);
    rounds = g_strdup_printf("%d", options.samples);
    output = bench_run((const char *const[]) {
        chimera, "run", "-q", "--name", "bench", "--share", share,
        options.config, "--", "./threads", "1", rounds, NULL
    }, THREADS_TIMEOUT_S, NULL, &error);
    bench_check(g_steal_pointer(&error));
    for (int nr = 1; nr <= 8; nr *= 2) {
        g_autofree char *kase = g_strdup_printf("%d", nr);
        g_autofree char *of_spread = g_strdup_printf("threads spread %d ", nr);
        g_autofree char *of_home = g_strdup_printf("threads home %d ", nr);
        g_autoptr(GArray) spread = g_array_new(FALSE, FALSE, sizeof(double));
        g_autoptr(GArray) home = g_array_new(FALSE, FALSE, sizeof(double));

        bench_collect(spread, output, of_spread, 1e9);
        bench_collect(home, output, of_home, 1e9);
        if (spread->len != (guint)options.samples || home->len != spread->len) {
            bench_check(g_error_new(g_quark_from_static_string("bench"), 0,
                                    "%u of %d samples:\n%s", spread->len,
                                    options.samples, output));
        }
        bench_emit(&options, &(struct bench_figure) {
            .name = "threads",
            .kase = kase,
            .unit = "s",
            .samples = spread,
            .reference = BENCH_PEER,
            .reference_samples = home,
            .paired = TRUE,
        });
    }
    return 0;
}
