/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bench: every benchmark is a program PREFIX/libexec/chimera/bench/NAME; see
 * docs/launcher.md for what it can rely on.
 */
#include "command.h"
#include "paths.h"
#include "util.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int compare(gconstpointer a, gconstpointer b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static GPtrArray *bench_names(const char *dir)
{
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GDir) d = g_dir_open(dir, 0, NULL);
    const char *name;

    while (d && (name = g_dir_read_name(d))) {
        g_autofree char *path = g_build_filename(dir, name, NULL);

        if (access(path, X_OK) == 0 && name[0] != '.') {
            g_ptr_array_add(names, g_strdup(name));
        }
    }
    g_ptr_array_sort(names, compare);
    g_ptr_array_add(names, NULL);
    return names;
}

int builtin_bench(char **args)
{
    g_autofree char *dir = prefix_path("libexec/chimera/bench");
    g_autoptr(GPtrArray) names = NULL;
    g_autofree char *program = NULL, *list = NULL;
    const char *near;
    int err;

    if (args[0] && args[0][0] == '-') {
        return command_usage("bench",
                             "unknown option '%s'; options of a "
                             "benchmark stand behind its name",
                             args[0]);
    }
    names = bench_names(dir);
    if (!args[0]) {
        for (unsigned i = 0; i + 1 < names->len; i++) {
            printf("%s\n", (char *)names->pdata[i]);
        }
        if (names->len == 1) {
            complain("no benchmarks in %s; './bootstrap build' makes them", dir);
        }
        return names->len > 1 ? EXIT_OK : EXIT_FAILED;
    }
    if (!g_strv_contains((const char *const *)names->pdata, args[0])) {
        near = did_you_mean(args[0], (const char *const *)names->pdata);
        list = g_strjoinv(", ", (char **)names->pdata);
        complain("no benchmark '%s'%s%s%s; there are: %s", args[0],
                 near ? "; did you mean '" : "", near ? near : "",
                 near ? "'?" : "", *list ? list : "none");
        return EXIT_USAGE;
    }
    program = g_build_filename(dir, args[0], NULL);
    g_setenv("CHIMERA_PREFIX", prefix_dir(), TRUE);
    args[0] = program;
    execv(program, args);
    err = errno;
    complain("cannot start %s: %s", program, g_strerror(err));
    return EXIT_FAILED;
}
