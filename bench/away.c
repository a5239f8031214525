/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * first-touch, syscall, futex, migration: what it costs a thread of a process
 * at home on node 0 to be on node 1, each beside the round trip of a message
 * from user to user, measured in blocks in turn on the same machine. Which of
 * the four this is, its name says.
 */
#include "bench.h"

#define AWAY_TIMEOUT_S 300
#define BLOCKS 5
#define PORT "17"

struct away_case {
    const char *bench;
    const char *guest; /* bench/migrate/away.c's name of it */
    const char *kase;
    double goal;       /* over the round trip; 0: none */
};

static const struct away_case cases[] = {
    { "migration", "migration", "there-and-back", 3 },
    { "syscall", "syscall", "getppid", 1.5 },
    { "futex", "futex", "ping-pong", 0 },
    { "first-touch", "touch", "random", 0 },
    { "first-touch", "touch-run", "sequential", 0 },
};

static void measure(const struct bench_options *options,
                    const struct away_case *c)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *chimera =
        g_build_filename(bench_prefix(), "bin", "chimera", NULL);
    g_autofree char *share =
        g_build_filename(bench_prefix(), "libexec", "chimera", NULL);
    g_autofree char *script = g_strdup_printf(
        "onnode 1 guest/$(onnode 1 uname -m)/rtt serve " PORT " & "
        "rtt=guest/$(uname -m)/rtt; for i in $(seq %d); do "
        "$rtt user 1 " PORT " 100 && migrate/away %s 1 %d || exit; done; "
        "$rtt stop 1 " PORT " && wait",
        BLOCKS, c->guest, options->samples);
    const char *const run[] = {
        chimera, "run", "-q", "--name", "bench",
        "--share", share, options->config, "--",
        "/bin/sh", "-c", script, NULL
    };
    g_autofree char *output = bench_run(run, AWAY_TIMEOUT_S, NULL, &error);
    g_autofree char *prefix = g_strdup_printf("away %s ", c->guest);
    g_autoptr(GArray) samples = g_array_new(FALSE, FALSE, sizeof(double));
    g_autoptr(GArray) floor = g_array_new(FALSE, FALSE, sizeof(double));

    bench_check(error);
    bench_collect(samples, output, prefix, 1e3);
    bench_collect(floor, output, "rtt user ", 1e3);
    if (samples->len != (guint)options->samples * BLOCKS || !floor->len) {
        bench_check(g_error_new(g_quark_from_static_string("bench"), 0,
                                "%u of %d samples:\n%s", samples->len,
                                options->samples * BLOCKS, output));
    }
    bench_emit(options, &(struct bench_figure) {
        .name = c->bench,
        .kase = c->kase,
        .unit = "us",
        .samples = samples,
        .reference = BENCH_FLOOR,
        .reference_samples = floor,
        .goal = c->goal,
    });
}

int main(int argc, char **argv)
{
    struct bench_options options;
    g_autofree char *name = g_path_get_basename(argv[0]);

    bench_init(&argc, &argv,
               "What it costs a thread to be on another node, against a "
               "message there and back. --samples: of each of five blocks.",
               20, &options);
    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        if (g_str_equal(cases[i].bench, name)) {
            measure(&options, &cases[i]);
        }
    }
    return 0;
}
