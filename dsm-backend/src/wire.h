/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The frames that libdsm's links exchange: encode and decode, nothing else.
 * No I/O, no allocation, no state; docs/protocol.rst is the specification.
 */
#ifndef DSM_SRC_WIRE_H
#define DSM_SRC_WIRE_H

#include <stddef.h>
#include <stdint.h>

#include "dsm/dsm.h"

#define DSM__WIRE_VERSION_MIN 1
#define DSM__WIRE_VERSION_MAX 1
/* Handshake frames are in this version whatever is agreed on afterwards. */
#define DSM__WIRE_VERSION_HANDSHAKE 1

#define DSM__WIRE_HEADER_BYTES 32
#define DSM__WIRE_HELLO_BYTES 104
#define DSM__WIRE_HELLO_MAX_BYTES 1024
#define DSM__WIRE_TEXT_MAX_BYTES (DSM_REASON_BYTES - 1)
#define DSM__WIRE_NOTICE_MAX_BYTES (8 + DSM__WIRE_TEXT_MAX_BYTES)
#define DSM__WIRE_FRAME_MAX_BYTES \
    (DSM__WIRE_HEADER_BYTES + DSM_MAX_MESSAGE_BYTES)
/* Every frame but MESSAGE fits here. */
#define DSM__WIRE_SMALL_MAX_BYTES \
    (DSM__WIRE_HEADER_BYTES + DSM__WIRE_HELLO_MAX_BYTES)

enum dsm__frame_type {
    DSM__FRAME_HELLO = 1,
    DSM__FRAME_HELLO_ACK = 2,
    DSM__FRAME_REJECT = 3,
    DSM__FRAME_REGION = 4,
    DSM__FRAME_READY = 5,
    DSM__FRAME_MESSAGE = 6,
    DSM__FRAME_CREDIT = 7,
    DSM__FRAME_DOORBELL = 8,
    DSM__FRAME_PING = 9,
    DSM__FRAME_PONG = 10,
    DSM__FRAME_BYE = 11,
    DSM__FRAME_ERROR = 12,
    DSM__NR_FRAMES
};

/* Why a REJECT or ERROR was sent; the text beside it is for people. */
enum dsm__notice {
    DSM__NOTICE_PROTOCOL = 1,  /* not the protocol, or against its rules */
    DSM__NOTICE_VERSION = 2,   /* no protocol version or feature in common */
    DSM__NOTICE_MACHINE = 3,   /* another machine */
    DSM__NOTICE_CONFIG = 4,    /* the two descriptions differ */
    DSM__NOTICE_REGION = 5,    /* the region is not what it should be */
    DSM__NOTICE_DUPLICATE = 6, /* that node is connected already */
    DSM__NOTICE_GONE = 7,      /* that node was lost before */
    DSM__NOTICE_BUSY = 8,      /* no room now; try again */
    DSM__NOTICE_TIMEOUT = 9,   /* took too long; try again */
    DSM__NR_NOTICES
};

/* What a connection is for. */
/* Bits of features in HELLO. */
enum dsm__feature {
    DSM__FEATURE_CODE = 1 << 0, /* shared memory: dsm_config.code */
};

enum dsm__channel {
    DSM__CHANNEL_LINK = 0,
    DSM__CHANNEL_PAGES = 1,
    DSM__NR_CHANNELS
};

struct dsm__hello {
    uint8_t machine_uuid[DSM_UUID_BYTES];
    uint16_t version_min;
    uint16_t version_max;
    uint32_t features_offered;
    uint32_t features_required;
    uint16_t from;
    uint16_t to;
    uint16_t nr_nodes;
    uint16_t elf_machine;
    uint32_t coherence;
    uint32_t page_bytes;
    uint32_t cpus;
    uint64_t ram_bytes;
    uint16_t window[DSM_NR_CLASSES];
    uint16_t doorbell_window;
    uint16_t channel; /* enum dsm__channel */
    char name[DSM_NAME_BYTES]; /* NUL padded and terminated */
};

/* A decoded frame. Pointers point into the decoded buffer. */
struct dsm__frame {
    enum dsm__frame_type type;
    uint8_t version;
    uint8_t cls; /* MESSAGE only, else 0 */
    uint32_t seq;
    uint16_t credit[DSM_NR_CLASSES]; /* returned with this frame */
    uint16_t doorbell_credit;
    union {
        struct dsm__hello hello; /* HELLO, HELLO_ACK */
        struct {
            uint16_t owner;
            uint64_t bytes;
        } region;
        struct {
            uint32_t code; /* enum dsm__notice, or one not known yet */
            const char *text; /* not terminated, any bytes */
            uint32_t text_bytes;
        } notice; /* REJECT, ERROR */
        struct {
            const uint8_t *data;
            uint32_t bytes;
        } message;
        uint64_t bits;  /* DOORBELL, never 0 */
        uint64_t token; /* PING, PONG */
    };
};

/**
 * dsm__wire_encode() - write one frame.
 * @out: room for DSM__WIRE_FRAME_MAX_BYTES, or for DSM__WIRE_SMALL_MAX_BYTES
 *       if it is not a MESSAGE.
 * Return: its length. The frame is the caller's own and must be valid.
 */
size_t dsm__wire_encode(uint8_t *out, const struct dsm__frame *frame);

/**
 * dsm__wire_encode_header() - only the header, for a payload of @body_bytes
 * that is sent from where it lies.
 * Return: DSM__WIRE_HEADER_BYTES.
 */
size_t dsm__wire_encode_header(uint8_t *out, const struct dsm__frame *frame,
                               uint32_t body_bytes);

/**
 * dsm__wire_decode() - read the frame that @buf starts with.
 * @ret_why: on failure a constant string for people.
 *
 * Says so as early as the bytes allow: a wrong magic needs no whole header.
 * Return: bytes consumed; 0 it is not complete yet; -EPROTO it is malformed;
 * -EPROTONOSUPPORT it has a version that this side does not speak.
 */
int dsm__wire_decode(const uint8_t *buf, size_t buf_bytes,
                     struct dsm__frame *ret_frame, const char **ret_why);

/** dsm__wire_frame_name() - "HELLO", ...; "?" for an unknown type. */
const char *dsm__wire_frame_name(unsigned int type);

/**
 * dsm__wire_text() - copy the text of a notice for people: one line of
 * printable ASCII, terminated; what else the peer sent becomes '?'.
 */
void dsm__wire_text(char *out, size_t out_bytes, const char *text,
                    size_t text_bytes);

#endif
