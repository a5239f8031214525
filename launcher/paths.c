/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "paths.h"

#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

const char *prefix_dir(void)
{
    static char *prefix;

    if (!prefix) {
        const char *env = g_getenv("CHIMERA_PREFIX");

        if (env && *env) {
            prefix = g_canonicalize_filename(env, NULL);
        } else {
            g_autofree char *exe = g_file_read_link("/proc/self/exe", NULL);
            g_autofree char *bin = g_path_get_dirname(exe ? exe : "/usr/bin/");

            prefix = g_path_get_dirname(bin);
        }
    }
    return prefix;
}

char *prefix_path(const char *rel)
{
    return g_build_filename(prefix_dir(), rel, NULL);
}

char *runtime_root(void)
{
    const char *xdg = g_getenv("XDG_RUNTIME_DIR");

    if (xdg && g_path_is_absolute(xdg)) {
        return g_build_filename(xdg, "chimera", NULL);
    }
    return g_strdup_printf("/tmp/chimera-%u", (unsigned)getuid());
}

char *runtime_root_create(GError **error)
{
    g_autofree char *root = runtime_root();
    g_autofree char *parent = g_path_get_dirname(root);
    struct stat st = { 0 };
    int err = 0;

    /* The last machine to end removes it, perhaps between our two steps. */
    do {
        err = mkdir(root, 0700) < 0 && errno != EEXIST ? errno
              : lstat(root, &st) < 0                   ? errno
                                                       : 0;
    } while (err == ENOENT && g_file_test(parent, G_FILE_TEST_IS_DIR));
    if (err) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_HOST,
                    "cannot create the run directory %s: %s", root,
                    g_strerror(err));
        return NULL;
    }
    if (!S_ISDIR(st.st_mode) || st.st_uid != getuid() ||
        (st.st_mode & 07777) != 0700) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_HOST,
                    "%s is not safe to use: found a %s of user %u with mode "
                    "%04o, it must be a directory of user %u with mode 0700",
                    root,
                    S_ISDIR(st.st_mode)   ? "directory"
                    : S_ISLNK(st.st_mode) ? "symbolic link"
                                          : "file",
                    (unsigned)st.st_uid, (unsigned)st.st_mode & 07777,
                    (unsigned)getuid());
        return NULL;
    }
    return g_steal_pointer(&root);
}
