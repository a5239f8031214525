/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Running the tools that do the work. */

#include "driver.h"

#include <stdarg.h>

static void add_list(GPtrArray *argv, va_list ap)
{
    const char *s;

    while ((s = va_arg(ap, const char *))) {
        g_ptr_array_add(argv, g_strdup(s));
    }
}

void add_args(GPtrArray *argv, ...)
{
    va_list ap;

    va_start(ap, argv);
    add_list(argv, ap);
    va_end(ap);
}

GPtrArray *command(const char *program, ...)
{
    GPtrArray *argv = g_ptr_array_new_with_free_func(g_free);
    va_list ap;

    g_ptr_array_add(argv, g_strconcat(program, LLVM_SUFFIX, NULL));
    va_start(ap, program);
    add_list(argv, ap);
    va_end(ap);
    return argv;
}

char *work_file(const struct config *cfg, const char *name)
{
    return g_build_filename(cfg->work_dir, name, NULL);
}

gboolean run_command(const struct config *cfg, GPtrArray *argv, GError **error)
{
    int status;

    g_ptr_array_add(argv, NULL);
    if (cfg->verbose) {
        g_autofree char *text = g_strjoinv(" ", (char **)argv->pdata);

        g_printerr("%s\n", text);
    }
    if (!g_spawn_sync(NULL, (char **)argv->pdata, NULL,
                      G_SPAWN_SEARCH_PATH | G_SPAWN_CHILD_INHERITS_STDIN, NULL,
                      NULL, NULL, NULL, &status, error)) {
        g_prefix_error(error, "%s: ", (char *)argv->pdata[0]);
        return FALSE;
    }
    return g_spawn_check_wait_status(status, error);
}
