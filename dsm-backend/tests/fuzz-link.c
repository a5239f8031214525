/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A node whose peer sends anything. It must live, must not do anything
 * without being asked, and must leave no file descriptor behind.
 *
 * Input: one byte says how far the handshake goes by itself; then records of
 *   {type, cls, flags, bytes / 16, credits 0..1, body}
 * become frames with the right magic, version and number, so that the fuzzer
 * need not find those; with flag 1 the body is sent as it is.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "internal.h"
#include "region.h"
#include "transport_loopback.h"

#define REGION_BYTES 65536

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

struct target {
    struct dsm_node *node;
    unsigned int nr_messages;
    bool up, down;
};

static bool on_message(void *opaque, uint16_t from, enum dsm_class cls,
                       const void *data, uint32_t bytes)
{
    struct target *t = opaque;
    struct iovec iov = { .iov_base = (void *)data, .iov_len = bytes };

    assert(t->up && !t->down && from == 1);
    dsm_send(t->node, from, cls, &iov, 1);
    dsm_resume(t->node, from, cls);
    return ++t->nr_messages % 3 != 0;
}

static void on_writable(void *opaque, uint16_t to, enum dsm_class cls)
{
}

static void on_doorbell(void *opaque, uint16_t from, uint64_t bits)
{
    struct target *t = opaque;

    assert(t->up && !t->down && bits);
    dsm_doorbell(t->node, from, bits);
}

static void on_peer_state(void *opaque, uint16_t peer,
                          enum dsm_peer_state state, const char *reason)
{
    struct target *t = opaque;

    assert(peer == 1 && !t->down);
    assert(state == (t->up ? DSM_PEER_DOWN : DSM_PEER_UP));
    t->down = t->up;
    t->up = true;
}

static void put(int fd, const struct dsm__frame *f, int pass_fd)
{
    uint8_t buf[DSM__WIRE_SMALL_MAX_BYTES];
    struct iovec iov = { .iov_base = buf };

    iov.iov_len = dsm__wire_encode(buf, f);
    dsm__sock_send(fd, &iov, 1, pass_fd);
}

static void settle(struct target *t, struct dsm__hub *hub)
{
    bool busy = true;

    while (busy) {
        busy = dsm_node_dispatch(t->node) > 0;
        for (unsigned int i = 0; i < dsm__hub_nr_lanes(hub); i++) {
            busy |= dsm__hub_move(hub, i, SIZE_MAX);
        }
    }
}

static uint32_t handshake(int fd, unsigned int steps, int memory)
{
    struct dsm__frame f = {
        .type = DSM__FRAME_HELLO,
        .version = 1,
        .hello = {
            .version_min = 1,
            .version_max = 1,
            .from = 1,
            .nr_nodes = 2,
            .elf_machine = 62,
            .page_bytes = sysconf(_SC_PAGESIZE),
            .cpus = 1,
            .ram_bytes = REGION_BYTES,
            .window = { 8, 8, 8, 8 },
            .doorbell_window = 2,
            .name = "peer",
        },
    };

    if (steps > 0) {
        put(fd, &f, -1);
    }
    if (steps > 1) {
        f = (struct dsm__frame) {
            .type = DSM__FRAME_REGION,
            .version = 1,
            .seq = 1,
            .region = { 1, REGION_BYTES },
        };
        put(fd, &f, memory);
    }
    if (steps > 2) {
        f = (struct dsm__frame) {
            .type = DSM__FRAME_READY,
            .version = 1,
            .seq = 2,
        };
        put(fd, &f, -1);
    }
    return steps;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static const struct dsm_ops ops = {
        .message = on_message,
        .writable = on_writable,
        .doorbell = on_doorbell,
        .peer_state = on_peer_state,
    };
    const struct dsm_node_desc nodes[2] = {
        { "self", 62, 1, REGION_BYTES, "loopback:0" },
        { "peer", 62, 1, REGION_BYTES, "loopback:1" },
    };
    struct dsm__hub *hub = dsm__hub_new();
    const struct dsm__options options = {
        .transport = &dsm__transport_loopback,
        .transport_ctx = hub,
    };
    const struct dsm_config config = {
        .nr_nodes = 2,
        .nodes = nodes,
        .credits = { 4, 4, 4, 4 },
        .heartbeat_ms = 1000000,
        .peer_timeout_ms = 10000000,
    };
    struct target t = { 0 };
    struct dsm__frame f;
    uint32_t seq;
    int memory, fd, ret, probe, lowest;

    lowest = dup(0);
    close(lowest);
    ret = dsm__node_create(&config, &ops, &t, &options, &t.node);
    assert(ret == 0);
    ret = dsm_node_start(t.node);
    assert(ret == 0);
    ret = dsm__transport_loopback.connect(hub, "0", &fd);
    assert(ret == 0);
    memory = dsm__region_create("peer", REGION_BYTES);
    assert(memory >= 0);
    seq = handshake(fd, bytes ? data[0] & 3 : 0, memory);
    if (bytes) {
        data++;
        bytes--;
    }
    while (bytes >= 6) {
        uint8_t buf[DSM__WIRE_HEADER_BYTES + 4096 + 16];
        struct iovec iov = { .iov_base = buf };
        size_t body = (data[3] & 63) * 16 + (data[2] >> 4);

        f = (struct dsm__frame) {
            .type = data[0],
            .version = 1,
            .cls = data[1],
            .seq = seq,
            .credit = { data[4] & 15, data[4] >> 4, data[5] & 15 },
            .doorbell_credit = data[5] >> 4,
        };
        ret = data[2] & 1;
        data += 6;
        bytes -= 6;
        body = body < bytes ? body : bytes;
        if (ret) {
            iov.iov_base = (void *)data;
            iov.iov_len = body;
        } else {
            dsm__wire_encode_header(buf, &f, body);
            memcpy(buf + DSM__WIRE_HEADER_BYTES, data, body);
            iov.iov_len = DSM__WIRE_HEADER_BYTES + body;
            seq++;
        }
        if (iov.iov_len) {
            dsm__sock_send(fd, &iov, 1, -1);
        }
        data += body;
        bytes -= body;
        settle(&t, hub);
    }
    settle(&t, hub);
    close(fd);
    settle(&t, hub);
    assert(t.up == t.down);
    dsm_node_destroy(t.node);
    dsm__hub_free(hub);
    close(memory);
    probe = dup(0);
    assert(probe == lowest);
    close(probe);
    return 0;
}
