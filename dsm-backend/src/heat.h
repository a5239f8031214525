/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which pages of a region are waited for most, in memory that does not grow.
 *
 * Two things are kept. Counters of DSM_HEAT_RANGES ranges of equal length are
 * exact. Of single pages the DSM_HEAT_PAGES with the highest counts are kept
 * ("space saving", Metwally et al. 2005): a page that is not among them takes
 * the place of the one with the lowest count and begins with that count, which
 * is noted as what it may have missed. So with N faults in all
 *
 *   H1  faults <= what the page really had <= faults + missed
 *   H2  the counts (faults + missed) of all places together are N
 *   H3  every page that had more than N / DSM_HEAT_PAGES faults has a place
 *   H4  a page that comes back has a higher missed than it had before
 *
 * Belongs to one thread, as the rest of a region does.
 */
#ifndef DSM_SRC_HEAT_H
#define DSM_SRC_HEAT_H

#include <stdbool.h>
#include <stdint.h>

#include "dsm/dsm.h"

struct dsm__heat {
    uint64_t faults;
    uint32_t range_shift; /* log2 of the pages in a range */
    uint32_t nr_ranges, nr_pages;
    uint64_t range[DSM_HEAT_RANGES];
    /* the places; apart from each other because they are searched */
    uint64_t page[DSM_HEAT_PAGES];
    uint64_t count[DSM_HEAT_PAGES]; /* faults + missed */
    uint64_t missed[DSM_HEAT_PAGES];
    uint64_t writes[DSM_HEAT_PAGES];
    uint64_t lowest; /* no count is lower */
    uint32_t hand;   /* where the last one that is equal was found */
};

/** dsm__heat_init() - @nr_pages: of the region, at least 1. */
void dsm__heat_init(struct dsm__heat *heat, uint64_t nr_pages);
/** dsm__heat_add() - one more fault of @page. */
void dsm__heat_add(struct dsm__heat *heat, uint64_t page, bool write);
/** dsm__heat_read() - a copy for others. */
void dsm__heat_read(const struct dsm__heat *heat,
                    struct dsm_region_heat *ret_heat);

#endif
