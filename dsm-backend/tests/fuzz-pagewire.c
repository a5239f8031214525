/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The decoder of page frames takes any bytes. What it accepts is canonical,
 * and its pages are where pages can be.
 */
#include <stdlib.h>
#include <string.h>

#include "pagewire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    uint8_t again[DSM__PAGE_HEADER_BYTES];
    struct dsm__page_frame f;
    const char *why;

    for (; bytes >= sizeof(again); data += sizeof(again),
                                   bytes -= sizeof(again)) {
        why = NULL;
        if (dsm__page_decode(data, &f, &why) < 0) {
            if (!why) {
                abort();
            }
            continue;
        }
        dsm__page_encode(again, &f);
        if (memcmp(again, data, sizeof(again)) != 0 ||
            dsm__page_frame_name(f.type)[0] == '?' ||
            f.count > DSM__PAGE_AHEAD_MAX ||
            (dsm__coh_has_data(f.type) &&
             (f.count == 0 || f.count > DSM__PAGE_RUN_MAX)) ||
            f.page + (uint64_t)(f.stride * ((int64_t)f.count - 1)) >=
                UINT64_C(1) << 53) {
            abort();
        }
    }
    return 0;
}
