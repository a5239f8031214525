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

/* The place that @page has or gets. */
static uint32_t heat_place(struct dsm__heat *heat, uint64_t page)
{
    uint32_t i, lowest = 0;

    for (i = 0; i < heat->nr_pages; i++) {
        if (heat->page[i] == page) {
            return i;
        }
    }
    if (heat->nr_pages < DSM_HEAT_PAGES) {
        lowest = heat->nr_pages++;
    } else {
        for (i = 1; i < DSM_HEAT_PAGES; i++) {
            if (heat->count[i] < heat->count[lowest]) {
                lowest = i;
            }
        }
    }
    heat->page[lowest] = page;
    heat->missed[lowest] = heat->count[lowest];
    heat->writes[lowest] = 0;
    return lowest;
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
