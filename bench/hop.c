/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * hop: the time of one move of a thread, at several call depths.
 *
 * Self migration (capture and resume on this ISA) stands beside libgcc's
 * unwinder, which merely visits as many frames; deep stacks, of which 16 frames
 * travel, beside that depth. A hop between x86_64 and qemu-aarch64 in two
 * processes stands beside half a round trip of a message between two such.
 */
#include "bench.h"

#include <time.h>
#include <unwind.h>

#define HOP_TIMEOUT_S 300
#define FLAT_GOAL 1.2
#define SEGMENT 16 /* frames that travel at once */
#define WALKS 2000

static const int depths[] = { 1, 10, SEGMENT, 100, 1000 };
#define NR_DEPTHS ((int)G_N_ELEMENTS(depths))

static GArray *us[NR_DEPTHS];

static _Unwind_Reason_Code visit(struct _Unwind_Context *context, void *data)
{
    int *left = data;

    return --*left > 0 && _Unwind_GetIP(context) ? _URC_NO_REASON
                                                 : _URC_NORMAL_STOP;
}

/* Walks @frames frames from a recursion that is at least as deep. */
static __attribute__((noinline)) int walk(int depth, int frames, GArray *series)
{
    int visited = 0;

    if (depth > 1) {
        visited = walk(depth - 1, frames, series);
    } else {
        for (int i = 0; i < WALKS; i++) {
            gint64 begin, end;
            struct timespec t;
            int left = frames;
            double sample;

            clock_gettime(CLOCK_MONOTONIC, &t);
            begin = t.tv_sec * (gint64)1000000000 + t.tv_nsec;
            _Unwind_Backtrace(visit, &left);
            clock_gettime(CLOCK_MONOTONIC, &t);
            end = t.tv_sec * (gint64)1000000000 + t.tv_nsec;
            sample = (end - begin) / 1e3;
            g_array_append_val(series, sample);
        }
    }
    return visited + 1; /* no tail call */
}

static void run(const char *const *argv, GArray **series)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *output = bench_run(argv, HOP_TIMEOUT_S, NULL, &error);

    bench_check(error);
    /* Lines "DEPTH NS..." of bench/migrate/hop.c */
    for (int d = 0; d < NR_DEPTHS; d++) {
        g_autofree char *prefix = g_strdup_printf("%d ", depths[d]);

        bench_collect(series[d], output, prefix, 1e3);
    }
}

static void emit(const struct bench_options *options, const char *how,
                 int depth, GArray *samples, enum bench_reference kind,
                 GArray *reference, double goal)
{
    g_autofree char *kase = g_strdup_printf("%s-%d", how, depth);
    const struct bench_figure figure = {
        .name = "hop",
        .kase = kase,
        .unit = "us",
        .samples = samples,
        .reference = kind,
        .reference_samples = reference,
        .goal = goal,
    };

    bench_emit(options, &figure);
    bench_emit_p99(options, &figure);
}

int main(int argc, char **argv)
{
    struct bench_options options;
    g_autofree char *program = NULL, *aarch64 = NULL;
    GArray *across[NR_DEPTHS], *message[NR_DEPTHS];

    bench_init(&argc, &argv,
               "Moves of a thread. --samples: runs of each kind, 1000 moves "
               "at each depth.", 5, &options);
    program = g_strconcat(bench_prefix(), "/libexec/chimera/migrate/hop", NULL);
    aarch64 = g_strconcat(program, "-aarch64", NULL);
    for (int d = 0; d < NR_DEPTHS; d++) {
        us[d] = g_array_new(FALSE, FALSE, sizeof(double));
        across[d] = g_array_new(FALSE, FALSE, sizeof(double));
        message[d] = g_array_new(FALSE, FALSE, sizeof(double));
    }
    for (int i = 0; i < options.samples; i++) {
        const char *const self[] = {
            "env", "CHIMERA_TRANSPORT=self", "CHIMERA_EVERY=1", program, NULL
        };
        const char *const pipe[] = {
            "env", "CHIMERA_TRANSPORT=pipe", "CHIMERA_EVERY=1", program, NULL
        };
        const char *const floor[] = { program, "floor", aarch64, NULL };

        run(self, us);
        run(pipe, across);
        run(floor, message);
    }
    for (int d = 0; d < NR_DEPTHS; d++) {
        g_autoptr(GArray) walked = g_array_new(FALSE, FALSE, sizeof(double));
        GArray *peer = us[2]; /* SEGMENT frames */

        if (depths[d] <= SEGMENT) {
            walk(depths[d] + 1, depths[d], walked);
            peer = walked;
        }
        emit(&options, "self", depths[d], us[d], BENCH_PEER, peer,
             depths[d] > SEGMENT ? FLAT_GOAL : 0);
        emit(&options, "pipe", depths[d], across[d], BENCH_FLOOR, message[0],
             0);
    }
    for (int d = 0; d < NR_DEPTHS; d++) {
        g_array_unref(us[d]);
        g_array_unref(across[d]);
        g_array_unref(message[d]);
    }
    return 0;
}
