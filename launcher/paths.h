/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where things are: the installation prefix and the run directories. */
#ifndef CHIMERA_PATHS_H
#define CHIMERA_PATHS_H

#include <glib.h>

/*
 * The prefix this program belongs to: $CHIMERA_PREFIX, else the folder above
 * the one that holds the executable.
 */
const char *prefix_dir(void);

/* PREFIX/REL, to be freed. */
char *prefix_path(const char *rel);

/*
 * The folder that holds the run directories of this user, not created:
 * $XDG_RUNTIME_DIR/chimera, or /tmp/chimera-UID without XDG_RUNTIME_DIR.
 */
char *runtime_root(void);

/*
 * Creates that folder if needed and makes sure that nobody else can write
 * to it: a directory, no link, our own, mode 0700.
 */
char *runtime_root_create(GError **error);

#endif
