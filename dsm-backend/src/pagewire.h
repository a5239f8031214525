/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The frames of the page channel: encode and decode, nothing else. No I/O,
 * no allocation, no state; docs/protocol.rst is the specification.
 */
#ifndef DSM_SRC_PAGEWIRE_H
#define DSM_SRC_PAGEWIRE_H

#include <stdbool.h>
#include <stdint.h>

#include "coherence.h"
#include "rights.h"

#define DSM__PAGE_HEADER_BYTES 32
#define DSM__PAGE_RUN_MAX 64   /* pages in one DATA_S */
#define DSM__PAGE_AHEAD_MAX 256 /* pages in one AHEAD or DECLINE */
#define DSM__PAGE_STRIDE_MAX (INT64_C(1) << 32)

/* Beside those of enum dsm__coh_type. */
enum dsm__page_type {
    DSM__PAGE_AHEAD = 17, /* to the home: pages wanted ahead of use */
    DSM__PAGE_PING,
    DSM__PAGE_PONG,
    /* Rights to shared memory: for each type of message, both rights. */
    DSM__PAGE_RIGHTS = DSM__NR_COH,
    DSM__NR_PAGE = DSM__PAGE_RIGHTS + DSM__NR_RIGHTS_TYPES * DSM__NR_RIGHTS
};

struct dsm__page_frame {
    uint8_t type;
    uint16_t region; /* its home */
    uint16_t node;   /* in FWD_READ, FWD_WRITE, LOST, REFUSE, MET */
    uint32_t seq;
    uint32_t count; /* pages: DATA_*, RETURN, AHEAD, DECLINE */
    uint64_t page;
    int64_t stride; /* in pages: AHEAD, DECLINE */
    uint64_t token; /* PING, PONG; on the wire in place of the stride */
    uint32_t before, after; /* MAY_WRITE; likewise */
};

/** dsm__page_encode() - write a header. */
void dsm__page_encode(uint8_t out[DSM__PAGE_HEADER_BYTES],
                      const struct dsm__page_frame *frame);

/**
 * dsm__page_decode() - read a header.
 * @ret_why: on failure a constant string for people.
 * Return: 0; -EPROTO it is malformed. The pages are not checked to be in the
 * region, but to be less than 2^52 and their numbers not to overflow.
 */
int dsm__page_decode(const uint8_t in[DSM__PAGE_HEADER_BYTES],
                     struct dsm__page_frame *ret_frame, const char **ret_why);

static inline bool dsm__page_is_rights(unsigned int type)
{
    return type >= DSM__PAGE_RIGHTS && type < DSM__NR_PAGE;
}

/** dsm__page_frame_name() - "READ", ...; "?" for an unknown type. */
const char *dsm__page_frame_name(unsigned int type);

#endif
