/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Frames of the agent protocol (chimera/agent-proto.h) and of the control
 * protocol (control-proto.h): the same header under another magic. Pure
 * functions over bytes.
 */
#ifndef CHIMERA_FRAME_H
#define CHIMERA_FRAME_H

#include <chimera/agent-proto.h>
#include <glib.h>

#define FRAME_NONCE_BYTES 8

/*
 * Reads one frame from the front of @data.
 * Return: bytes of header and payload; 0 when more bytes are needed;
 * -1 with @error when this is no frame. The payload follows the header.
 */
gssize frame_parse(const uint8_t *data, gsize len, uint32_t magic,
                   struct agent_frame *ret_frame, GError **error);

/* Encodes the header. */
void frame_encode(struct agent_frame *wire, uint32_t magic, uint16_t type,
                  uint16_t stream, uint32_t session, uint32_t len);

/*
 * Looks for the AGENT_HELLO that answers @nonce in bytes whose frame
 * boundaries are unknown. Return: its offset when its header and nonce are
 * there (the rest may still be missing), else -1 and *ret_discard: how many
 * bytes from the front cannot be part of it.
 */
gssize frame_find_hello(const uint8_t *data, gsize len,
                        const uint8_t nonce[FRAME_NONCE_BYTES],
                        gsize *ret_discard);

static inline uint32_t frame_u32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
           (uint32_t)p[3] << 24;
}

static inline void frame_put_u32(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
    p[2] = (uint8_t)(v >> 16);
    p[3] = (uint8_t)(v >> 24);
}

#endif
