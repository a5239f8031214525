/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * message: round trips from node 0 to node 1, kernel to kernel, by doorbell
 * and user to user, each beside its floor: a virtio queue kick that another
 * process answers by an eventfd. All four take turns in one guest program.
 */
#include "bench.h"

#define MESSAGE_GOAL 1.3
#define MESSAGE_TIMEOUT_S 300
#define PORT "17"

enum { KERNEL, DOORBELL, USER, ECHO, NR_KINDS };
static const char *const kinds[NR_KINDS] = {
    "kernel", "doorbell", "user", "echo"
};

static void emit(const struct bench_options *options, const char *kase,
                 GArray *samples, GArray *floor)
{
    g_autofree char *p50_case = g_strconcat(kase, "-p50", NULL);
    struct bench_figure figure = {
        .name = "message",
        .kase = p50_case,
        .unit = "us",
        .samples = samples,
        .reference = BENCH_FLOOR,
        .reference_samples = floor,
        .goal = MESSAGE_GOAL,
    };

    bench_emit(options, &figure);
    figure.kase = kase;
    bench_emit_p99(options, &figure);
}

int main(int argc, char **argv)
{
    struct bench_options options;
    GArray *us[NR_KINDS];
    g_autoptr(GError) error = NULL;
    g_autofree char *chimera = NULL, *guest = NULL, *script = NULL;
    g_autofree char *output = NULL;

    bench_init(&argc, &argv,
               "Message round trips between two nodes against a queue kick "
               "echoed by another process. --samples: thousands of each kind.",
               5, &options);
    for (int k = 0; k < NR_KINDS; k++) {
        us[k] = g_array_new(FALSE, FALSE, sizeof(double));
    }
    chimera = g_build_filename(bench_prefix(), "bin", "chimera", NULL);
    guest = g_build_filename(bench_prefix(), "libexec", "chimera", "guest",
                             NULL);
    script = g_strdup_printf("onnode 1 ./$(onnode 1 uname -m)/rtt serve " PORT
                             " & ./$(uname -m)/rtt measure 1 " PORT
                             " %d && wait",
                             options.samples * 1000);
    {
        const char *const run[] = {
            chimera, "run", "-q", "--name", "bench",
            "--echo-floor", "--share", guest,
            options.config, "--", "/bin/sh", "-c", script, NULL
        };

        output = bench_run(run, MESSAGE_TIMEOUT_S, NULL, &error);
        bench_check(error);
    }
    for (int k = 0; k < NR_KINDS; k++) {
        g_autofree char *prefix = g_strdup_printf("rtt %s ", kinds[k]);

        bench_collect(us[k], output, prefix, 1e3);
    }
    for (int k = 0; k < NR_KINDS; k++) {
        if (us[k]->len != (guint)options.samples * 1000) {
            bench_check(g_error_new(g_quark_from_static_string("bench"), 0,
                                    "%u of %d samples of kind %s", us[k]->len,
                                    options.samples * 1000, kinds[k]));
        }
    }
    emit(&options, "kernel", us[KERNEL], us[ECHO]);
    emit(&options, "doorbell", us[DOORBELL], us[ECHO]);
    emit(&options, "user", us[USER], us[ECHO]);
    for (int k = 0; k < NR_KINDS; k++) {
        g_array_unref(us[k]);
    }
    return 0;
}
