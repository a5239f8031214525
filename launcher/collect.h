/* SPDX-License-Identifier: GPL-2.0-or-later */
/* query-dsm of all nodes at one time, inside the supervisor. */
#ifndef CHIMERA_COLLECT_H
#define CHIMERA_COLLECT_H

#include "machine.h"

struct collect;

/*
 * @stats: {"name", "asked_us", "nodes": [{"index", "name", "dsm" or "error"}]};
 * asked_us is the host's monotonic clock at the question. What is missing two
 * seconds after it is named, so there is always an answer. The call is the
 * last thing that happens to the collect.
 */
typedef void collect_done(JsonNode *stats, void *opaque);

struct collect *collect_start(struct machine *m, collect_done *done,
                              void *opaque);
/* Nobody wants to know any more: @done is not called. */
void collect_cancel(struct collect *c);

#endif
