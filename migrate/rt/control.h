/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Asking a running program to move its threads: what chimera-migrate writes into
 * its memory. The mapping is called CONTROL_NAME in /proc/PID/maps.
 */
#ifndef CHIMERA_RT_CONTROL_H
#define CHIMERA_RT_CONTROL_H

#include <stdint.h>

#define CONTROL_NAME "chimera-control"
#define CONTROL_MAGIC 0x31304c54434d4843ull     /* CHMCTL01 */
#define CONTROL_REQUESTS 510

/*
 * A request is written as .node, then .tid, then 1 to the byte at .notice; a
 * free one has .tid 0. The thread sets .tid to 0 when it has taken it.
 */
struct control {
    uint64_t magic;
    uint64_t notice;
    struct {
        int32_t tid;
        int32_t node;
    } request[CONTROL_REQUESTS];
};

_Static_assert(sizeof(struct control) == 4096, "one page");

#endif
