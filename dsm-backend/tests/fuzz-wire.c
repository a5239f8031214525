/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The decoder takes any bytes. What it accepts is canonical: encoded again
 * it is the same, for nothing that was there was ignored.
 */
#include <stdlib.h>
#include <string.h>

#include "wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    uint8_t again[DSM__WIRE_FRAME_MAX_BYTES];
    char text[DSM_REASON_BYTES];
    const char *why;
    struct dsm__frame f;
    int n;

    while (bytes > 0) {
        why = NULL;
        n = dsm__wire_decode(data, bytes, &f, &why);
        if (n < 0 && !why) {
            abort();
        }
        if (n <= 0) {
            break;
        }
        if ((size_t)n > bytes) {
            abort();
        }
        if (f.type == DSM__FRAME_REJECT || f.type == DSM__FRAME_ERROR) {
            dsm__wire_text(text, sizeof(text), f.notice.text,
                           f.notice.text_bytes);
        }
        /* Of later versions not everything is understood. */
        if (f.version == DSM__WIRE_VERSION_MAX &&
            !((f.type == DSM__FRAME_HELLO || f.type == DSM__FRAME_HELLO_ACK) &&
              f.hello.version_max > DSM__WIRE_VERSION_MAX) &&
            (dsm__wire_encode(again, &f) != (size_t)n ||
             memcmp(again, data, n) != 0)) {
            abort();
        }
        data += n;
        bytes -= n;
    }
    return 0;
}
