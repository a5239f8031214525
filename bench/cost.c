/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cost: what it costs a program to be migratable while it does not migrate.
 *
 * The kernels of bench/migrate/kernels.c, compiled by chimera-cc with polls
 * (-fmigrate=entry, loops) beside -fmigrate=none, which is plain clang's code
 * with the same C library. CPU time, instructions (callgrind's count) and size
 * of the functions that can migrate: what runs while nobody moves ("text"), with
 * the pads, which lie in sections of their own, and with the resume clones, too.
 */
#include "bench.h"

#include <elf.h>
#include <gio/gio.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define COST_GOAL_KERNEL 1.10
#define COST_GOAL_TEXT 1.15
#define COST_TIMEOUT_S 300
#define REPEAT "5" /* in one process; the fastest counts */

enum { NONE, ENTRY, LOOPS, NR_MODES };
static const char *const modes[NR_MODES] = { "none", "entry", "loops" };
static const double goals[NR_MODES] = { 1, 1.02, 1.04 };
static char *programs[NR_MODES];

static GArray *series(void)
{
    return g_array_new(FALSE, FALSE, sizeof(double));
}

static void emit(const struct bench_options *options, const char *what,
                 int mode, const char *suffix, const char *unit,
                 GArray *samples, GArray *peer, double goal)
{
    g_autofree char *kase = g_strdup_printf("%s/%s%s", what, modes[mode],
                                            suffix);

    bench_emit(options, &(struct bench_figure) {
        .name = "cost",
        .kase = kase,
        .unit = unit,
        .samples = samples,
        .reference = BENCH_PEER,
        .reference_samples = peer,
        .goal = goal,
    });
}

/* One figure of one sample against another. */
static void emit_one(const struct bench_options *options, const char *what,
                     int mode, const char *suffix, const char *unit,
                     double value, double peer, double goal)
{
    g_autoptr(GArray) samples = series();
    g_autoptr(GArray) peers = series();

    g_array_append_val(samples, value);
    g_array_append_val(peers, peer);
    emit(options, what, mode, suffix, unit, samples, peers, goal);
}

/* CPU time in ms; the checksum must be the same in every mode. */
static double time_ms(int mode, const char *kernel, char **checksum)
{
    const char *const argv[] = { programs[mode], kernel, REPEAT, NULL };
    g_autoptr(GError) error = NULL;
    g_autofree char *output = bench_run(argv, COST_TIMEOUT_S, NULL, &error);
    g_auto(GStrv) words = NULL;

    bench_check(error);
    words = g_strsplit(g_strstrip(output), " ", -1);
    if (g_strv_length(words) != 2 ||
        (*checksum && !g_str_equal(*checksum, words[0]))) {
        bench_check(g_error_new(g_quark_from_static_string("bench"), 0,
                                "%s, %s: '%s' differs from the others",
                                kernel, modes[mode], output));
    }
    g_free(*checksum);
    *checksum = g_strdup(words[0]);
    return g_ascii_strtod(words[1], NULL) / 1e6;
}

/* In millions, the start of the program included. */
static double instructions(int mode, const char *kernel)
{
    const char *const argv[] = {
        "valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null",
        "--log-fd=1", programs[mode], kernel, "1", NULL
    };
    g_autoptr(GError) error = NULL;
    g_autofree char *output = bench_run(argv, COST_TIMEOUT_S, NULL, &error);
    const char *count;

    bench_check(error);
    count = strstr(output, "Collected : ");
    if (!count) {
        bench_check(g_error_new(g_quark_from_static_string("bench"), 0,
                                "valgrind printed no count: %s", output));
    }
    return g_ascii_strtod(count + strlen("Collected : "), NULL) / 1e6;
}

/* name -> size in bytes, of a program's functions */
static GHashTable *functions(const char *path)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GMappedFile) file = g_mapped_file_new(path, FALSE, &error);
    GHashTable *table = g_hash_table_new_full(g_str_hash, g_str_equal, g_free,
                                              NULL);
    const Elf64_Ehdr *eh;
    const Elf64_Shdr *sh;
    const char *base;

    bench_check(error);
    base = g_mapped_file_get_contents(file); /* made by this build: valid */
    eh = (const void *)base;
    sh = (const void *)(base + eh->e_shoff);
    for (int i = 0; i < eh->e_shnum; i++) {
        const Elf64_Sym *sym = (const void *)(base + sh[i].sh_offset);

        if (sh[i].sh_type != SHT_SYMTAB) {
            continue;
        }
        for (gsize k = 0; k < sh[i].sh_size / sizeof(*sym); k++) {
            const char *name = base + sh[sh[i].sh_link].sh_offset +
                               sym[k].st_name;

            /* The part of a function in a section of its own has no type. */
            if (ELF64_ST_TYPE(sym[k].st_info) == STT_FUNC ||
                g_str_has_suffix(name, ".cold")) {
                g_hash_table_insert(table, g_strdup(name),
                                    GSIZE_TO_POINTER(sym[k].st_size));
            }
        }
    }
    return table;
}

static double size_of(GHashTable *table, const char *name, const char *suffix)
{
    g_autofree char *full = g_strconcat(name, suffix, NULL);

    return GPOINTER_TO_SIZE(g_hash_table_lookup(table, full));
}

/* Functions that can migrate have a clone. */
static void text_growth(const struct bench_options *options, int mode)
{
    g_autoptr(GHashTable) ours = functions(programs[mode]);
    g_autoptr(GHashTable) plain = functions(programs[NONE]);
    double hot = 0, pads = 0, clones = 0, before = 0;
    GHashTableIter it;
    gpointer name, size, other;

    g_hash_table_iter_init(&it, ours);
    while (g_hash_table_iter_next(&it, &name, &size)) {
        g_autofree char *clone = g_strconcat(name, "$resume", NULL);

        if (g_hash_table_contains(ours, clone) &&
            g_hash_table_lookup_extended(plain, name, NULL, &other)) {
            hot += GPOINTER_TO_SIZE(size);
            before += GPOINTER_TO_SIZE(other);
            pads += size_of(ours, name, ".cold");
            clones += size_of(ours, name, "$resume") +
                      size_of(ours, name, "$resume.cold");
        }
    }
    emit_one(options, "text", mode, "", "bytes", hot, before, COST_GOAL_TEXT);
    emit_one(options, "text", mode, "-with-pads", "bytes", hot + pads, before,
             0);
    emit_one(options, "text", mode, "-with-clones", "bytes",
             hot + pads + clones, before, 0);
}

int main(int argc, char **argv)
{
    struct bench_options options;
    g_autoptr(GError) error = NULL;
    g_autofree char *valgrind = NULL, *output = NULL;
    g_auto(GStrv) kernels = NULL;
    double log_time[NR_MODES] = { 0 }, log_count[NR_MODES] = { 0 };
    int nr_kernels = 0;

    bench_init(&argc, &argv,
               "Programs compiled to be migratable and not migrating, against "
               "the same without: time, instructions, size.", 7, &options);
    valgrind = g_find_program_in_path("valgrind");
    if (!valgrind) {
        g_printerr("%s: without valgrind there are no instruction counts\n",
                   g_get_prgname());
    }
    for (int m = 0; m < NR_MODES; m++) {
        programs[m] = g_strconcat(bench_prefix(),
                                  "/libexec/chimera/migrate/kernels-",
                                  modes[m], NULL);
    }
    {
        const char *const list[] = { programs[NONE], NULL };

        output = bench_run(list, COST_TIMEOUT_S, NULL, &error);
        bench_check(error);
    }
    kernels = g_strsplit_set(g_strstrip(output), "\n ", -1);
    for (char **kernel = kernels; *kernel; kernel++) {
        GArray *ms[NR_MODES];
        g_autofree char *checksum = NULL;
        double count[NR_MODES];

        for (int m = 0; m < NR_MODES; m++) {
            ms[m] = series();
            count[m] = valgrind ? instructions(m, *kernel) : 1;
        }
        for (int i = 0; i < options.samples; i++) {
            for (int m = 0; m < NR_MODES; m++) {
                double sample = time_ms(m, *kernel, &checksum);

                g_array_append_val(ms[m], sample);
            }
        }
        for (int m = ENTRY; m < NR_MODES; m++) {
            emit(&options, *kernel, m, "", "ms", ms[m], ms[NONE],
                 COST_GOAL_KERNEL);
            log_time[m] += log(bench_median(ms[m]) / bench_median(ms[NONE]));
            if (valgrind) {
                emit_one(&options, *kernel, m, "-instructions", "M", count[m],
                         count[NONE], COST_GOAL_KERNEL);
                log_count[m] += log(count[m] / count[NONE]);
            }
        }
        for (int m = 0; m < NR_MODES; m++) {
            g_array_unref(ms[m]);
        }
        nr_kernels++;
    }
    for (int m = ENTRY; m < NR_MODES; m++) {
        emit_one(&options, "geomean", m, "", "ratio",
                 exp(log_time[m] / nr_kernels), 1, goals[m]);
        if (valgrind) {
            emit_one(&options, "geomean", m, "-instructions", "ratio",
                     exp(log_count[m] / nr_kernels), 1, goals[m]);
        }
        text_growth(&options, m);
    }
    for (int m = 0; m < NR_MODES; m++) {
        g_free(programs[m]);
    }
    return 0;
}
