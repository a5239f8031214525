/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * atomics: operations a second on words of one segment by one thread on each
 * of two nodes of different ISAs, against two threads on the first node.
 */
#include "bench.h"

#include <stdio.h>
#include <string.h>

#define ATOMICS_TIMEOUT_S 600
#define MILLISECONDS "500"

static const struct {
    const char *name, *op, *stride;
} cases[] = {
    { "add-same-word", "add", "0" },     { "add-same-line", "add", "8" },
    { "add-same-page", "add", "128" },   { "add-other-page", "add", "4096" },
    { "cas-same-word", "cas", "0" },     { "xchg-same-word", "xchg", "0" },
};

int main(int argc, char **argv)
{
    struct bench_options options;
    g_autoptr(GError) error = NULL;
    g_autoptr(GString) script = g_string_new(
        "H=./$(uname -m)/hammer; P=./$(onnode 1 uname -m)/hammer; ");
    g_autofree char *chimera = NULL, *guest = NULL, *output = NULL;
    g_auto(GStrv) lines = NULL;
    guint at = 0;

    bench_init(&argc, &argv,
               "Atomic operations on one segment by both ISAs, against two "
               "threads of one node.", 5, &options);
    chimera = g_build_filename(bench_prefix(), "bin", "chimera", NULL);
    guest = g_build_filename(bench_prefix(), "libexec", "chimera", "guest",
                             NULL);
    for (guint c = 0; c < G_N_ELEMENTS(cases); c++) {
        for (int i = 0; i < options.samples; i++) {
            g_string_append_printf(
                script,
                "onnode 1 $P h%u.%d follow & "
                "$H h%u.%d lead 2 %s %s " MILLISECONDS " || exit 1; wait; "
                "$H p%u.%d follow & "
                "$H p%u.%d lead 2 %s %s " MILLISECONDS " || exit 1; wait; ",
                c, i, c, i, cases[c].op, cases[c].stride, c, i, c, i,
                cases[c].op, cases[c].stride);
        }
    }
    {
        const char *const run[] = {
            chimera, "run", "-q", "--name", "bench",
            "--share", guest, options.config, "--",
            "/bin/sh", "-c", script->str, NULL
        };

        output = bench_run(run, ATOMICS_TIMEOUT_S, NULL, &error);
        bench_check(error);
    }
    lines = g_strsplit(output, "\n", -1);
    for (guint c = 0; c < G_N_ELEMENTS(cases); c++) {
        GArray *rate[2] = { g_array_new(FALSE, FALSE, sizeof(double)),
                            g_array_new(FALSE, FALSE, sizeof(double)) };

        for (int i = 0; i < 2 * options.samples; i++) {
            double operations, seconds, mops;

            if (!lines[at] || sscanf(lines[at], "hammer %lf %lf", &operations,
                                     &seconds) != 2) {
                bench_check(g_error_new(g_quark_from_static_string("bench"),
                                        0, "unexpected output:\n%s", output));
            }
            at++;
            mops = operations / seconds / 1e6;
            g_array_append_val(rate[i % 2], mops);
        }
        bench_emit(&options, &(struct bench_figure) {
            .name = "atomics",
            .kase = cases[c].name,
            .unit = "Mop/s",
            .samples = rate[0],
            .reference = BENCH_PEER,
            .reference_samples = rate[1],
            .bigger_is_better = TRUE,
        });
        g_array_unref(rate[0]);
        g_array_unref(rate[1]);
    }
    return 0;
}
