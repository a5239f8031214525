/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "frame.h"

#include "util.h"

#include <string.h>

gssize frame_parse(const uint8_t *data, gsize len, uint32_t magic,
                   struct agent_frame *ret_frame, GError **error)
{
    struct agent_frame f;

    if (len < sizeof(f)) {
        return 0;
    }
    memcpy(&f, data, sizeof(f));
    f.magic = GUINT32_FROM_LE(f.magic);
    f.type = GUINT16_FROM_LE(f.type);
    f.stream = GUINT16_FROM_LE(f.stream);
    f.session = GUINT32_FROM_LE(f.session);
    f.len = GUINT32_FROM_LE(f.len);
    if (f.magic != magic) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_PROTO,
                    "bad frame magic 0x%08x", f.magic);
        return -1;
    }
    if (f.len > AGENT_MAX_PAYLOAD) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_PROTO,
                    "frame of %u bytes, at most %u are allowed", f.len,
                    AGENT_MAX_PAYLOAD);
        return -1;
    }
    if (f.stream > 2) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_PROTO,
                    "frame for stream %u, there are 0, 1 and 2", f.stream);
        return -1;
    }
    if (len < sizeof(f) + f.len) {
        return 0;
    }
    *ret_frame = f;
    return (gssize)(sizeof(f) + f.len);
}

void frame_encode(struct agent_frame *wire, uint32_t magic, uint16_t type,
                  uint16_t stream, uint32_t session, uint32_t len)
{
    g_assert(len <= AGENT_MAX_PAYLOAD);
    wire->magic = GUINT32_TO_LE(magic);
    wire->type = GUINT16_TO_LE(type);
    wire->stream = GUINT16_TO_LE(stream);
    wire->session = GUINT32_TO_LE(session);
    wire->len = GUINT32_TO_LE(len);
}

gssize frame_find_hello(const uint8_t *data, gsize len,
                        const uint8_t nonce[FRAME_NONCE_BYTES],
                        gsize *ret_discard)
{
    struct agent_frame want;
    gsize i;

    /* magic, type, stream and session of the only frame that is looked for */
    frame_encode(&want, AGENT_MAGIC, AGENT_HELLO, 0, 0, 0);
    for (i = 0; i + sizeof(want) + FRAME_NONCE_BYTES <= len; i++) {
        const uint8_t *p = data + i;

        if (memcmp(p, &want, offsetof(struct agent_frame, len)) == 0 &&
            frame_u32(p + offsetof(struct agent_frame, len)) <=
                AGENT_MAX_PAYLOAD &&
            memcmp(p + sizeof(want), nonce, FRAME_NONCE_BYTES) == 0) {
            return (gssize)i;
        }
    }
    *ret_discard = i;
    return -1;
}
