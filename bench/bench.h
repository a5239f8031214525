/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What every benchmark shares: samples and their statistics, the figures'
 * output, running a command or a stock QEMU under a time-out.
 *
 * A benchmark is one program, PREFIX/libexec/chimera/bench/NAME, started by
 * `chimera bench NAME`. It prints one table for people or, with --json, one
 * object a line. A figure always stands beside its floor or its peer, which
 * was measured in the same run, in turn with it.
 */
#ifndef CHIMERA_BENCH_H
#define CHIMERA_BENCH_H

#include <glib.h>

/** What the second series of a figure is. */
enum bench_reference {
    BENCH_FLOOR, /* nothing can be faster: a minimal program */
    BENCH_PEER,  /* an alternative to compare with */
};

struct bench_figure {
    const char *name;  /* the benchmark */
    const char *kase;  /* "case" in the output */
    const char *unit;  /* of the samples: "s", "us", "Mop/s" ... */
    GArray *samples;   /* of double */
    enum bench_reference reference;
    GArray *reference_samples; /* of double, or NULL: none was measured */
    /*
     * Highest good ratio of value to reference (lowest where bigger is
     * better); 0 for none.
     */
    double goal;
    gboolean bigger_is_better;
    /*
     * Sample i of both series was measured at one time: the ratio is the
     * median of theirs, which a host that changes its speed does not move.
     */
    gboolean paired;
};

/** Options that every benchmark takes. */
struct bench_options {
    gboolean json;
    gboolean markdown; /* rows of the table whose head `bench all` prints */
    int samples;   /* pairs of runs */
    char *config;  /* machine configuration file */
};

/**
 * bench_init() - parse the command line; exits with 2 on a bad one.
 * @what: one line for --help. @default_samples: for --samples.
 */
void bench_init(int *argc, char ***argv, const char *what,
                int default_samples, struct bench_options *ret_options);

/** bench_median() / bench_quantile() - 0 <= q <= 1; NAN of nothing. */
double bench_quantile(const GArray *samples, double q);
double bench_median(const GArray *samples);

/**
 * bench_collect() - append the numbers that follow @prefix in lines of @output
 * that begin with it, divided by @unit.
 */
void bench_collect(GArray *samples, const char *output, const char *prefix,
                   double unit);

/** bench_collect_one() - the same of a single number; fails if there is none. */
void bench_collect_one(GArray *samples, const char *output,
                       const char *prefix, double unit);

/** bench_emit() - print one figure, as --json asked. */
void bench_emit(const struct bench_options *options,
                const struct bench_figure *figure);

/**
 * bench_emit_p99() - print the tail of a figure's distribution as a figure of its
 * own, case CASE-p99: one sample, beside that of the reference, without a goal.
 */
void bench_emit_p99(const struct bench_options *options,
                    const struct bench_figure *figure);

/** bench_prefix() - where chimera is installed (from this program's path). */
const char *bench_prefix(void);

/**
 * bench_run() - run a command to its end and collect its standard output.
 * @timeout_s: after it the command is killed.
 * @ret_seconds: wall time from its start to its end; may be NULL.
 *
 * The command's standard error passes through when it fails. Any failure
 * (cannot start, time-out, exit status not 0) is in @error.
 * Return: its output, to be freed with g_free(); NULL on failure.
 */
char *bench_run(const char *const *argv, int timeout_s, double *ret_seconds,
                GError **error);

/** A program that answers lines with lines, as long as it is asked. */
struct bench_dialogue;

/**
 * bench_dialogue_start() - start @argv, its standard input and output ours.
 * Return: to be ended with bench_dialogue_end(); NULL with @error set.
 */
struct bench_dialogue *bench_dialogue_start(const char *const *argv,
                                            GError **error);

/**
 * bench_dialogue_ask() - send @line (NULL: nothing) and wait for the next line
 * of output that begins with @prefix; other lines are skipped.
 * @timeout_s: after it, and when the program ends, @error is set to a message
 * with the last of its output.
 * Return: that line without its end, to be freed with g_free(); or NULL.
 */
char *bench_dialogue_ask(struct bench_dialogue *d, const char *line,
                         const char *prefix, int timeout_s, GError **error);

/**
 * bench_dialogue_end() - close the program's input, wait @timeout_s for its
 * end, then kill it.
 */
void bench_dialogue_end(struct bench_dialogue *d, int timeout_s);

/**
 * bench_stock_argv() - a QEMU of the same build as a plain machine: the same
 * kernel and initramfs, ordinary RAM, no chimera device.
 * @isa: "x86_64" or "aarch64". @share: a folder for the guest's 9p tag
 * "share", or NULL. @script: what /bin/sh -c runs as the guest's first
 * process; it has no double quote in it.
 * Return: a NULL-terminated vector, to be freed with g_strfreev().
 */
char **bench_stock_argv(const char *isa, int cpus, const char *memory,
                        const char *share, const char *script);

/**
 * bench_host_cpus() - the first @count CPUs that this process may use, as
 * "A,B", to be freed with g_free(); ends the program when there are fewer.
 */
char *bench_host_cpus(int count);

/** bench_check() - end the program with a message if @error is set. */
void bench_check(GError *error);

#endif /* CHIMERA_BENCH_H */
