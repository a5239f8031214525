/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The names that programs for Popcorn Linux use, on top of <chimera.h>.
 */
#ifndef CHIMERA_MIGRATE_H
#define CHIMERA_MIGRATE_H

#include <chimera.h>
#include <sys/types.h>

#define MAX_POPCORN_NODES 32

enum arch {
    ARCH_UNKNOWN = -1,
    ARCH_AARCH64 = 0,
    ARCH_X86_64 = 1,
    ARCH_POWERPC = 2,
    NUM_ARCHES = 3,
};

struct node_info {
    unsigned int status;
    int arch;
    int distance;
};

/* Move to @nid.  The call-back, if any, runs there before the call returns. */
static inline void migrate(int nid, void (*callback)(void *), void *data)
{
    chimera_migrate(nid);
    if (callback) {
        callback(data);
    }
}

/* A migration point. */
static inline void check_migrate(void (*callback)(void *), void *data)
{
    int before = chimera_here();

    chimera_point();
    if (callback && chimera_here() != before) {
        callback(data);
    }
}

static inline int popcorn_getnid(void)
{
    return chimera_here();
}

static inline int node_available(int nid)
{
    return nid >= 0 && nid < chimera_nodes();
}

static inline int current_nid(void)
{
    return chimera_here();
}

#endif
