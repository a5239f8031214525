/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * loopback:NAME - all nodes in one process, and nothing arrives by itself:
 * whoever owns the hub moves the bytes, so a test decides how links
 * interleave, where the stream is cut into pieces, and what goes wrong.
 * For tests; not part of the shared library.
 *
 * A connection has two lanes, one for each direction. Bytes keep their order
 * within a lane; the order between lanes is up to the caller, as is delay.
 */
#ifndef DSM_SRC_TRANSPORT_LOOPBACK_H
#define DSM_SRC_TRANSPORT_LOOPBACK_H

#include <stdbool.h>
#include <stddef.h>

#include "transport.h"

struct dsm__hub; /* the transport's context */

extern const struct dsm__transport dsm__transport_loopback;

struct dsm__hub *dsm__hub_new(void);
/* After all nodes that use it. */
void dsm__hub_free(struct dsm__hub *hub);

/** dsm__hub_nr_lanes() - lanes 2c and 2c + 1 belong to connection c. */
unsigned int dsm__hub_nr_lanes(const struct dsm__hub *hub);

/**
 * dsm__hub_move() - let up to @max_bytes of a lane arrive, and the end of
 * the stream when it comes to that.
 * Return: did anything? Not if nothing waits or there is no room.
 */
bool dsm__hub_move(struct dsm__hub *hub, unsigned int lane, size_t max_bytes);

/* What goes wrong with a lane, once. */
enum dsm__hub_fault {
    DSM__HUB_SWALLOW,  /* the next frame never arrives */
    DSM__HUB_REPEAT,   /* the next frame arrives twice */
    DSM__HUB_SWAP,     /* the next two frames change places */
    DSM__HUB_TRUNCATE, /* half of the next frame, and that was all */
    DSM__HUB_FLIP,     /* one bit of what comes next is wrong */
};
/**
 * dsm__hub_fault() - make it happen.
 * Return: false when the lane is inside a frame, or has not the frames for
 * it. (FLIP needs one byte.)
 */
bool dsm__hub_fault(struct dsm__hub *hub, unsigned int lane,
                    enum dsm__hub_fault fault);

/** dsm__hub_cut() - the connection ends at once, what was on it is lost. */
void dsm__hub_cut(struct dsm__hub *hub, unsigned int lane);

#endif
