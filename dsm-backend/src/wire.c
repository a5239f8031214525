/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "wire.h"

/* In the order of the bytes on the wire. */
static const uint8_t wire_magic[4] = { 'D', 'S', 'M', '1' };

/* All integers little endian; reserved fields are 0. */
struct wire_header {
    uint8_t magic[4];
    uint8_t version;
    uint8_t type;
    uint8_t cls;
    uint8_t reserved0;
    uint32_t seq;
    uint32_t body_bytes;
    uint16_t credit[DSM_NR_CLASSES];
    uint16_t doorbell_credit;
    uint16_t reserved1;
    uint32_t reserved2;
};
_Static_assert(sizeof(struct wire_header) == DSM__WIRE_HEADER_BYTES, "");
_Static_assert(offsetof(struct wire_header, seq) == 8, "");
_Static_assert(offsetof(struct wire_header, credit) == 16, "");
_Static_assert(offsetof(struct wire_header, reserved2) == 28, "");

struct wire_hello {
    uint8_t machine_uuid[16];
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
    uint16_t channel;
    uint16_t reserved[2];
    char name[32];
};
_Static_assert(sizeof(struct wire_hello) == DSM__WIRE_HELLO_BYTES, "");
_Static_assert(offsetof(struct wire_hello, ram_bytes) == 48, "");
_Static_assert(offsetof(struct wire_hello, name) == 72, "");
_Static_assert(DSM_NAME_BYTES == 32 && DSM_UUID_BYTES == 16 &&
               DSM_NR_CLASSES == 4, "the wire has these sizes");

struct wire_region {
    uint16_t owner;
    uint16_t reserved0;
    uint32_t reserved1;
    uint64_t bytes;
};
_Static_assert(sizeof(struct wire_region) == 16, "");

struct wire_notice {
    uint32_t code;
    uint32_t reserved;
    /* then the text */
};
_Static_assert(sizeof(struct wire_notice) == 8, "");

_Static_assert(offsetof(struct dsm__frame, bits) ==
               offsetof(struct dsm__frame, token), "coded as one");

static const struct {
    const char *name;
    uint32_t min_bytes;
    uint32_t max_bytes;
} wire_frames[DSM__NR_FRAMES] = {
    [DSM__FRAME_HELLO] = { "HELLO", DSM__WIRE_HELLO_BYTES,
                           DSM__WIRE_HELLO_MAX_BYTES },
    [DSM__FRAME_HELLO_ACK] = { "HELLO_ACK", DSM__WIRE_HELLO_BYTES,
                               DSM__WIRE_HELLO_MAX_BYTES },
    [DSM__FRAME_REJECT] = { "REJECT", 8, DSM__WIRE_NOTICE_MAX_BYTES },
    [DSM__FRAME_REGION] = { "REGION", 16, 16 },
    [DSM__FRAME_READY] = { "READY", 0, 0 },
    [DSM__FRAME_MESSAGE] = { "MESSAGE", 0, DSM_MAX_MESSAGE_BYTES },
    [DSM__FRAME_CREDIT] = { "CREDIT", 0, 0 },
    [DSM__FRAME_DOORBELL] = { "DOORBELL", 8, 8 },
    [DSM__FRAME_PING] = { "PING", 8, 8 },
    [DSM__FRAME_PONG] = { "PONG", 8, 8 },
    [DSM__FRAME_BYE] = { "BYE", 0, 0 },
    [DSM__FRAME_ERROR] = { "ERROR", 8, DSM__WIRE_NOTICE_MAX_BYTES },
};

const char *dsm__wire_frame_name(unsigned int type)
{
    return type > 0 && type < DSM__NR_FRAMES ? wire_frames[type].name : "?";
}

size_t dsm__wire_encode_header(uint8_t *out, const struct dsm__frame *frame,
                               uint32_t body_bytes)
{
    struct wire_header h = {
        .version = frame->version,
        .type = frame->type,
        .cls = frame->cls,
        .seq = htole32(frame->seq),
        .body_bytes = htole32(body_bytes),
        .doorbell_credit = htole16(frame->doorbell_credit),
    };

    memcpy(h.magic, wire_magic, sizeof(h.magic));
    for (int i = 0; i < DSM_NR_CLASSES; i++) {
        h.credit[i] = htole16(frame->credit[i]);
    }
    memcpy(out, &h, sizeof(h));
    return sizeof(h);
}

static size_t wire_encode_hello(uint8_t *out, const struct dsm__hello *hello)
{
    struct wire_hello w = {
        .version_min = htole16(hello->version_min),
        .version_max = htole16(hello->version_max),
        .features_offered = htole32(hello->features_offered),
        .features_required = htole32(hello->features_required),
        .from = htole16(hello->from),
        .to = htole16(hello->to),
        .nr_nodes = htole16(hello->nr_nodes),
        .elf_machine = htole16(hello->elf_machine),
        .coherence = htole32(hello->coherence),
        .page_bytes = htole32(hello->page_bytes),
        .cpus = htole32(hello->cpus),
        .ram_bytes = htole64(hello->ram_bytes),
        .doorbell_window = htole16(hello->doorbell_window),
        .channel = htole16(hello->channel),
    };

    memcpy(w.machine_uuid, hello->machine_uuid, sizeof(w.machine_uuid));
    memcpy(w.name, hello->name, sizeof(w.name));
    for (int i = 0; i < DSM_NR_CLASSES; i++) {
        w.window[i] = htole16(hello->window[i]);
    }
    memcpy(out, &w, sizeof(w));
    return sizeof(w);
}

size_t dsm__wire_encode(uint8_t *out, const struct dsm__frame *frame)
{
    uint8_t *body = out + DSM__WIRE_HEADER_BYTES;
    size_t body_bytes = 0;
    uint64_t le64;

    switch (frame->type) {
    case DSM__FRAME_HELLO:
    case DSM__FRAME_HELLO_ACK:
        body_bytes = wire_encode_hello(body, &frame->hello);
        break;
    case DSM__FRAME_REGION: {
        struct wire_region w = {
            .owner = htole16(frame->region.owner),
            .bytes = htole64(frame->region.bytes),
        };
        body_bytes = sizeof(w);
        memcpy(body, &w, sizeof(w));
        break;
    }
    case DSM__FRAME_REJECT:
    case DSM__FRAME_ERROR: {
        struct wire_notice w = { .code = htole32(frame->notice.code) };
        memcpy(body, &w, sizeof(w));
        memcpy(body + sizeof(w), frame->notice.text,
               frame->notice.text_bytes);
        body_bytes = sizeof(w) + frame->notice.text_bytes;
        break;
    }
    case DSM__FRAME_MESSAGE:
        body_bytes = frame->message.bytes;
        if (body_bytes) {
            memcpy(body, frame->message.data, body_bytes);
        }
        break;
    case DSM__FRAME_DOORBELL:
    case DSM__FRAME_PING:
    case DSM__FRAME_PONG:
        le64 = htole64(frame->token);
        body_bytes = sizeof(le64);
        memcpy(body, &le64, sizeof(le64));
        break;
    case DSM__FRAME_READY:
    case DSM__FRAME_CREDIT:
    case DSM__FRAME_BYE:
    case DSM__NR_FRAMES:
        break;
    }
    assert(body_bytes >= wire_frames[frame->type].min_bytes &&
           body_bytes <= wire_frames[frame->type].max_bytes);
    dsm__wire_encode_header(out, frame, body_bytes);
    return DSM__WIRE_HEADER_BYTES + body_bytes;
}

static int wire_decode_hello(const uint8_t *body, uint32_t body_bytes,
                             struct dsm__hello *ret, const char **ret_why)
{
    struct wire_hello w;
    bool ended = false;

    memcpy(&w, body, sizeof(w));
    *ret = (struct dsm__hello) {
        .version_min = le16toh(w.version_min),
        .version_max = le16toh(w.version_max),
        .features_offered = le32toh(w.features_offered),
        .features_required = le32toh(w.features_required),
        .from = le16toh(w.from),
        .to = le16toh(w.to),
        .nr_nodes = le16toh(w.nr_nodes),
        .elf_machine = le16toh(w.elf_machine),
        .coherence = le32toh(w.coherence),
        .page_bytes = le32toh(w.page_bytes),
        .cpus = le32toh(w.cpus),
        .ram_bytes = le64toh(w.ram_bytes),
        .doorbell_window = le16toh(w.doorbell_window),
        .channel = le16toh(w.channel),
    };
    memcpy(ret->machine_uuid, w.machine_uuid, sizeof(ret->machine_uuid));
    memcpy(ret->name, w.name, sizeof(ret->name));
    for (int i = 0; i < DSM_NR_CLASSES; i++) {
        ret->window[i] = le16toh(w.window[i]);
    }

    if (ret->version_min > ret->version_max || ret->version_min == 0) {
        *ret_why = "HELLO with an empty range of versions";
        return -EPROTO;
    }
    if (ret->version_min > DSM__WIRE_VERSION_MAX) {
        return 0; /* nothing else in it is for us to judge */
    }
    /*
     * Later versions may append fields and give meaning to reserved ones.
     * Whoever speaks only what we speak has nothing to put there.
     */
    if (ret->version_max <= DSM__WIRE_VERSION_MAX) {
        if (body_bytes != sizeof(w)) {
            *ret_why = "HELLO of a wrong length";
            return -EPROTO;
        }
        if (w.reserved[0] || w.reserved[1]) {
            *ret_why = "reserved field of HELLO not 0";
            return -EPROTO;
        }
    }
    if (ret->features_required & ~ret->features_offered) {
        *ret_why = "HELLO requires a feature that it does not offer";
        return -EPROTO;
    }
    for (size_t i = 0; i < sizeof(ret->name); i++) {
        if (ended && ret->name[i]) {
            *ret_why = "name in HELLO is not padded with NUL";
            return -EPROTO;
        }
        ended |= !ret->name[i];
    }
    if (!ended || !ret->name[0]) {
        *ret_why = "name in HELLO is empty or not terminated";
        return -EPROTO;
    }
    for (int i = 0; i < DSM_NR_CLASSES; i++) {
        if (ret->window[i] == 0 || ret->window[i] > DSM_MAX_CREDITS) {
            *ret_why = "window in HELLO out of range";
            return -EPROTO;
        }
    }
    if (ret->channel >= DSM__NR_CHANNELS) {
        *ret_why = "channel in HELLO out of range";
        return -EPROTO;
    }
    if (ret->doorbell_window == 0) {
        *ret_why = "doorbell window in HELLO is 0";
        return -EPROTO;
    }
    return 0;
}

static int wire_decode_body(const struct wire_header *h, const uint8_t *body,
                            uint32_t body_bytes, struct dsm__frame *f,
                            const char **ret_why)
{
    struct wire_notice notice;
    struct wire_region region;
    uint64_t le64;
    bool some = false;

    switch (f->type) {
    case DSM__FRAME_HELLO:
    case DSM__FRAME_HELLO_ACK:
        return wire_decode_hello(body, body_bytes, &f->hello, ret_why);
    case DSM__FRAME_REGION:
        memcpy(&region, body, sizeof(region));
        if (region.reserved0 || region.reserved1) {
            *ret_why = "reserved field of REGION not 0";
            return -EPROTO;
        }
        f->region.owner = le16toh(region.owner);
        f->region.bytes = le64toh(region.bytes);
        return 0;
    case DSM__FRAME_REJECT:
    case DSM__FRAME_ERROR:
        memcpy(&notice, body, sizeof(notice));
        if (notice.reserved && h->version <= DSM__WIRE_VERSION_MAX) {
            *ret_why = "reserved field of REJECT or ERROR not 0";
            return -EPROTO;
        }
        f->notice.code = le32toh(notice.code);
        f->notice.text = (const char *)body + sizeof(notice);
        f->notice.text_bytes = body_bytes - sizeof(notice);
        return 0;
    case DSM__FRAME_MESSAGE:
        f->message.data = body;
        f->message.bytes = body_bytes;
        return 0;
    case DSM__FRAME_DOORBELL:
    case DSM__FRAME_PING:
    case DSM__FRAME_PONG:
        memcpy(&le64, body, sizeof(le64));
        f->token = le64toh(le64);
        if (f->type == DSM__FRAME_DOORBELL && f->bits == 0) {
            *ret_why = "DOORBELL without a bit";
            return -EPROTO;
        }
        return 0;
    case DSM__FRAME_CREDIT:
        for (int i = 0; i < DSM_NR_CLASSES; i++) {
            some |= f->credit[i] != 0;
        }
        if (!some && !f->doorbell_credit) {
            *ret_why = "CREDIT without a credit";
            return -EPROTO;
        }
        return 0;
    case DSM__FRAME_READY:
    case DSM__FRAME_BYE:
        return 0;
    case DSM__NR_FRAMES:
        break;
    }
    *ret_why = "frame of an unknown type";
    return -EPROTO;
}

int dsm__wire_decode(const uint8_t *buf, size_t buf_bytes,
                     struct dsm__frame *ret_frame, const char **ret_why)
{
    struct wire_header h;
    struct dsm__frame f = { 0 };
    uint32_t body_bytes;
    size_t magic_bytes = buf_bytes < 4 ? buf_bytes : 4;
    int ret;

    if (memcmp(buf, wire_magic, magic_bytes) != 0) {
        *ret_why = "not a frame of this protocol";
        return -EPROTO;
    }
    if (buf_bytes < 6) {
        return 0;
    }
    /* A refusal can be read in every version: docs/protocol.rst. */
    if ((buf[4] < DSM__WIRE_VERSION_MIN || buf[4] > DSM__WIRE_VERSION_MAX) &&
        buf[5] != DSM__FRAME_REJECT) {
        *ret_why = "frame of another protocol version";
        return -EPROTONOSUPPORT;
    }
    if (buf_bytes < sizeof(h)) {
        return 0;
    }
    memcpy(&h, buf, sizeof(h));

    if (h.type == 0 || h.type >= DSM__NR_FRAMES) {
        *ret_why = "frame of an unknown type";
        return -EPROTO;
    }
    body_bytes = le32toh(h.body_bytes);
    if (body_bytes < wire_frames[h.type].min_bytes ||
        body_bytes > wire_frames[h.type].max_bytes) {
        *ret_why = "frame of an impossible length";
        return -EPROTO;
    }
    if (h.reserved0 || h.reserved1 || h.reserved2) {
        *ret_why = "reserved field of the header not 0";
        return -EPROTO;
    }
    if (h.cls >= DSM_NR_CLASSES || (h.cls && h.type != DSM__FRAME_MESSAGE)) {
        *ret_why = "frame of an unknown class";
        return -EPROTO;
    }
    if (buf_bytes - sizeof(h) < body_bytes) {
        return 0;
    }

    f.type = h.type;
    f.version = h.version;
    f.cls = h.cls;
    f.seq = le32toh(h.seq);
    f.doorbell_credit = le16toh(h.doorbell_credit);
    for (int i = 0; i < DSM_NR_CLASSES; i++) {
        f.credit[i] = le16toh(h.credit[i]);
    }
    ret = wire_decode_body(&h, buf + sizeof(h), body_bytes, &f, ret_why);
    if (ret < 0) {
        return ret;
    }
    *ret_frame = f;
    return sizeof(h) + body_bytes;
}

void dsm__wire_text(char *out, size_t out_bytes, const char *text,
                    size_t text_bytes)
{
    size_t n = text_bytes < out_bytes - 1 ? text_bytes : out_bytes - 1;

    for (size_t i = 0; i < n; i++) {
        out[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
    }
    out[n] = '\0';
}
