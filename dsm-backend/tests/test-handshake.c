/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Who becomes a peer, who does not, and what both sides are told. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "region.h"

static void assert_contains(const char *text, const char *part)
{
    if (!strstr(text, part)) {
        fail_msg("\"%s\" does not contain \"%s\"", text, part);
    }
}

/* The node refused this connection, said why on both sides, and that's all. */
static void expect_refused(struct raw *r, struct cluster *c, int by,
                           enum dsm__notice notice, const char *why)
{
    struct tnode *t = &c->nodes[by];
    struct dsm__frame f;
    char text[DSM_REASON_BYTES];

    raw_expect(r, c, DSM__FRAME_REJECT, &f);
    dsm__wire_text(text, sizeof(text), f.notice.text, f.notice.text_bytes);
    assert_contains(text, why);
    assert_int_equal(f.notice.code, notice);
    raw_expect_closed(r, c);
    assert_int_equal(t->nr_rejected, 1);
    assert_contains(t->rejected, why);
    assert_contains(t->rejected, "connection from process ");
    t->nr_rejected = 0;
    for (int i = 0; i < c->nr; i++) {
        assert_int_equal(t->ups[i], 0);
        assert_int_equal(t->downs[i], 0);
    }
    raw_close(r);
}

/* HELLOs that describe something else */

static void bend_uuid(struct dsm__hello *h) { h->machine_uuid[15] ^= 1; }
static void bend_versions(struct dsm__hello *h)
{
    h->version_min = 2;
    h->version_max = 3;
}
static void bend_features(struct dsm__hello *h)
{
    h->features_offered = h->features_required = 4;
}
static void bend_nr_nodes(struct dsm__hello *h) { h->nr_nodes++; }
static void bend_to(struct dsm__hello *h) { h->to = 2; }
static void bend_from_self(struct dsm__hello *h) { h->from = h->to; }
static void bend_from_range(struct dsm__hello *h) { h->from = 3; }
static void bend_from_far(struct dsm__hello *h) { h->from = 0xffff; }
static void bend_coherence(struct dsm__hello *h) { h->coherence = 1; }
static void bend_coherence2(struct dsm__hello *h) { h->coherence = 77; }
static void bend_page(struct dsm__hello *h) { h->page_bytes *= 4; }
static void bend_name(struct dsm__hello *h) { h->name[0] = 'N'; }
static void bend_name_ugly(struct dsm__hello *h) { h->name[0] = '\n'; }
static void bend_isa(struct dsm__hello *h) { h->elf_machine = 243; }
static void bend_channel(struct dsm__hello *h) { h->channel = 1; }
static void bend_cpus(struct dsm__hello *h) { h->cpus++; }
static void bend_ram(struct dsm__hello *h) { h->ram_bytes += 4096; }

static const struct {
    void (*bend)(struct dsm__hello *hello);
    enum dsm__notice notice;
    const char *why;
} bends[] = {
    { bend_uuid, DSM__NOTICE_MACHINE, "another machine (uuid differs)" },
    { bend_versions, DSM__NOTICE_VERSION,
      "protocol version 2 to 3 offered, node 1 expects 1 to 1" },
    { bend_features, DSM__NOTICE_VERSION, "protocol features 0x4 required" },
    { bend_nr_nodes, DSM__NOTICE_CONFIG,
      "a machine of 4 nodes offered, node 1 expects 3" },
    { bend_to, DSM__NOTICE_CONFIG,
      "looked for node 2 at the address of node 1" },
    { bend_from_self, DSM__NOTICE_CONFIG, "node index 1 offered" },
    { bend_from_range, DSM__NOTICE_CONFIG, "node index 3 offered" },
    { bend_from_far, DSM__NOTICE_CONFIG, "node index 65535 offered" },
    { bend_coherence, DSM__NOTICE_CONFIG,
      "coherence pages offered, node 1 expects shared" },
    { bend_coherence2, DSM__NOTICE_CONFIG, "coherence unknown offered" },
    { bend_page, DSM__NOTICE_CONFIG,
      "pages of 16384 bytes offered, node 1 expects 4096" },
    { bend_name, DSM__NOTICE_CONFIG, "name Node" },
    { bend_name_ugly, DSM__NOTICE_CONFIG, "name ?ode" },
    { bend_isa, DSM__NOTICE_CONFIG, "ISA 243 offered" },
    { bend_cpus, DSM__NOTICE_CONFIG, "CPUs offered" },
    { bend_channel, DSM__NOTICE_CONFIG, "channel 1 offered" },
    { bend_ram, DSM__NOTICE_CONFIG, "bytes of RAM offered" },
};
#define NR_BENDS (sizeof(bends) / sizeof(bends[0]))

static void test_refused_hello(void **state)
{
    struct cluster *c = cluster_new(3, WIRE_UNIX);
    int fds;

    cluster_start_node(c, 1);
    fds = nr_open_fds();
    for (size_t i = 0; i < NR_BENDS; i++) {
        struct dsm__frame f = hello_of(c, 2, 1, DSM__FRAME_HELLO);
        struct raw r;

        raw_connect(&r, c, 1);
        bends[i].bend(&f.hello);
        raw_put(&r, &f);
        expect_refused(&r, c, 1, bends[i].notice, bends[i].why);
    }
    assert_int_equal(nr_open_fds(), fds);
    cluster_free(c);
}

/* A lower node must not connect to a higher one. */
static void test_wrong_direction(void **state)
{
    struct cluster *c = cluster_new(3, WIRE_UNIX);
    struct dsm__frame f = hello_of(c, 0, 1, DSM__FRAME_HELLO);
    struct raw r;

    cluster_start_node(c, 1);
    raw_connect(&r, c, 1);
    raw_put(&r, &f);
    expect_refused(&r, c, 1, DSM__NOTICE_CONFIG, "node index 0 offered");
    cluster_free(c);
}

/* The same from the other side: the node connects, we answer wrongly. */
static void test_refused_hello_ack(void **state)
{
    for (size_t i = 0; i < NR_BENDS; i++) {
        struct cluster *c = cluster_new(3, WIRE_UNIX);
        struct dsm__frame f;
        struct raw r;
        int listener, fds = nr_open_fds();
        char text[DSM_REASON_BYTES];

        raw_listen(&listener, c, 0);
        cluster_start_node(c, 1);
        raw_accept(&r, c, listener);
        raw_expect(&r, c, DSM__FRAME_HELLO, &f);
        assert_int_equal(f.hello.from, 1);
        assert_int_equal(f.hello.to, 0);
        f = hello_of(c, 0, 1, DSM__FRAME_HELLO_ACK);
        bends[i].bend(&f.hello);
        raw_put(&r, &f);
        raw_expect(&r, c, DSM__FRAME_REJECT, &f);
        assert_int_equal(f.notice.code, bends[i].notice);
        dsm__wire_text(text, sizeof(text), f.notice.text,
                       f.notice.text_bytes);
        assert_contains(text, bends[i].why);
        raw_expect_closed(&r, c);
        /* The one address there is does not have the node: for good. */
        assert_int_equal(c->nodes[1].downs[0], 1);
        assert_int_equal(dsm_peer_state(c->nodes[1].node, 0), DSM_PEER_DOWN);
        assert_contains(c->nodes[1].down_reason[0], bends[i].why);
        assert_int_equal(c->nodes[1].nr_rejected, 0);
        assert_int_equal(dsm_region_fd(c->nodes[1].node, 0), -ENODATA);
        raw_close(&r);
        close(listener);
        cluster_stop_node(c, 1);
        assert_int_equal(nr_open_fds(), fds);
        unlink(c->address[0] + strlen("unix:"));
        cluster_free(c);
    }
}

/* Two real nodes that disagree: a reason on both sides. */
static void disagree(void (*change)(struct cluster *c), const char *why)
{
    struct cluster *c = cluster_new(2, WIRE_UNIX);

    cluster_start_node(c, 0);
    change(c);
    cluster_start_node(c, 1);
    cluster_wait(c, c->nodes[1].downs[0] == 1);
    assert_contains(c->nodes[1].down_reason[0], "refused by the peer: ");
    assert_contains(c->nodes[1].down_reason[0], why);
    assert_contains(c->nodes[0].rejected, why);
    assert_int_equal(dsm_peer_state(c->nodes[0].node, 1), DSM_PEER_ABSENT);
    cluster_free(c);
}

static void change_uuid(struct cluster *c) { c->config.machine_uuid[0]++; }
static void change_cpus(struct cluster *c) { c->desc[1].cpus = 8; }
static void change_own_ram(struct cluster *c) { c->desc[1].ram_bytes *= 2; }

static void test_nodes_disagree(void **state)
{
    disagree(change_uuid, "another machine");
    disagree(change_cpus, "node 1: 8 CPUs offered, node 0 expects 2");
    disagree(change_own_ram, "node 1: 262144 bytes of RAM offered, "
                             "node 0 expects 131072");
}

static void test_other_version(void **state)
{
    struct cluster *c = cluster_new(2, WIRE_UNIX);
    struct dsm__frame f = hello_of(c, 1, 0, DSM__FRAME_HELLO);
    struct raw r;
    int listener;

    /* A HELLO in a version that is not ours. */
    cluster_start_node(c, 0);
    raw_connect(&r, c, 0);
    f.version = 9;
    raw_put(&r, &f);
    expect_refused(&r, c, 0, DSM__NOTICE_VERSION,
                   "protocol version 9 to 9 offered, node 0 expects 1 to 1");
    cluster_stop_node(c, 0);

    /* A later version refuses us: we can read why. */
    raw_listen(&listener, c, 0);
    cluster_start_node(c, 1);
    raw_accept(&r, c, listener);
    raw_expect(&r, c, DSM__FRAME_HELLO, NULL);
    f = frame_of(DSM__FRAME_REJECT);
    f.version = 9;
    f.notice.code = DSM__NOTICE_VERSION;
    f.notice.text = "too\nold";
    f.notice.text_bytes = 7;
    raw_put(&r, &f);
    cluster_wait(c, c->nodes[1].downs[0] == 1);
    assert_string_equal(c->nodes[1].down_reason[0],
                        "refused by the peer: too?old");
    raw_close(&r);
    close(listener);
    unlink(c->address[0] + strlen("unix:"));
    cluster_free(c);
}

/* The reason is there although the node closed without reading all. */
static void test_reason_survives_tcp(void **state)
{
    struct cluster *c = cluster_new(2, WIRE_TCP);
    struct sockaddr_in sa = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
        .sin_port = htons(atoi(strrchr(c->address[0], ':') + 1)),
    };
    struct dsm__frame f = hello_of(c, 1, 0, DSM__FRAME_HELLO);
    static const uint8_t more[200000];
    uint8_t hello[DSM__WIRE_SMALL_MAX_BYTES];
    struct raw r = { .passed_fd = -1 };

    cluster_start_node(c, 0);
    r.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(r.fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    bend_uuid(&f.hello);
    raw_put_bytes(&r, hello, dsm__wire_encode(hello, &f));
    raw_put_bytes(&r, more, sizeof(more));
    raw_expect(&r, c, DSM__FRAME_REJECT, &f);
    assert_int_equal(f.notice.code, DSM__NOTICE_MACHINE);
    assert_contains(c->nodes[0].rejected, "connection from 127.0.0.1 port ");
    raw_close(&r);
    cluster_free(c);
}

/* A node of a later version that still speaks ours is a peer. */
static void test_newer_peer_accepted(void **state)
{
    struct cluster *c = cluster_new(2, WIRE_UNIX);
    struct dsm__frame f = hello_of(c, 1, 0, DSM__FRAME_HELLO);
    struct raw r;

    cluster_start_node(c, 0);
    raw_connect(&r, c, 0);
    f.hello.version_max = 4;
    f.hello.features_offered = 0xff;
    raw_put(&r, &f);
    raw_expect(&r, c, DSM__FRAME_HELLO_ACK, &f);
    assert_int_equal(f.hello.version_max, 1);
    raw_close(&r);
    cluster_free(c);
}

/* Garbage, pieces, order */

static void test_garbage(void **state)
{
    struct cluster *c = cluster_new(2, WIRE_UNIX);
    static const char http[] = "GET / HTTP/1.1\r\n\r\n";
    struct dsm__frame f = hello_of(c, 1, 0, DSM__FRAME_HELLO);
    struct raw r;
    struct rng rng;
    int fds;

    rng_init(&rng, __func__);
    cluster_start_node(c, 0);
    fds = nr_open_fds();
    raw_connect(&r, c, 0);
    raw_put_bytes(&r, http, sizeof(http));
    expect_refused(&r, c, 0, DSM__NOTICE_PROTOCOL,
                   "not a frame of this protocol");

    /* One flipped bit in a HELLO: refused, or not one that matters. */
    for (int i = 0; i < 200; i++) {
        uint8_t buf[DSM__WIRE_SMALL_MAX_BYTES];
        size_t n = dsm__wire_encode(buf, &f);
        uint32_t bit = rng_below(&rng, 8 * n);
        struct dsm__frame got;

        buf[bit / 8] ^= 1 << bit % 8;
        raw_connect(&r, c, 0);
        raw_put_bytes(&r, buf, n);
        shutdown(r.fd, SHUT_WR);
        while (raw_get(&r, c, &got)) {
            assert_true(got.type == DSM__FRAME_REJECT ||
                        got.type == DSM__FRAME_HELLO_ACK ||
                        got.type == DSM__FRAME_REGION);
        }
        raw_close(&r);
        assert_int_equal(dsm_peer_state(c->nodes[0].node, 1),
                         DSM_PEER_ABSENT);
    }
    cluster_settle(c);
    assert_int_equal(nr_open_fds(), fds);
    cluster_free(c);
}

/* The bytes of a whole handshake as node 1, and where REGION starts. */
static size_t handshake_bytes(struct cluster *c, uint8_t *buf,
                              size_t *ret_region)
{
    struct dsm__frame f = hello_of(c, 1, 0, DSM__FRAME_HELLO);
    size_t n = dsm__wire_encode(buf, &f);

    *ret_region = n;
    f = region_of(c, 1);
    f.seq = 1;
    n += dsm__wire_encode(buf + n, &f);
    f = frame_of(DSM__FRAME_READY);
    f.seq = 2;
    return n + dsm__wire_encode(buf + n, &f);
}

static void put_bytes_with_fd(struct raw *r, const uint8_t *buf, size_t bytes,
                              int fd)
{
    struct iovec iov = { .iov_base = (void *)buf, .iov_len = bytes };

    assert_int_equal(dsm__sock_send(r->fd, &iov, 1, fd), bytes);
}

/* The stream ends after every possible number of bytes. */
static void test_cut_everywhere(void **state)
{
    struct cluster *c = cluster_new(2, WIRE_UNIX);
    uint8_t buf[3 * DSM__WIRE_SMALL_MAX_BYTES];
    size_t region, n = handshake_bytes(c, buf, &region);
    int memory = dsm__region_create("raw", c->desc[1].ram_bytes);
    int fds;

    cluster_start_node(c, 0);
    fds = nr_open_fds();
    for (size_t cut = 0; cut < n; cut++) {
        struct tnode *t = &c->nodes[0];
        struct dsm__frame f;
        struct raw r;

        raw_connect(&r, c, 0);
        raw_put_bytes(&r, buf, cut < region ? cut : region);
        if (cut > region) {
            put_bytes_with_fd(&r, buf + region, cut - region, memory);
        }
        shutdown(r.fd, SHUT_WR);
        while (raw_get(&r, c, &f)) {
            assert_int_not_equal(f.type, DSM__FRAME_READY);
        }
        raw_close(&r);
        assert_int_equal(t->nr_rejected, cut > 0);
        if (cut > 0) {
            assert_contains(t->rejected, "connection closed");
        }
        t->nr_rejected = 0;
        assert_int_equal(nr_open_fds(), fds);
        assert_int_equal(t->ups[1], 0);
    }
    close(memory);
    cluster_free(c);
}

static void test_byte_by_byte(void **state)
{
    struct cluster *c = cluster_new(2, WIRE_UNIX);
    uint8_t buf[3 * DSM__WIRE_SMALL_MAX_BYTES];
    size_t region, n = handshake_bytes(c, buf, &region);
    int memory = dsm__region_create("raw", c->desc[1].ram_bytes);
    struct raw r;

    cluster_start_node(c, 0);
    raw_connect(&r, c, 0);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(c->nodes[0].ups[1], 0);
        put_bytes_with_fd(&r, buf + i, 1, i == region ? memory : -1);
        cluster_settle(c);
    }
    assert_int_equal(c->nodes[0].ups[1], 1);
    raw_close(&r);
    close(memory);
    cluster_free(c);
}

static void test_out_of_order(void **state)
{
    struct cluster *c = cluster_new(2, WIRE_UNIX);
    struct dsm__frame hello = hello_of(c, 1, 0, DSM__FRAME_HELLO);
    struct dsm__frame f;
    struct raw r;

    cluster_start_node(c, 0);
    for (int type = 1; type < DSM__NR_FRAMES; type++) {
        char why[64];

        if (type == DSM__FRAME_HELLO || type == DSM__FRAME_REJECT) {
            continue;
        }
        /* In place of the first frame, and of the second. */
        for (int second = 0; second < 2; second++) {
            if (second && type == DSM__FRAME_REGION) {
                continue;
            }
            f = type == DSM__FRAME_HELLO_ACK ? hello : frame_of(type);
            f.type = type;
            if (type == DSM__FRAME_ERROR) {
                f.notice.text = "";
            } else if (type == DSM__FRAME_CREDIT) {
                f.credit[0] = 1;
            } else if (type == DSM__FRAME_DOORBELL) {
                f.bits = 1;
            }
            raw_connect(&r, c, 0);
            if (second) {
                raw_put(&r, &hello);
                raw_expect(&r, c, DSM__FRAME_HELLO_ACK, NULL);
                raw_expect(&r, c, DSM__FRAME_REGION, NULL);
            }
            raw_put(&r, &f);
            snprintf(why, sizeof(why), "%s in place of %s",
                     dsm__wire_frame_name(type),
                     second ? "REGION" : "HELLO");
            expect_refused(&r, c, 0, DSM__NOTICE_PROTOCOL, why);
        }
    }

    /* A number that was not next; credits that cannot be. */
    f = hello;
    f.seq = 1;
    raw_connect(&r, c, 0);
    raw_put(&r, &f);
    expect_refused(&r, c, 0, DSM__NOTICE_PROTOCOL,
                   "frame 1 in place of frame 0");
    f = hello;
    f.credit[2] = 1;
    raw_connect(&r, c, 0);
    raw_put(&r, &f);
    expect_refused(&r, c, 0, DSM__NOTICE_PROTOCOL,
                   "credits before the handshake is done");
    cluster_free(c);
}

/* Time */

static void test_handshake_timeout(void **state)
{
    struct cluster *c = cluster_new(2, WIRE_UNIX);
    struct dsm__frame f = hello_of(c, 1, 0, DSM__FRAME_HELLO);
    struct raw r;
    int listener;

    c->config.handshake_timeout_ms = 30;
    cluster_start_node(c, 0);
    raw_connect(&r, c, 0); /* says nothing */
    expect_refused(&r, c, 0, DSM__NOTICE_TIMEOUT,
                   "no complete handshake within 30 ms");
    raw_connect(&r, c, 0); /* stops half-way */
    raw_put(&r, &f);
    raw_expect(&r, c, DSM__FRAME_HELLO_ACK, NULL);
    raw_expect(&r, c, DSM__FRAME_REGION, NULL);
    expect_refused(&r, c, 0, DSM__NOTICE_TIMEOUT,
                   "no complete handshake within 30 ms");
    cluster_stop_node(c, 0);

    /* A listener that says nothing is tried again. */
    raw_listen(&listener, c, 0);
    cluster_start_node(c, 1);
    for (int i = 0; i < 3; i++) {
        raw_accept(&r, c, listener);
        raw_expect(&r, c, DSM__FRAME_HELLO, NULL);
        raw_expect(&r, c, DSM__FRAME_REJECT, &f);
        assert_int_equal(f.notice.code, DSM__NOTICE_TIMEOUT);
        raw_expect_closed(&r, c);
        raw_close(&r);
        assert_int_equal(c->nodes[1].nr_rejected, i + 1);
        assert_contains(c->nodes[1].rejected, "connecting to node 0: no ");
    }
    assert_int_equal(c->nodes[1].downs[0], 0);
    /* Until the real one comes. */
    close(listener);
    cluster_start_node(c, 0);
    cluster_wait(c, c->nodes[1].ups[0] == 1);
    cluster_free(c);
}

/* Garbage at the address of a peer is reported, and the peer still found. */
static void test_garbage_listener(void **state)
{
    struct cluster *c = cluster_new(2, WIRE_UNIX);
    struct raw r;
    int listener;

    raw_listen(&listener, c, 0);
    cluster_start_node(c, 1);
    raw_accept(&r, c, listener);
    raw_put_bytes(&r, "hello", 5);
    cluster_wait(c, c->nodes[1].nr_rejected == 1);
    assert_contains(c->nodes[1].rejected,
                    "connecting to node 0: not a frame of this protocol");
    raw_close(&r);
    close(listener);
    cluster_start_node(c, 0);
    cluster_wait(c, c->nodes[1].ups[0] == 1 && c->nodes[0].ups[1] == 1);
    cluster_free(c);
}

/* Whoever starts first waits for the other. */
static void test_any_start_order(void **state)
{
    struct cluster *c = cluster_new(4, WIRE_UNIX);
    static const int order[] = { 2, 3, 0, 1 };

    for (int i = 0; i < 4; i++) {
        cluster_start_node(c, order[i]);
        cluster_settle(c);
    }
    cluster_wait(c, c->nodes[0].ups[3] && c->nodes[3].ups[1] &&
                        c->nodes[2].ups[1] && c->nodes[1].ups[0] &&
                        c->nodes[2].ups[0] && c->nodes[3].ups[2]);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(c->nodes[i].nr_rejected, 0);
    }
    cluster_free(c);
}

/* Places that are taken */

static void test_duplicate(void **state)
{
    struct cluster *c = cluster_new(3, WIRE_UNIX);
    struct dsm__frame f = hello_of(c, 1, 0, DSM__FRAME_HELLO);
    struct tnode *t = &c->nodes[0];
    struct raw first, second;

    cluster_start_node(c, 0);
    raw_handshake(&first, c, 1, 0);
    raw_connect(&second, c, 0);
    raw_put(&second, &f);
    raw_expect(&second, c, DSM__FRAME_REJECT, &f);
    assert_int_equal(f.notice.code, DSM__NOTICE_DUPLICATE);
    raw_close(&second);
    assert_contains(t->rejected, "node 1 is connected already");
    assert_int_equal(t->downs[1], 0);

    /* Lost, and fenced: it does not come back. */
    raw_close(&first);
    cluster_wait(c, t->downs[1] == 1);
    assert_string_equal(t->down_reason[1], "connection lost");
    for (int fenced = 0; fenced < 2; fenced++) {
        f = hello_of(c, 1, 0, DSM__FRAME_HELLO);
        raw_connect(&second, c, 0);
        raw_put(&second, &f);
        raw_expect(&second, c, DSM__FRAME_REJECT, &f);
        assert_int_equal(f.notice.code, DSM__NOTICE_GONE);
        raw_close(&second);
        if (!fenced) {
            assert_int_equal(dsm_peer_fence(t->node, 1), 0);
        }
    }
    assert_int_equal(t->ups[1], 1);
    assert_int_equal(t->downs[1], 1);
    cluster_free(c);
}

/* Of two handshakes of one node the first to be complete wins. */
static void test_rivals(void **state)
{
    struct cluster *c = cluster_new(2, WIRE_UNIX);
    struct dsm__frame f = hello_of(c, 1, 0, DSM__FRAME_HELLO);
    int memory = dsm__region_create("raw", c->desc[1].ram_bytes);
    struct raw slow, fast;

    cluster_start_node(c, 0);
    raw_connect(&slow, c, 0);
    raw_put(&slow, &f);
    raw_expect(&slow, c, DSM__FRAME_HELLO_ACK, NULL);
    raw_expect(&slow, c, DSM__FRAME_REGION, NULL);
    raw_handshake(&fast, c, 1, 0);
    f = region_of(c, 1);
    raw_put_fds(&slow, &f, &memory, 1);
    f = frame_of(DSM__FRAME_READY);
    raw_put(&slow, &f);
    raw_expect(&slow, c, DSM__FRAME_REJECT, &f);
    assert_int_equal(f.notice.code, DSM__NOTICE_DUPLICATE);
    assert_int_equal(c->nodes[0].ups[1], 1);
    assert_int_equal(c->nodes[0].downs[1], 0);
    raw_close(&slow);
    raw_close(&fast);
    close(memory);
    cluster_free(c);
}

static void test_busy(void **state)
{
    struct cluster *c = cluster_new(2, WIRE_UNIX);
    struct raw r[64];
    struct dsm__frame f;

    cluster_start_node(c, 0);
    for (int i = 0; i < 64; i++) {
        raw_connect(&r[i], c, 0);
        cluster_settle(c);
    }
    cluster_wait(c, c->nodes[0].nr_rejected >= 40);
    assert_contains(c->nodes[0].rejected, "too many connections at once");
    /* The last ones were refused, and the others only had to wait. */
    raw_expect(&r[63], c, DSM__FRAME_REJECT, &f);
    assert_int_equal(f.notice.code, DSM__NOTICE_BUSY);
    for (int i = 0; i < 64; i++) {
        raw_close(&r[i]);
    }
    cluster_settle(c);
    raw_handshake(&r[0], c, 1, 0);
    raw_close(&r[0]);
    cluster_free(c);
}

/* Without file descriptors nothing is accepted, and nothing spins. */
static void test_no_fds(void **state)
{
    struct cluster *c = cluster_new(2, WIRE_UNIX);
    struct rlimit old, low;
    struct raw r;
    int dispatches = 0;

    cluster_start_node(c, 0);
    raw_connect(&r, c, 0);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    low = old;
    low.rlim_cur = 3;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    while (dsm_node_dispatch(c->nodes[0].node) > 0) {
        dispatches++;
    }
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    assert_true(dispatches < 4);
    assert_contains(c->nodes[0].rejected,
                    "cannot accept a connection: Too many open files");
    raw_close(&r);
    raw_handshake(&r, c, 1, 0);
    raw_close(&r);
    cluster_free(c);
}

/* Regions */

static int make_memory(uint64_t bytes, int seals)
{
    int fd = memfd_create("lie", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, bytes), 0);
    if (seals) {
        assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
    }
    return fd;
}

static int lie_short(struct cluster *c)
{
    return make_memory(c->desc[1].ram_bytes - 4096, F_SEAL_SHRINK);
}
static int lie_long(struct cluster *c)
{
    return make_memory(c->desc[1].ram_bytes + 4096, F_SEAL_SHRINK);
}
static int lie_unsealed(struct cluster *c)
{
    return make_memory(c->desc[1].ram_bytes, F_SEAL_GROW);
}
static int lie_write_sealed(struct cluster *c)
{
    return make_memory(c->desc[1].ram_bytes, F_SEAL_SHRINK | F_SEAL_WRITE);
}
static int lie_read_only(struct cluster *c)
{
    int fd = make_memory(c->desc[1].ram_bytes, F_SEAL_SHRINK);
    char path[64];
    int ro;

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    ro = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(ro >= 0);
    close(fd);
    return ro;
}
static int lie_file(struct cluster *c)
{
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

    assert_true(fd >= 0);
    return fd;
}
static int lie_device(struct cluster *c)
{
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

    assert_true(fd >= 0);
    return fd;
}
static int lie_socket(struct cluster *c)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    return fd;
}
static int lie_none(struct cluster *c)
{
    return -1;
}

static const struct {
    int (*make)(struct cluster *c);
    int copies;
    const char *why;
} lies[] = {
    { lie_short, 1, "does not have the size that was announced" },
    { lie_long, 1, "does not have the size that was announced" },
    { lie_unsealed, 1, "not sealed against shrinking" },
    { lie_write_sealed, 1, "sealed against writing" },
    { lie_read_only, 1, "cannot be written" },
    { lie_file, 1, "not shared memory" },
    { lie_device, 1, "not shared memory" },
    { lie_socket, 1, "not shared memory" },
    { lie_none, 0, "came with 0 file descriptors, not 1" },
    { lie_short, 2, "came with 2 file descriptors, not 1" },
    { lie_short, DSM__RECV_FDS, "came with 8 file descriptors, not 1" },
    { lie_short, DSM__RECV_FDS + 1, "too many file descriptors" },
    { lie_short, 60, "too many file descriptors" },
};

static void test_lying_regions(void **state)
{
    struct cluster *c = cluster_new(2, WIRE_UNIX);
    struct dsm__frame f;
    struct raw r;
    int fds;

    cluster_start_node(c, 0);
    fds = nr_open_fds();
    for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
        int copies[64];
        int fd = lies[i].make(c);

        for (int k = 0; k < lies[i].copies; k++) {
            copies[k] = fd;
        }
        raw_connect(&r, c, 0);
        f = hello_of(c, 1, 0, DSM__FRAME_HELLO);
        raw_put(&r, &f);
        raw_expect(&r, c, DSM__FRAME_HELLO_ACK, NULL);
        raw_expect(&r, c, DSM__FRAME_REGION, NULL);
        f = region_of(c, 1);
        raw_put_fds(&r, &f, copies, lies[i].copies);
        if (fd >= 0) {
            close(fd);
        }
        expect_refused(&r, c, 0, DSM__NOTICE_REGION, lies[i].why);
        assert_int_equal(nr_open_fds(), fds);
        assert_int_equal(dsm_region_fd(c->nodes[0].node, 1), -ENODATA);
    }

    /* The frame itself lies. */
    for (int i = 0; i < 2; i++) {
        int fd = make_memory(c->desc[1].ram_bytes, F_SEAL_SHRINK);

        raw_connect(&r, c, 0);
        f = hello_of(c, 1, 0, DSM__FRAME_HELLO);
        raw_put(&r, &f);
        raw_expect(&r, c, DSM__FRAME_HELLO_ACK, NULL);
        raw_expect(&r, c, DSM__FRAME_REGION, NULL);
        f = region_of(c, 1);
        if (i) {
            f.region.owner = 0;
        } else {
            f.region.bytes -= 4096;
        }
        raw_put_fds(&r, &f, &fd, 1);
        close(fd);
        expect_refused(&r, c, 0, DSM__NOTICE_REGION,
                       "its region is not that of its HELLO");
    }

    /* Descriptors with another frame, in and after the handshake. */
    f = hello_of(c, 1, 0, DSM__FRAME_HELLO);
    raw_connect(&r, c, 0);
    raw_put_fds(&r, &f, (int[]) { 0, 1 }, 2);
    raw_expect(&r, c, DSM__FRAME_HELLO_ACK, NULL);
    raw_expect(&r, c, DSM__FRAME_REGION, NULL);
    f = region_of(c, 1);
    raw_put_fds(&r, &f, (int[]) { 2 }, 1);
    expect_refused(&r, c, 0, DSM__NOTICE_REGION,
                   "came with 3 file descriptors, not 1");
    assert_int_equal(nr_open_fds(), fds);

    raw_handshake(&r, c, 1, 0);
    cluster_settle(c);
    fds = nr_open_fds();
    f = frame_of(DSM__FRAME_MESSAGE);
    raw_put_fds(&r, &f, (int[]) { 0, 1, 2 }, 3);
    cluster_wait(c, c->nodes[0].taken[1][0] == 1);
    assert_int_equal(nr_open_fds(), fds);
    raw_close(&r);
    cluster_free(c);
}

/* The connecting side checks as well. */
static void test_lying_listener(void **state)
{
    struct cluster *c = cluster_new(2, WIRE_UNIX);
    struct dsm__frame f;
    struct raw r;
    int listener, fd;

    raw_listen(&listener, c, 0);
    cluster_start_node(c, 1);
    raw_accept(&r, c, listener);
    raw_expect(&r, c, DSM__FRAME_HELLO, NULL);
    f = hello_of(c, 0, 1, DSM__FRAME_HELLO_ACK);
    raw_put(&r, &f);
    f = region_of(c, 0);
    fd = make_memory(f.region.bytes, 0);
    raw_put_fds(&r, &f, &fd, 1);
    close(fd);
    raw_expect(&r, c, DSM__FRAME_REJECT, &f);
    assert_int_equal(f.notice.code, DSM__NOTICE_REGION);
    cluster_wait(c, c->nodes[1].downs[0] == 1);
    assert_string_equal(c->nodes[1].down_reason[0],
                        "its region is not sealed against shrinking");
    raw_close(&r);
    close(listener);
    unlink(c->address[0] + strlen("unix:"));
    cluster_free(c);
}

/* What a good region is like, seen through the public interface. */
static void test_regions(void **state)
{
    struct cluster *c = cluster_new(3, WIRE_UNIX);
    struct stat own, seen;
    uint32_t *map[3][3];
    int fd, size_fds = nr_open_fds();

    cluster_start_node(c, 0);
    assert_int_equal(dsm_region_fd(c->nodes[0].node, 1), -ENODATA);
    assert_int_equal(dsm_region_fd(c->nodes[0].node, 3), -EINVAL);
    assert_int_equal(dsm_region_fd(c->nodes[0].node, 0xffff), -EINVAL);
    cluster_stop_node(c, 0);
    assert_int_equal(nr_open_fds(), size_fds);
    cluster_start(c);
    for (int owner = 0; owner < 3; owner++) {
        fd = dsm_region_fd(c->nodes[owner].node, owner);
        assert_int_equal(fstat(fd, &own), 0);
        assert_int_equal(own.st_size, c->desc[owner].ram_bytes);
        assert_int_equal(ftruncate(fd, 4096), -1);
        assert_int_equal(ftruncate(fd, own.st_size * 2), -1);
        for (int i = 0; i < 3; i++) {
            fd = dsm_region_fd(c->nodes[i].node, owner);
            assert_true(fd >= 0);
            assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
            assert_int_equal(fstat(fd, &seen), 0);
            assert_int_equal(own.st_ino, seen.st_ino);
            map[i][owner] = mmap(NULL, seen.st_size, PROT_READ | PROT_WRITE,
                                 MAP_SHARED, fd, 0);
            assert_true(map[i][owner] != MAP_FAILED);
        }
    }
    for (int owner = 0; owner < 3; owner++) {
        uint32_t sum = 0;

        for (int i = 0; i < 3; i++) {
            map[i][owner][0] += 1 + i;
            sum += 1 + i;
            for (int k = 0; k < 3; k++) {
                assert_int_equal(map[k][owner][0], sum);
            }
        }
    }
    for (int i = 0; i < 9; i++) {
        munmap(map[i / 3][i % 3], c->desc[i % 3].ram_bytes);
    }

    /* A lost node's region stays until it is fenced. */
    assert_int_equal(dsm_peer_fence(c->nodes[0].node, 1), -EBUSY);
    assert_int_equal(dsm_peer_fence(c->nodes[0].node, 0), -EINVAL);
    assert_int_equal(dsm_peer_fence(c->nodes[0].node, 3), -EINVAL);
    cluster_stop_node(c, 1);
    cluster_wait(c, c->nodes[0].downs[1] && c->nodes[2].downs[1]);
    assert_string_equal(c->nodes[0].down_reason[1], "left");
    size_fds = nr_open_fds();
    assert_true(dsm_region_fd(c->nodes[0].node, 1) >= 0);
    assert_int_equal(dsm_peer_fence(c->nodes[0].node, 1), 0);
    assert_int_equal(nr_open_fds(), size_fds - 1);
    assert_int_equal(dsm_peer_state(c->nodes[0].node, 1), DSM_PEER_FENCED);
    assert_int_equal(dsm_region_fd(c->nodes[0].node, 1), -EHOSTDOWN);
    assert_int_equal(dsm_peer_fence(c->nodes[0].node, 1), -EBUSY);
    assert_int_equal(dsm_peer_state(c->nodes[2].node, 1), DSM_PEER_DOWN);
    cluster_free(c);
}

/* Addresses */

static int start_at(struct cluster *c, const char *address)
{
    static const struct dsm_ops none = { 0 };
    struct dsm_ops ops = none;
    struct dsm_config config = c->config;
    struct dsm_node_desc desc = c->desc[0];
    struct dsm_node *node;
    int ret;

    /* Never called: nobody connects. */
    ops.message = (void *)abort;
    ops.writable = (void *)abort;
    ops.doorbell = (void *)abort;
    ops.peer_state = (void *)abort;
    desc.address = address;
    config.nr_nodes = 1;
    config.nodes = &desc;
    ret = dsm_node_create(&config, &ops, NULL, &node);
    if (ret < 0) {
        return ret;
    }
    ret = dsm_node_start(node);
    if (ret == 0) {
        assert_int_equal(dsm_node_start(node), -EALREADY);
    }
    dsm_node_destroy(node);
    return ret;
}

static void test_addresses(void **state)
{
    struct cluster *c = cluster_new(1, WIRE_UNIX);
    const char *path = c->address[0] + strlen("unix:");
    struct sockaddr_un sa = { .sun_family = AF_UNIX };
    char address[256];
    struct stat st;
    int fd, fds = nr_open_fds();

    /* A stale socket is replaced, and nothing stays behind. */
    snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    close(fd);
    assert_int_equal(start_at(c, c->address[0]), 0);
    assert_int_equal(lstat(path, &st), -1);

    /* Bound but not listening yet is nobody either. */
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    /* Somebody listens: in use, also when its queue is full. */
    assert_int_equal(listen(fd, 0), 0);
    assert_int_equal(start_at(c, c->address[0]), -EADDRINUSE);
    assert_int_equal(start_at(c, c->address[0]), -EADDRINUSE);
    assert_int_equal(start_at(c, c->address[0]), -EADDRINUSE);
    assert_int_equal(lstat(path, &st), 0);
    close(fd);
    unlink(path);

    /* Something else is there: it stays. */
    fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(start_at(c, c->address[0]), -ENOTSOCK);
    assert_int_equal(lstat(path, &st), 0);
    unlink(path);

    /* A listener whose file was replaced leaves the new one alone. */
    cluster_start_node(c, 0);
    assert_int_equal(lstat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    unlink(path);
    fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    close(fd);
    cluster_stop_node(c, 0);
    assert_int_equal(unlink(path), 0);

    snprintf(address, sizeof(address), "unix:%s/no/such", c->dir);
    assert_int_equal(start_at(c, address), -ENOENT);
    snprintf(address, sizeof(address), "unix:%s/%0*d", c->dir,
             (int)(107 - strlen(c->dir) - 1), 0);
    assert_int_equal(start_at(c, address), 0); /* 107 bytes */
    snprintf(address, sizeof(address), "unix:%s/%0*d", c->dir,
             (int)(108 - strlen(c->dir) - 1), 0);
    assert_int_equal(start_at(c, address), -EINVAL);
    assert_int_equal(start_at(c, "unix:"), -EINVAL);
    assert_int_equal(start_at(c, "unix"), -EINVAL);
    assert_int_equal(start_at(c, "loopback:x"), -EINVAL);
    assert_int_equal(start_at(c, "tcp:127.0.0.1:1234"), -EINVAL);
    assert_int_equal(start_at(c, ""), -EINVAL);
    assert_int_equal(start_at(c, NULL), -EINVAL);
    assert_int_equal(nr_open_fds(), fds);
    cluster_free(c);
}

/* Of many that find the same stale socket exactly one gets it. */
static void test_stale_race(void **state)
{
    enum { ROUNDS = 40, CONTENDERS = 8 };
    struct cluster *c = cluster_new(1, WIRE_UNIX);
    const char *path = c->address[0] + strlen("unix:");
    struct sockaddr_un sa = { .sun_family = AF_UNIX };

    snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
    for (int round = 0; round < ROUNDS; round++) {
        int go[2], result[2], done[2], winners = 0;
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
        close(fd);
        assert_int_equal(pipe(go) | pipe(result) | pipe(done), 0);
        for (int i = 0; i < CONTENDERS; i++) {
            if (fork() == 0) {
                struct dsm__listener listener;
                signed char ret;
                char byte;

                close(go[1]);
                close(done[1]);
                (void)!read(go[0], &byte, 1);
                ret = dsm__transport_unix.listen(NULL, path, &listener);
                (void)!write(result[1], &ret, 1);
                (void)!read(done[0], &byte, 1);
                _exit(0);
            }
        }
        close(go[1]); /* all start */
        for (int i = 0; i < CONTENDERS; i++) {
            signed char ret;

            assert_int_equal(read(result[0], &ret, 1), 1);
            assert_true(ret == 0 || ret == -EADDRINUSE);
            winners += ret == 0;
        }
        close(done[1]);
        while (wait(NULL) > 0) {
        }
        close(go[0]);
        close(result[0]);
        close(result[1]);
        close(done[0]);
        unlink(path);
        assert_int_equal(winners, 1);
    }
    cluster_free(c);
}

/* Users */

/* In a process of another user: connect there and wait for the end. */
static pid_t fork_stranger(struct cluster *c, bool listens)
{
    struct sockaddr_un sa = { .sun_family = AF_UNIX };
    int ready[2];
    pid_t pid;
    char byte;

    snprintf(sa.sun_path, sizeof(sa.sun_path), "%s/0", c->dir);
    assert_int_equal(pipe(ready), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);

        if (setresuid(65534, 65534, 65534) < 0) {
            _exit(2);
        }
        if (listens) {
            int ret = bind(fd, (struct sockaddr *)&sa, sizeof(sa)) |
                      listen(fd, 1);

            (void)!write(ready[1], "", 1);
            fd = ret ? -1 : accept(fd, NULL, NULL);
        } else {
            (void)!write(ready[1], "", 1);
            if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
                _exit(3);
            }
        }
        while (read(fd, &byte, 1) > 0) {
        }
        _exit(fd < 0 ? 4 : 0);
    }
    (void)!read(ready[0], &byte, 1);
    close(ready[0]);
    close(ready[1]);
    return pid;
}

static void test_strangers(void **state)
{
    struct cluster *c;
    const char *path;
    int status = -1;
    pid_t pid;

    if (geteuid() != 0) {
        print_message("needs root to be somebody else\n");
        skip();
    }
    c = cluster_new(2, WIRE_UNIX);
    path = c->address[0] + strlen("unix:");
    assert_int_equal(chmod(c->dir, 0777), 0);
    cluster_start_node(c, 0);
    assert_int_equal(chmod(path, 0666), 0);
    pid = fork_stranger(c, false);
    cluster_wait(c, c->nodes[0].nr_rejected == 1);
    assert_contains(c->nodes[0].rejected, "of user 65534: of another user");
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    cluster_stop_node(c, 0);

    pid = fork_stranger(c, true);
    cluster_start_node(c, 1);
    cluster_wait(c, c->nodes[1].nr_rejected == 1);
    assert_contains(c->nodes[1].rejected, "of user 65534, which is not");
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    unlink(path);
    cluster_free(c);
}

/* Configurations that contradict themselves */

static void test_configs(void **state)
{
    struct cluster *c = cluster_new(2, WIRE_UNIX);
    const struct dsm_config good = c->config;
    const struct dsm_node_desc good_desc = c->desc[1];
    struct dsm_ops ops = {
        .message = (void *)abort,
        .writable = (void *)abort,
        .doorbell = (void *)abort,
        .peer_state = (void *)abort,
    };
    struct dsm_config config = good;
    struct dsm_node *node = NULL;
    int fds = nr_open_fds();

#define EXPECT(ret, change)                                               \
    do {                                                                  \
        change;                                                           \
        assert_int_equal(dsm_node_create(&config, &ops, NULL, &node), ret); \
        assert_null(node);                                                \
        config = good;                                                    \
        c->desc[1] = good_desc;                                           \
    } while (0)

    EXPECT(-EINVAL, config.nr_nodes = 0);
    EXPECT(-EINVAL, config.nr_nodes = DSM_MAX_NODES + 1);
    EXPECT(-EINVAL, config.self = 2);
    EXPECT(-EINVAL, config.nodes = NULL);
    EXPECT(-EINVAL, config.coherence = 2);
    EXPECT(-EINVAL, config.credits[3] = DSM_MAX_CREDITS + 1);
    EXPECT(-EINVAL, config.heartbeat_ms = 20000);
    EXPECT(-EINVAL, config.peer_timeout_ms = 3999);
    EXPECT(-EINVAL, c->desc[1].name[0] = '\0');
    EXPECT(-EINVAL, memset(c->desc[1].name, 'x', DSM_NAME_BYTES));
    EXPECT(-EINVAL, c->desc[1].name[2] = '\n');
    EXPECT(-EINVAL, strcpy(c->desc[1].name, c->desc[0].name));
    EXPECT(-EINVAL, c->desc[1].elf_machine = 0);
    EXPECT(-EINVAL, c->desc[1].cpus = 0);
    EXPECT(-EINVAL, c->desc[1].ram_bytes = 0);
    EXPECT(-EINVAL, c->desc[1].ram_bytes = 4097);
    EXPECT(-EINVAL, c->desc[1].ram_bytes = UINT64_C(1) << 63);
    EXPECT(-EINVAL, c->desc[1].address = c->desc[0].address);
    EXPECT(-EINVAL, c->desc[1].address = "tcp:127.0.0.1:99");
    EXPECT(-EINVAL, c->desc[1].address = "smoke:signals");
#undef EXPECT
    ops.message = NULL;
    assert_int_equal(dsm_node_create(&config, &ops, NULL, &node), -EINVAL);
    assert_null(node);
    assert_int_equal(nr_open_fds(), fds);
    dsm_node_destroy(NULL);
    cluster_free(c);
}

static void test_tcp_addresses(void **state)
{
    static const char *const bad[] = {
        "", ":1", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536",
        "127.0.0.1: 1", "127.0.0.1:1x", "127.0.0.1:-1", "localhost:1",
        "::1:80", "[::1:80", "[]:80", "[zz]:80", "127.0.0.1:+1",
    };

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        if (dsm__transport_tcp.check(bad[i]) != -EINVAL) {
            fail_msg("\"%s\" passes for an address", bad[i]);
        }
    }
    assert_int_equal(dsm__transport_tcp.check("127.0.0.1:1"), 0);
    assert_int_equal(dsm__transport_tcp.check("0.0.0.0:65535"), 0);
    assert_int_equal(dsm__transport_tcp.check("[::1]:80"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused_hello),
        cmocka_unit_test(test_wrong_direction),
        cmocka_unit_test(test_refused_hello_ack),
        cmocka_unit_test(test_nodes_disagree),
        cmocka_unit_test(test_other_version),
        cmocka_unit_test(test_reason_survives_tcp),
        cmocka_unit_test(test_newer_peer_accepted),
        cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_cut_everywhere),
        cmocka_unit_test(test_byte_by_byte),
        cmocka_unit_test(test_out_of_order),
        cmocka_unit_test(test_handshake_timeout),
        cmocka_unit_test(test_garbage_listener),
        cmocka_unit_test(test_any_start_order),
        cmocka_unit_test(test_duplicate),
        cmocka_unit_test(test_rivals),
        cmocka_unit_test(test_busy),
        cmocka_unit_test(test_no_fds),
        cmocka_unit_test(test_lying_regions),
        cmocka_unit_test(test_lying_listener),
        cmocka_unit_test(test_regions),
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_stale_race),
        cmocka_unit_test(test_strangers),
        cmocka_unit_test(test_configs),
        cmocka_unit_test(test_tcp_addresses),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
