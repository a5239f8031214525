/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Asking a running program to move its threads: what chimera-migrate writes into
 * its memory. The mapping is called CONTROL_NAME in /proc/PID/maps.
 */
#ifndef CHIMERA_RT_CONTROL_H
#define CHIMERA_RT_CONTROL_H

#include <stdint.h>

#define CONTROL_NAME "chimera-control"
#define CONTROL_MAGIC 0x32304c54434d4843ull     /* CHMCTL02 */
#define CONTROL_REQUESTS 1021
#define CONTROL_ASKED 509       /* the first are chimera-migrate's alone */

/*
 * A free request has .tid 0. Whoever makes one writes .node, .tid, 1 to the byte
 * at .notice, and last a .stamp that never was before: threads look through the
 * requests when the stamp is a new one. The thread sets .tid to -.tid, reads .node
 * and sets .tid to 0. chimera-migrate frees requests of threads that have ended.
 *
 * A request that was not taken yet may get another .node if .tid is still the
 * thread's afterwards.
 *
 * One chimera-migrate at a time: it holds a lock on /proc/PID/mem.
 */
struct control {
    uint64_t magic;
    uint64_t notice;
    uint64_t stamp;
    struct {
        int32_t tid;
        int32_t node;
    } request[CONTROL_REQUESTS];
};

_Static_assert(sizeof(struct control) == 8192, "two pages");

#endif
