/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * threads: the same work by 1 to 8 threads of one process, half of them on
 * the other node, beside as many threads all at home, in turn on one machine.
 */
#include "bench.h"

#include <string.h>

#define THREADS_TIMEOUT_S 900

static GArray *collect(const char *output, const char *place, int nr)
{
    g_autofree char *prefix = g_strdup_printf("threads %s %d ", place, nr);
    GArray *seconds = g_array_new(FALSE, FALSE, sizeof(double));
    g_auto(GStrv) lines = g_strsplit(output, "\n", -1);

    for (char **line = lines; *line; line++) {
        if (g_str_has_prefix(*line, prefix)) {
            double sample = g_ascii_strtod(*line + strlen(prefix), NULL) / 1e9;

            g_array_append_val(seconds, sample);
        }
    }
    return seconds;
}

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
        g_autoptr(GArray) spread = collect(output, "spread", nr);
        g_autoptr(GArray) home = collect(output, "home", nr);

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
