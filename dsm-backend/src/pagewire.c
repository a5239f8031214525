/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <endian.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "pagewire.h"

#define PAGE_VERSION 1
#define PAGE_IDX_MAX (UINT64_C(1) << 52)

/* In the order of the bytes on the wire. */
static const uint8_t page_magic[2] = { 'P', 'G' };

/* All integers little endian; what a type does not use is 0. */
struct wire_page {
    uint8_t magic[2];
    uint8_t version;
    uint8_t type;
    uint32_t seq;
    uint16_t region;
    uint16_t node;
    uint32_t count;
    uint64_t page;
    uint64_t arg;
};
_Static_assert(sizeof(struct wire_page) == DSM__PAGE_HEADER_BYTES, "");
_Static_assert(offsetof(struct wire_page, region) == 8, "");
_Static_assert(offsetof(struct wire_page, page) == 16, "");

static const struct {
    const char *name;
    bool node;          /* names a node */
    bool page;          /* has a page and, but for LOST, REFUSE and MET, a region */
    uint16_t count_max; /* pages, at least 1; 0: no count */
    bool stride, token, range;
} page_frames[DSM__NR_PAGE] = {
    [DSM__COH_READ] = { "READ", .page = true },
    [DSM__COH_WRITE] = { "WRITE", .page = true },
    [DSM__COH_FWD_READ] = { "FWD_READ", .page = true, .node = true },
    [DSM__COH_FWD_WRITE] = { "FWD_WRITE", .page = true, .node = true },
    [DSM__COH_INV] = { "INV", .page = true },
    [DSM__COH_RECALL] = { "RECALL", .page = true },
    [DSM__COH_GRANT] = { "GRANT", .page = true },
    [DSM__COH_GONE] = { "GONE", .page = true },
    [DSM__COH_ACK] = { "ACK", .page = true },
    [DSM__COH_DONE] = { "DONE", .page = true },
    [DSM__COH_DATA_S] = { "DATA_S", .page = true,
                          .count_max = DSM__PAGE_RUN_MAX },
    [DSM__COH_DATA_M] = { "DATA_M", .page = true, .count_max = 1 },
    [DSM__COH_RETURN] = { "RETURN", .page = true, .count_max = 1 },
    [DSM__COH_DECLINE] = { "DECLINE", .page = true, .stride = true,
                           .count_max = DSM__PAGE_AHEAD_MAX },
    [DSM__COH_LOST] = { "LOST", .node = true },
    [DSM__COH_REFUSE] = { "REFUSE", .node = true },
    [DSM__COH_MET] = { "MET", .node = true },
    [DSM__PAGE_AHEAD] = { "AHEAD", .page = true, .stride = true,
                          .count_max = DSM__PAGE_AHEAD_MAX },
    [DSM__PAGE_PING] = { "PING", .token = true },
    [DSM__PAGE_PONG] = { "PONG", .token = true },
#define RIGHTS(type) DSM__PAGE_RIGHTS + DSM__NR_RIGHTS * DSM__RIGHTS_##type
    [RIGHTS(ASK)] = { "ASK_WRITE", .page = true },
    [RIGHTS(ASK) + 1] = { "ASK_EXEC", .page = true },
    [RIGHTS(MAY)] = { "MAY_WRITE", .page = true, .range = true },
    [RIGHTS(MAY) + 1] = { "MAY_EXEC", .page = true },
    [RIGHTS(STOP)] = { "STOP_WRITE", .page = true },
    [RIGHTS(STOP) + 1] = { "STOP_EXEC", .page = true },
    [RIGHTS(STOPPED)] = { "STOPPED_WRITE", .page = true },
    [RIGHTS(STOPPED) + 1] = { "STOPPED_EXEC", .page = true },
#undef RIGHTS
};

const char *dsm__page_frame_name(unsigned int type)
{
    return type > 0 && type < DSM__NR_PAGE ? page_frames[type].name : "?";
}

static uint64_t wire_arg(const struct dsm__page_frame *f)
{
    return page_frames[f->type].token   ? f->token
           : page_frames[f->type].range ? f->before | (uint64_t)f->after << 32
                                        : (uint64_t)f->stride;
}

void dsm__page_encode(uint8_t out[DSM__PAGE_HEADER_BYTES],
                      const struct dsm__page_frame *frame)
{
    struct wire_page w = {
        .version = PAGE_VERSION,
        .type = frame->type,
        .seq = htole32(frame->seq),
        .region = htole16(frame->region),
        .node = htole16(frame->node),
        .count = htole32(frame->count),
        .page = htole64(frame->page),
        .arg = htole64(wire_arg(frame)),
    };

    memcpy(w.magic, page_magic, sizeof(w.magic));
    memcpy(out, &w, sizeof(w));
}

/* Are all its pages where a page can be? */
static bool range_is_sane(const struct dsm__page_frame *f)
{
    int64_t span;

    if (f->stride == 0 || f->stride > DSM__PAGE_STRIDE_MAX ||
        f->stride < -DSM__PAGE_STRIDE_MAX) {
        return false;
    }
    span = f->stride * (int64_t)(f->count - 1);
    return (int64_t)f->page + span >= 0 &&
           (uint64_t)((int64_t)f->page + span) < PAGE_IDX_MAX;
}

int dsm__page_decode(const uint8_t in[DSM__PAGE_HEADER_BYTES],
                     struct dsm__page_frame *ret_frame, const char **ret_why)
{
    struct dsm__page_frame f = { 0 };
    struct wire_page w;
    uint64_t arg;

    memcpy(&w, in, sizeof(w));
    if (memcmp(w.magic, page_magic, sizeof(w.magic)) != 0 ||
        w.version != PAGE_VERSION) {
        *ret_why = "not a frame of the page channel";
        return -EPROTO;
    }
    if (w.type >= DSM__NR_PAGE || !page_frames[w.type].name) {
        *ret_why = "page frame of an unknown type";
        return -EPROTO;
    }
    f.type = w.type;
    f.seq = le32toh(w.seq);
    f.region = le16toh(w.region);
    f.node = le16toh(w.node);
    f.count = le32toh(w.count);
    f.page = le64toh(w.page);
    arg = le64toh(w.arg);
    if ((!page_frames[w.type].node && f.node) ||
        (!page_frames[w.type].page && f.page) ||
        (page_frames[w.type].token && f.region) ||
        (!page_frames[w.type].token && !page_frames[w.type].stride &&
         !page_frames[w.type].range && arg)) {
        *ret_why = "field that this page frame does not use is not 0";
        return -EPROTO;
    }
    if (f.count > page_frames[w.type].count_max ||
        (page_frames[w.type].count_max && f.count == 0)) {
        *ret_why = "page frame with an impossible number of pages";
        return -EPROTO;
    }
    if (f.page >= PAGE_IDX_MAX) {
        *ret_why = "page frame with an impossible page";
        return -EPROTO;
    }
    if (page_frames[w.type].token) {
        f.token = arg;
    } else if (page_frames[w.type].range) {
        f.before = (uint32_t)arg;
        f.after = (uint32_t)(arg >> 32);
    } else {
        f.stride = (int64_t)arg;
    }
    if (page_frames[w.type].stride && !range_is_sane(&f)) {
        *ret_why = "page frame with an impossible range";
        return -EPROTO;
    }
    if (f.before >= DSM__RIGHTS_BLOCK || f.after >= DSM__RIGHTS_BLOCK) {
        *ret_why = "page frame with an impossible range";
        return -EPROTO;
    }
    *ret_frame = f;
    return 0;
}
