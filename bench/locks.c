/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * locks: loads that contend for the kernel's spinlocks, on a node of one ISA
 * whose kernel has preemptable ticket locks, beside the alternatives, in turn;
 * with one, two and four vCPUs for each of two host CPUs. Needs the kernels of
 * `./bootstrap build kernel:ticket kernel:preemptable`.
 */
#include "bench.h"

#include <glib/gstdio.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Not slower than 0.95 of the fastest where vCPUs have a CPU each */
#define ALONE_GOAL (1 / 0.95)
/* The seed paper's 5.32 times ticket locks, its average over the loads */
#define OVERCOMMIT_GOAL (1 / 5.32)
#define LOCKS_TIMEOUT_S 300
#define LOCKS_SECONDS "2"
#define HOST_CPUS 2

enum { NR_LOADS = 4, MAX_SIDES = 4 };

static const char *const loads[NR_LOADS] = {
    "contend", "hackbench", "ebizzy", "forkexec",
};

struct side {
    const char *name;
    const char *keys; /* of the node's configuration */
};

struct isa {
    const char *name;
    /* The first is what the others are the peers of. */
    struct side sides[MAX_SIDES + 1];
};

static const struct isa isas[] = {
    { "x86_64",
      {
          { "preemptable", "locks=preemptable\n" },
          { "ticket", "locks=ticket\n" },
          /* What Linux does when it sees a hypervisor without help for locks */
          { "test-and-set", "locks=qspinlock\n" },
          /* and when it sees none */
          { "queued", "locks=qspinlock\ncpu-model=max,-hypervisor\n" },
      } },
    { "aarch64",
      {
          { "preemptable", "locks=preemptable\n" },
          { "ticket", "locks=ticket\n" },
          { "queued", "locks=qspinlock\n" },
      } },
};

/* Return: the path of a configuration, to be removed and freed. */
static char *write_config(const struct isa *isa, const struct side *side,
                          int cpus)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *affinity = bench_host_cpus(HOST_CPUS);
    g_autofree char *text = g_strdup_printf(
        "[machine]\nname=bench-locks\n[node n]\nisa=%s\naccel=tcg\n"
        "memory=512M\ncpus=%d\ncpu-affinity=%s\n%s",
        isa->name, cpus, affinity, side->keys);
    char *path = NULL;
    int fd = g_file_open_tmp("bench-locks-XXXXXX.conf", &path, &error);

    bench_check(error);
    g_close(fd, NULL);
    g_file_set_contents(path, text, -1, &error);
    bench_check(error);
    return path;
}

static void run(const struct isa *isa, const struct side *side, int cpus,
                GArray *us[NR_LOADS])
{
    g_autofree char *chimera = g_build_filename(bench_prefix(), "bin", "chimera",
                                                NULL);
    g_autofree char *share = g_build_filename(
        bench_prefix(), "libexec", "chimera", "guest", isa->name, NULL);
    g_autofree char *config = write_config(isa, side, cpus);
    g_autofree char *threads = g_strdup_printf("%d", cpus);
    const char *const argv[] = {
        chimera, "run", "-q", "--share", share, config, "--", "./locks",
        LOCKS_SECONDS, threads, NULL
    };
    g_autoptr(GError) error = NULL;
    g_autofree char *output = bench_run(argv, LOCKS_TIMEOUT_S, NULL, &error);

    g_remove(config);
    bench_check(error);
    for (int l = 0; l < NR_LOADS; l++) {
        g_autofree char *prefix = g_strdup_printf("locks %s ", loads[l]);

        bench_collect_one(us[l], output, prefix, 1);
    }
}

/* The geometric mean of what the loads take; one sample. */
static GArray *mean(GArray *us[NR_LOADS])
{
    GArray *samples = g_array_new(FALSE, FALSE, sizeof(double));
    double sum = 0;

    for (int l = 0; l < NR_LOADS; l++) {
        sum += log(bench_median(us[l]));
    }
    sum = exp(sum / NR_LOADS);
    g_array_append_val(samples, sum);
    return samples;
}

static void emit(const struct bench_options *options, const struct isa *isa,
                 const char *load, int cpus, const char *peer, GArray *samples,
                 GArray *peer_samples, double goal)
{
    g_autofree char *kase = g_strdup_printf(
        "%s-%dx-%s-%s", load, cpus / HOST_CPUS, isa->name, peer);

    bench_emit(options, &(struct bench_figure) {
        .name = "locks",
        .kase = kase,
        .unit = "us",
        .samples = samples,
        .reference = BENCH_PEER,
        .reference_samples = peer_samples,
        .goal = goal,
    });
}

static void measure(const struct bench_options *options, const struct isa *isa,
                    int cpus)
{
    GArray *us[MAX_SIDES][NR_LOADS], *means[MAX_SIDES];
    double goal = cpus == HOST_CPUS ? ALONE_GOAL : 0;
    int nr_sides = 0;

    for (; isa->sides[nr_sides].name; nr_sides++) {
        for (int l = 0; l < NR_LOADS; l++) {
            us[nr_sides][l] = g_array_new(FALSE, FALSE, sizeof(double));
        }
    }
    for (int i = 0; i < options->samples; i++) {
        for (int side = 0; side < nr_sides; side++) {
            run(isa, &isa->sides[side], cpus, us[side]);
        }
    }
    for (int side = 0; side < nr_sides; side++) {
        means[side] = mean(us[side]);
    }
    for (int side = 1; side < nr_sides; side++) {
        const char *peer = isa->sides[side].name;

        for (int l = 0; l < NR_LOADS; l++) {
            emit(options, isa, loads[l], cpus, peer, us[0][l], us[side][l],
                 goal);
        }
        emit(options, isa, "geomean", cpus, peer, means[0], means[side],
             cpus == 4 * HOST_CPUS && g_str_equal(peer, "ticket")
                 ? OVERCOMMIT_GOAL
                 : goal);
    }
    for (int side = 0; side < nr_sides; side++) {
        for (int l = 0; l < NR_LOADS; l++) {
            g_array_unref(us[side][l]);
        }
        g_array_unref(means[side]);
    }
}

int main(int argc, char **argv)
{
    struct bench_options options;

    bench_init(&argc, &argv,
               "Loads that contend for spinlocks on a node of 2, 4 and 8 vCPUs "
               "on 2 host CPUs: preemptable ticket locks beside ticket, "
               "test-and-set and queued ones. Smaller is better.", 5, &options);
    for (size_t i = 0; i < G_N_ELEMENTS(isas); i++) {
        for (int cpus = HOST_CPUS; cpus <= 4 * HOST_CPUS; cpus *= 2) {
            measure(&options, &isas[i], cpus);
        }
    }
    return 0;
}
