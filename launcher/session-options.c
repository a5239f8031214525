/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "session-options.h"

#include "util.h"

#include <string.h>
#include <unistd.h>

/* What means something on the host only. */
static bool is_of_host(const char *entry)
{
    static const char *const names[] = {
        "PATH",  "HOME",    "PWD",    "OLDPWD",     "SHELL",
        "USER",  "LOGNAME", "TMPDIR", "LD_PRELOAD", "LD_LIBRARY_PATH",
        "SHLVL", "_",       "TERM",   NULL
    };
    g_autofree char *name = g_strndup(entry, strcspn(entry, "="));

    return g_strv_contains(names, name) || g_str_has_prefix(name, "XDG_");
}

static bool user_is_valid(const char *user)
{
    g_auto(GStrv) part = g_strsplit(user, ":", 2);
    uint64_t id;

    return part[0] && parse_uint(part[0], 0, UINT32_MAX - 1, &id) &&
           (!part[1] || parse_uint(part[1], 0, UINT32_MAX - 1, &id));
}

bool session_options_make(const struct session_args *s,
                          struct session_options *ret, GError **error)
{
    g_autoptr(GPtrArray) env = g_ptr_array_new_with_free_func(g_free);

    if (s->tty && s->no_tty) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_CONFIG,
                    "--tty and --no-tty exclude each other");
        return false;
    }
    if (s->user && !user_is_valid(s->user)) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_CONFIG,
                    "--user: found '%s'; allowed: UID or UID:GID, as numbers",
                    s->user);
        return false;
    }
    if (s->cwd && !g_path_is_absolute(s->cwd)) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_CONFIG,
                    "--cwd: found '%s'; allowed: an absolute path in the "
                    "guest",
                    s->cwd);
        return false;
    }
    for (char **e = environ; s->keep_env && *e; e++) {
        if (!is_of_host(*e)) {
            g_ptr_array_add(env, g_strdup(*e));
        }
    }
    for (unsigned i = 0; i < s->env->len; i++) {
        const char *e = s->env->pdata[i];

        if (*e == '=' || *e == '\0') {
            g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_CONFIG,
                        "--env: found '%s'; allowed: NAME or NAME=VALUE", e);
            return false;
        }
        if (strchr(e, '=')) {
            g_ptr_array_add(env, g_strdup(e));
        } else if (g_getenv(e)) {
            g_ptr_array_add(env, g_strdup_printf("%s=%s", e, g_getenv(e)));
        }
    }
    g_ptr_array_add(env, NULL);
    g_ptr_array_set_free_func(env, NULL);
    *ret = (struct session_options){
        .env = (char **)g_ptr_array_free(g_steal_pointer(&env), FALSE),
        .cwd = s->cwd,
        .user = s->user,
        .tty = s->tty      ? TTY_YES
               : s->no_tty ? TTY_NO
                           : TTY_AUTO,
        .no_stdin = s->no_stdin,
    };
    return true;
}
