/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <string.h>

#include "heat.h"

void dsm__heat_init(struct dsm__heat *heat, uint64_t nr_pages)
{
    memset(heat, 0, sizeof(*heat));
    while ((nr_pages - 1) >> heat->range_shift >= DSM_HEAT_RANGES) {
        heat->range_shift++;
    }
    heat->nr_ranges = ((nr_pages - 1) >> heat->range_shift) + 1;
}

/*
 * A place with the lowest count. Counts only grow, so as long as there is one
 * with the lowest that was known it is the one; usually it is the next.
 */
static uint32_t heat_lowest(struct dsm__heat *heat)
{
    for (uint32_t n = 0; n < DSM_HEAT_PAGES; n++) {
        heat->hand = (heat->hand + 1) % DSM_HEAT_PAGES;
        if (heat->count[heat->hand] == heat->lowest) {
            return heat->hand;
        }
    }
    for (uint32_t i = 0; i < DSM_HEAT_PAGES; i++) {
        if (heat->count[i] < heat->count[heat->hand]) {
            heat->hand = i;
        }
    }
    heat->lowest = heat->count[heat->hand];
    return heat->hand;
}

/* The place that @page has or gets. */
static uint32_t heat_place(struct dsm__heat *heat, uint64_t page)
{
    uint32_t i;

    for (i = 0; i < heat->nr_pages; i++) {
        if (heat->page[i] == page) {
            return i;
        }
    }
    i = heat->nr_pages < DSM_HEAT_PAGES ? heat->nr_pages++ : heat_lowest(heat);
    heat->page[i] = page;
    heat->missed[i] = heat->count[i];
    heat->writes[i] = 0;
    return i;
}

void dsm__heat_add(struct dsm__heat *heat, uint64_t page, bool write)
{
    uint32_t i = heat_place(heat, page);

    heat->count[i]++;
    heat->writes[i] += write;
    heat->faults++;
    heat->range[page >> heat->range_shift]++;
}

void dsm__heat_read(const struct dsm__heat *heat,
                    struct dsm_region_heat *ret_heat)
{
    memset(ret_heat, 0, sizeof(*ret_heat));
    ret_heat->faults = heat->faults;
    ret_heat->range_pages = UINT64_C(1) << heat->range_shift;
    ret_heat->nr_ranges = heat->nr_ranges;
    memcpy(ret_heat->range, heat->range, sizeof(heat->range));
    ret_heat->nr_pages = heat->nr_pages;
    for (uint32_t i = 0; i < heat->nr_pages; i++) {
        ret_heat->page[i] = (struct dsm_hot_page) {
            .page_idx = heat->page[i],
            .faults = heat->count[i] - heat->missed[i],
            .missed = heat->missed[i],
            .writes = heat->writes[i],
        };
    }
}
