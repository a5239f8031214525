/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Messages, credits, doorbells, heartbeats, statistics; over each transport. */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "harness.h"
#include "transport_loopback.h"

/* A message that says where it stands in its stream. */
struct numbered {
    uint32_t from, to, cls, number;
    uint8_t filler[];
};

static size_t make_numbered(struct numbered *m, uint32_t from, uint32_t to,
                            uint32_t cls, uint32_t number, size_t filler)
{
    *m = (struct numbered) { from, to, cls, number };
    for (size_t i = 0; i < filler; i++) {
        m->filler[i] = number + i;
    }
    return sizeof(*m) + filler;
}

static bool check_numbered(struct tnode *t, uint16_t from, enum dsm_class cls,
                           const void *data, uint32_t bytes)
{
    struct numbered *m = malloc(bytes);

    /* Exactly that many bytes, wherever they lie. */
    assert_true(bytes >= sizeof(*m));
    memcpy(m, data, bytes);
    assert_int_equal(m->from, from);
    assert_int_equal(m->to, t->self);
    assert_int_equal(m->cls, cls);
    assert_int_equal(m->number, t->taken[from][cls]);
    for (size_t i = 0; i < bytes - sizeof(*m); i++) {
        assert_int_equal(m->filler[i], (uint8_t)(m->number + i));
    }
    free(m);
    return true;
}

static struct dsm_link_stats stats_of(struct cluster *c, int node, int peer)
{
    struct dsm_link_stats s;

    assert_int_equal(dsm_link_stats(c->nodes[node].node, peer, &s), 0);
    return s;
}

/* All to all, all classes, sizes from nothing but the numbers to the most. */
static void all_to_all(enum wiring wiring, int nr, int sndbuf_bytes)
{
    enum { MESSAGES = 200 };
    struct cluster *c = cluster_new(nr, wiring);
    uint32_t(*sent)[DSM_MAX_NODES][DSM_NR_CLASSES] =
        calloc(DSM_MAX_NODES, sizeof(*sent));
    union {
        struct numbered m;
        uint8_t space[DSM_MAX_MESSAGE_BYTES];
    } u;
    bool left = true;

    c->options.sndbuf_bytes = sndbuf_bytes;
    for (int i = 0; i < nr; i++) {
        c->nodes[i].on_message = check_numbered;
    }
    cluster_start(c);
    while (left) {
        left = false;
        for (int i = 0; i < nr; i++) {
            for (int j = 0; j < nr; j++) {
                for (int k = 0; k < DSM_NR_CLASSES && i != j; k++) {
                    uint32_t *n = &sent[i][j][k];
                    int ret = 0;

                    while (*n < MESSAGES && ret == 0) {
                        size_t filler =
                            *n == MESSAGES - 1
                                ? DSM_MAX_MESSAGE_BYTES - sizeof(u.m)
                                : (*n * 37) % 600;

                        ret = tnode_send(
                            &c->nodes[i], j, k, &u,
                            make_numbered(&u.m, i, j, k, *n, filler));
                        *n += ret == 0;
                    }
                    assert_true(ret == 0 || ret == -EAGAIN);
                    left |= *n < MESSAGES;
                }
            }
        }
        cluster_settle(c);
    }
    for (int i = 0; i < nr; i++) {
        for (int j = 0; j < nr; j++) {
            for (int k = 0; k < DSM_NR_CLASSES && i != j; k++) {
                assert_int_equal(c->nodes[j].taken[i][k], MESSAGES);
                /* Every refusal was made good, none more than that. */
                assert_int_equal(
                    c->nodes[i].writable[j][k],
                    stats_of(c, i, j).sends_refused[k]);
            }
        }
    }
    free(sent);
    cluster_free(c);
}

static void test_all_to_all_unix(void **state)
{
    all_to_all(WIRE_UNIX, 6, 0);
}

/* A small socket buffer: most frames are cut somewhere. */
static void test_all_to_all_cut(void **state)
{
    all_to_all(WIRE_UNIX, 3, 5000);
    all_to_all(WIRE_TCP, 3, 5000);
    all_to_all(WIRE_TLS, 3, 5000);
}

static void test_all_to_all_tcp(void **state)
{
    all_to_all(WIRE_TCP, 6, 0);
    all_to_all(WIRE_TLS, 6, 0);
}

static void test_all_to_all_loopback(void **state)
{
    all_to_all(WIRE_LOOPBACK, 6, 0);
}

static void test_send_errors(void **state)
{
    struct cluster *c = cluster_new(3, WIRE_UNIX);
    struct tnode *t = &c->nodes[0];
    static uint8_t big[DSM_MAX_MESSAGE_BYTES + 1];
    struct iovec huge[2] = {
        { .iov_base = big, .iov_len = 2 },
        { .iov_base = big, .iov_len = SIZE_MAX },
    };
    struct dsm_link_stats s;

    cluster_start_node(c, 0);
    assert_int_equal(tnode_send(t, 1, 0, "x", 1), -EHOSTDOWN);
    assert_int_equal(dsm_doorbell(t->node, 1, 1), -EHOSTDOWN);
    cluster_start_node(c, 1);
    cluster_wait(c, t->ups[1] == 1);
    assert_int_equal(tnode_send(t, 0, 0, "x", 1), -EINVAL);
    assert_int_equal(tnode_send(t, 3, 0, "x", 1), -EINVAL);
    assert_int_equal(tnode_send(t, 0xffff, 0, "x", 1), -EINVAL);
    assert_int_equal(tnode_send(t, 1, DSM_NR_CLASSES, "x", 1), -EINVAL);
    assert_int_equal(tnode_send(t, 1, (enum dsm_class)-1, "x", 1), -EINVAL);
    assert_int_equal(tnode_send(t, 1, 0, big, sizeof(big)), -EMSGSIZE);
    assert_int_equal(dsm_send(t->node, 1, 0, huge, 2), -EMSGSIZE);
    assert_int_equal(dsm_send(t->node, 1, 0, NULL, -1), -EINVAL);
    assert_int_equal(tnode_send(t, 2, 0, "x", 1), -EHOSTDOWN);
    assert_int_equal(dsm_doorbell(t->node, 0, 1), -EINVAL);
    assert_int_equal(dsm_doorbell(t->node, 3, 1), -EINVAL);
    assert_int_equal(dsm_doorbell(t->node, 1, 0), -EINVAL);
    assert_int_equal(dsm_link_stats(t->node, 0, &s), -EINVAL);
    assert_int_equal(dsm_link_stats(t->node, 3, &s), -EINVAL);
    dsm_resume(t->node, 0, 0);
    dsm_resume(t->node, 1, 0);
    dsm_resume(t->node, 1, DSM_NR_CLASSES);
    dsm_resume(t->node, 7, 0);
    assert_int_equal(dsm_peer_state(t->node, 0), DSM_PEER_UP);
    assert_int_equal(dsm_peer_state(t->node, 9), DSM_PEER_ABSENT);

    cluster_free(c);
}

static bool check_pieces(struct tnode *t, uint16_t from, enum dsm_class cls,
                         const void *data, uint32_t bytes)
{
    const uint8_t *at = data;

    assert_int_equal(bytes, *(uint32_t *)t->opaque);
    for (uint32_t i = 0; i < bytes; i++) {
        assert_int_equal(at[i], (uint8_t)i);
    }
    return true;
}

/* However a message is cut into pieces, it arrives as one. */
static void test_pieces(void **state)
{
    static const int counts[] = { 0, 1, 2, 15, 16, 17, 100, 1024 };
    struct cluster *c = cluster_new(2, WIRE_UNIX);
    uint8_t data[DSM_MAX_MESSAGE_BYTES];
    struct iovec iov[1025];
    uint32_t bytes;

    cluster_start(c);
    c->nodes[1].on_message = check_pieces;
    c->nodes[1].opaque = &bytes;
    for (size_t i = 0; i < sizeof(data); i++) {
        data[i] = i;
    }
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        int nr = counts[i];

        bytes = 0;
        for (int k = 0; k < nr; k++) {
            size_t len = nr == 1 ? sizeof(data) : (size_t)k % 5; /* some empty */

            iov[k].iov_base = len ? data + bytes : NULL;
            iov[k].iov_len = len;
            bytes += len;
        }
        assert_int_equal(dsm_send(c->nodes[0].node, 1, 0, iov, nr), 0);
        cluster_settle(c);
        assert_int_equal(c->nodes[1].taken[0][0], i + 1);
    }
    cluster_free(c);
}

/*
 * A receiver that refuses one class gets all the others, in order, while the
 * sender of that class runs out of credit and is told when it goes on.
 */
static void back_pressure(enum wiring wiring, uint32_t window)
{
    struct cluster *c = cluster_new(2, wiring);
    struct tnode *a = &c->nodes[0], *b = &c->nodes[1];
    union {
        struct numbered m;
        uint8_t space[sizeof(struct numbered) + 100];
    } u;
    struct dsm_link_stats s;
    uint32_t sent = 0;

    for (int k = 0; k < DSM_NR_CLASSES; k++) {
        c->config.credits[k] = window;
    }
    cluster_start(c);
    b->on_message = check_numbered;
    for (int blocked = 0; blocked < DSM_NR_CLASSES; blocked++) {
        b->refuse[0][blocked] = true;
        sent = a->writable[1][blocked] = 0;
        b->taken[0][blocked] = 0;
        while (tnode_send(a, 1, blocked, &u,
                          make_numbered(&u.m, 0, 1, blocked, sent, 100)) ==
               0) {
            sent++;
            cluster_settle(c);
        }
        assert_int_equal(sent, window);
        assert_int_equal(tnode_send(a, 1, blocked, "", 0), -EAGAIN);
        s = stats_of(c, 0, 1);
        assert_int_equal(s.credits_left[blocked], 0);
        s = stats_of(c, 1, 0);
        assert_int_equal(s.queued_in[blocked], window);
        assert_int_equal(s.deliveries_refused[blocked], 1);
        assert_int_equal(b->taken[0][blocked], 0);

        /* The others do not notice. */
        for (int k = 0; k < DSM_NR_CLASSES; k++) {
            if (k == blocked) {
                continue;
            }
            b->taken[0][k] = 0;
            for (uint32_t n = 0; n < 5 * window; n++) {
                assert_int_equal(
                    tnode_send(a, 1, k, &u,
                               make_numbered(&u.m, 0, 1, k, n, n % 100)),
                    0);
                cluster_settle(c);
            }
            assert_int_equal(b->taken[0][k], 5 * window);
        }
        assert_int_equal(a->writable[1][blocked], 0);

        /* Resumed, refused again, resumed: nothing lost, order kept. */
        dsm_resume(b->node, 0, blocked);
        cluster_settle(c);
        assert_int_equal(b->taken[0][blocked], 0);
        assert_int_equal(stats_of(c, 1, 0).deliveries_refused[blocked], 2);
        b->refuse[0][blocked] = false;
        cluster_settle(c); /* not before it is asked for */
        assert_int_equal(b->taken[0][blocked], 0);
        dsm_resume(b->node, 0, blocked);
        cluster_settle(c);
        assert_int_equal(b->taken[0][blocked], window);
        assert_int_equal(stats_of(c, 1, 0).queued_in[blocked], 0);
        assert_int_equal(a->writable[1][blocked], 1);
        assert_int_equal(
            tnode_send(a, 1, blocked, &u,
                       make_numbered(&u.m, 0, 1, blocked, sent, 0)),
            0);
        cluster_settle(c);
        assert_int_equal(b->taken[0][blocked], window + 1);
        memset(b->taken, 0, sizeof(b->taken));
        cluster_stop_node(c, 0);
        cluster_stop_node(c, 1);
        memset(a->ups, 0, sizeof(a->ups));
        cluster_start(c);
    }
    cluster_free(c);
}

static void test_back_pressure(void **state)
{
    back_pressure(WIRE_UNIX, 64);
    back_pressure(WIRE_UNIX, 1);
    back_pressure(WIRE_TCP, 2);
    back_pressure(WIRE_TLS, 2);
    back_pressure(WIRE_UNIX, 3);
    back_pressure(WIRE_UNIX, 7);
}

/* A queue that is emptied in parts, with new messages behind it. */
static bool take_three(struct tnode *t, uint16_t from, enum dsm_class cls,
                       const void *data, uint32_t bytes)
{
    int *left = t->opaque;

    if (*left == 0) {
        return false;
    }
    --*left;
    return check_numbered(t, from, cls, data, bytes);
}

static void test_partial_resume(void **state)
{
    enum { TOTAL = 500 };
    struct cluster *c = cluster_new(2, WIRE_UNIX);
    struct numbered m;
    uint32_t sent = 0;
    int left = 0;

    cluster_start(c);
    c->nodes[1].on_message = take_three;
    c->nodes[1].opaque = &left;
    while (c->nodes[1].taken[0][3] < TOTAL) {
        while (sent < TOTAL &&
               tnode_send(&c->nodes[0], 1, 3, &m,
                          make_numbered(&m, 0, 1, 3, sent, 0)) == 0) {
            sent++;
        }
        left = 3;
        dsm_resume(c->nodes[1].node, 0, 3);
        cluster_settle(c);
    }
    assert_int_equal(sent, TOTAL);
    cluster_free(c);
}

/*
 * The socket is full of BULK. An ACK is refused like everything else, but it
 * is the first to be asked when there is room, so none of the BULK that
 * waits gets in front of it.
 */
struct order {
    enum dsm_class at[4096];
    int nr;
};

static bool record_order(struct tnode *t, uint16_t from, enum dsm_class cls,
                         const void *data, uint32_t bytes)
{
    struct order *o = t->opaque;

    o->at[o->nr++] = cls;
    return true;
}

static void send_on_writable(struct tnode *t, uint16_t to, enum dsm_class cls)
{
    uint8_t data[2048] = { 0 };
    int *left = t->opaque;

    if (cls != DSM_CLASS_BULK) {
        assert_int_equal(tnode_send(t, to, cls, data, 8), 0);
        return;
    }
    while (*left > 0 && tnode_send(t, to, cls, data, sizeof(data)) == 0) {
        --*left;
    }
}

static void test_ack_before_bulk(void **state)
{
    struct cluster *c = cluster_new(2, WIRE_UNIX);
    struct order order = { .nr = 0 };
    struct tnode *a = &c->nodes[0];
    uint8_t data[2048] = { 0 };
    int in_socket = 0, at_ack = 0, left = 500;

    c->config.credits[DSM_CLASS_BULK] = 1000;
    c->options.sndbuf_bytes = 20000;
    cluster_start(c);
    a->opaque = &left;
    c->nodes[1].on_message = record_order;
    c->nodes[1].opaque = &order;
    a->on_writable = send_on_writable;
    while (tnode_send(a, 1, DSM_CLASS_BULK, data, sizeof(data)) == 0) {
        in_socket++;
    }
    assert_in_range(in_socket, 2, 100);
    assert_int_equal(tnode_send(a, 1, DSM_CLASS_REPLY, data, 8), -EAGAIN);
    assert_int_equal(tnode_send(a, 1, DSM_CLASS_ACK, data, 8), -EAGAIN);
    assert_int_equal(dsm_doorbell(a->node, 1, 1), 0); /* has no say in it */
    cluster_settle(c);
    assert_int_equal(left, 0);
    assert_int_equal(order.nr, in_socket + 500 + 2);
    while (order.at[at_ack] != DSM_CLASS_ACK) {
        at_ack++;
    }
    assert_int_equal(at_ack, in_socket);
    assert_int_equal(order.at[at_ack + 1], DSM_CLASS_REPLY);
    assert_int_equal(c->nodes[1].bits[0], 1);
    cluster_free(c);
}

/*
 * Both at once: there is room again, and a REQUEST has come that is answered
 * with BULK. The ACK that waited comes first all the same.
 */
static bool answer_with_bulk(struct tnode *t, uint16_t from,
                             enum dsm_class cls, const void *data,
                             uint32_t bytes)
{
    uint8_t answer[2048] = { 0 };

    tnode_send(t, from, DSM_CLASS_BULK, answer, sizeof(answer));
    return true;
}

static void test_ack_before_answers(void **state)
{
    struct cluster *c = cluster_new(2, WIRE_UNIX);
    struct order order = { .nr = 0 };
    struct tnode *a = &c->nodes[0];
    uint8_t data[2048] = { 0 };
    int in_socket = 0, at_ack = 0, left = 0;

    c->config.credits[DSM_CLASS_BULK] = 1000;
    c->options.sndbuf_bytes = 20000;
    cluster_start(c);
    a->opaque = &left;
    a->on_message = answer_with_bulk;
    a->on_writable = send_on_writable;
    c->nodes[1].on_message = record_order;
    c->nodes[1].opaque = &order;
    while (tnode_send(a, 1, DSM_CLASS_BULK, data, sizeof(data)) == 0) {
        in_socket++;
    }
    assert_int_equal(tnode_send(a, 1, DSM_CLASS_ACK, data, 8), -EAGAIN);
    assert_int_equal(
        tnode_send(&c->nodes[1], 0, DSM_CLASS_REQUEST, data, 8), 0);
    while (dsm_node_dispatch(c->nodes[1].node) > 0) {
    }
    cluster_settle(c);
    while (order.at[at_ack] != DSM_CLASS_ACK) {
        at_ack++;
    }
    assert_int_equal(at_ack, in_socket);
    assert_int_equal(order.nr, in_socket + 2);
    cluster_free(c);
}

/* Credits are returned by the messages that flow back, not by frames. */
static bool echo(struct tnode *t, uint16_t from, enum dsm_class cls,
                 const void *data, uint32_t bytes)
{
    assert_int_equal(tnode_send(t, from, DSM_CLASS_REPLY, data, bytes), 0);
    return true;
}

static void test_piggyback(void **state)
{
    enum { ROUNDS = 1000 };
    struct cluster *c = cluster_new(2, WIRE_UNIX);
    struct dsm_link_stats before, after;

    c->config.credits[DSM_CLASS_REQUEST] = 4;
    c->config.credits[DSM_CLASS_REPLY] = 4;
    cluster_start(c);
    c->nodes[1].on_message = echo;
    before = stats_of(c, 0, 1);
    for (int i = 0; i < ROUNDS; i++) {
        assert_int_equal(
            tnode_send(&c->nodes[0], 1, DSM_CLASS_REQUEST, "ping", 4), 0);
        cluster_settle(c);
    }
    assert_int_equal(c->nodes[0].taken[1][DSM_CLASS_REPLY], ROUNDS);
    after = stats_of(c, 0, 1);
    assert_int_equal(after.bytes_received - before.bytes_received,
                     ROUNDS * (DSM__WIRE_HEADER_BYTES + 4));
    assert_int_equal(after.bytes_sent - before.bytes_sent,
                     ROUNDS * (DSM__WIRE_HEADER_BYTES + 4));

    /* One way only: one CREDIT for each half of the window. */
    before = stats_of(c, 0, 1);
    for (int i = 0; i < 320; i++) {
        assert_int_equal(tnode_send(&c->nodes[0], 1, DSM_CLASS_BULK, "", 0),
                         0);
        c->nodes[1].on_message = NULL;
        cluster_settle(c);
    }
    after = stats_of(c, 0, 1);
    assert_int_equal(after.bytes_received - before.bytes_received,
                     320 / 32 * DSM__WIRE_HEADER_BYTES);
    cluster_free(c);
}

/* Doorbells */

static void test_doorbells(void **state)
{
    struct cluster *c = cluster_new(2, WIRE_UNIX);
    struct tnode *a = &c->nodes[0], *b = &c->nodes[1];
    struct dsm_link_stats s;

    cluster_start(c);
    assert_int_equal(dsm_doorbell(a->node, 1, 5), 0);
    cluster_settle(c);
    assert_int_equal(b->bits[0], 5);
    assert_int_equal(b->bit_calls[0], 1);

    /* A receiver that does not look: the number of frames stays bounded. */
    b->bits[0] = 0;
    for (int i = 0; i < 100000; i++) {
        assert_int_equal(
            dsm_doorbell(a->node, 1, UINT64_C(1) << (8 + i % 50)), 0);
    }
    s = stats_of(c, 0, 1);
    assert_int_equal(s.doorbells_sent, 100001);
    assert_in_range(s.doorbell_frames_sent, 2, 16);
    cluster_settle(c);
    assert_true(b->bits[0] == ((UINT64_C(1) << 50) - 1) << 8);
    /* What arrives together is one call. */
    assert_in_range(b->bit_calls[0], 2, 4);
    s = stats_of(c, 1, 0);
    assert_int_equal(s.doorbell_frames_received,
                     stats_of(c, 0, 1).doorbell_frames_sent);

    /* No credit of any class is needed. */
    for (int k = 0; k < DSM_NR_CLASSES; k++) {
        b->refuse[0][k] = true;
        while (tnode_send(a, 1, k, "", 0) == 0) {
        }
    }
    b->bits[0] = 0;
    assert_int_equal(dsm_doorbell(a->node, 1, 1), 0);
    cluster_settle(c);
    assert_int_equal(b->bits[0], 1);
    cluster_free(c);
}

/* The socket is full: the bits wait, as one, and then arrive. */
static void test_doorbell_on_full_socket(void **state)
{
    struct cluster *c = cluster_new(2, WIRE_UNIX);
    struct tnode *a = &c->nodes[0], *b = &c->nodes[1];
    uint8_t data[4000] = { 0 };
    struct dsm_link_stats s;

    c->config.credits[DSM_CLASS_BULK] = 1000;
    c->options.sndbuf_bytes = 20000;
    cluster_start(c);
    while (tnode_send(a, 1, DSM_CLASS_BULK, data, sizeof(data)) == 0) {
    }
    for (int i = 0; i < 64; i++) {
        assert_int_equal(dsm_doorbell(a->node, 1, UINT64_C(1) << i), 0);
    }
    s = stats_of(c, 0, 1);
    assert_int_equal(s.doorbells_sent, 64);
    assert_int_equal(s.doorbell_frames_sent, 0);
    cluster_settle(c);
    assert_true(b->bits[0] == UINT64_MAX);
    assert_int_equal(b->bit_calls[0], 1);
    assert_int_equal(stats_of(c, 0, 1).doorbell_frames_sent, 1);
    cluster_free(c);
}

/* Peers that break the rules after the handshake */

struct violation {
    const char *why;
    void (*commit)(struct raw *r, struct cluster *c);
};

static void put_empty(struct raw *r, enum dsm__frame_type type)
{
    struct dsm__frame f = frame_of(type);

    raw_put(r, &f);
}

static void v_no_credit(struct raw *r, struct cluster *c)
{
    struct dsm__frame f = frame_of(DSM__FRAME_MESSAGE);

    c->nodes[0].refuse[1][DSM_CLASS_BULK] = true;
    f.cls = DSM_CLASS_BULK;
    for (int i = 0; i < 65; i++) {
        raw_put(r, &f);
    }
}
static void v_false_credit(struct raw *r, struct cluster *c)
{
    struct dsm__frame f = frame_of(DSM__FRAME_CREDIT);

    f.credit[1] = 1;
    raw_put(r, &f);
}
static void v_false_doorbell_credit(struct raw *r, struct cluster *c)
{
    struct dsm__frame f = frame_of(DSM__FRAME_CREDIT);

    f.doorbell_credit = 1;
    raw_put(r, &f);
}
static void v_doorbells(struct raw *r, struct cluster *c)
{
    struct dsm__frame f = frame_of(DSM__FRAME_DOORBELL);

    f.bits = 1;
    for (int i = 0; i < 9; i++) {
        raw_put(r, &f);
    }
}
static void v_pong(struct raw *r, struct cluster *c)
{
    put_empty(r, DSM__FRAME_PONG);
}
static void v_two_pings(struct raw *r, struct cluster *c)
{
    put_empty(r, DSM__FRAME_PING);
    put_empty(r, DSM__FRAME_PING);
}
static void v_hello(struct raw *r, struct cluster *c)
{
    struct dsm__frame f = hello_of(c, 1, 0, DSM__FRAME_HELLO);

    raw_put(r, &f);
}
static void v_region(struct raw *r, struct cluster *c)
{
    struct dsm__frame f = region_of(c, 1);

    raw_put_fds(r, &f, (int[]) { 0 }, 1);
}
static void v_ready(struct raw *r, struct cluster *c)
{
    put_empty(r, DSM__FRAME_READY);
}
static void v_replay(struct raw *r, struct cluster *c)
{
    put_empty(r, DSM__FRAME_MESSAGE);
    r->seq--;
    put_empty(r, DSM__FRAME_MESSAGE);
}
static void v_skip(struct raw *r, struct cluster *c)
{
    r->seq++;
    put_empty(r, DSM__FRAME_MESSAGE);
}
static void v_garbage(struct raw *r, struct cluster *c)
{
    static const uint8_t zeros[100];

    raw_put_bytes(r, zeros, sizeof(zeros));
}
static void v_too_long(struct raw *r, struct cluster *c)
{
    uint8_t buf[DSM__WIRE_HEADER_BYTES];
    struct dsm__frame f = frame_of(DSM__FRAME_MESSAGE);

    f.seq = r->seq;
    dsm__wire_encode_header(buf, &f, DSM_MAX_MESSAGE_BYTES + 1);
    raw_put_bytes(r, buf, sizeof(buf));
}
static void v_version(struct raw *r, struct cluster *c)
{
    struct dsm__frame f = frame_of(DSM__FRAME_BYE);

    f.version = 2;
    raw_put(r, &f);
}

static const struct violation violations[] = {
    { "message of class 3 without a credit", v_no_credit },
    { "credits for messages that were not sent", v_false_credit },
    { "credits for messages that were not sent", v_false_doorbell_credit },
    { "DOORBELL without a credit", v_doorbells },
    { "PONG without a PING", v_pong },
    { "PING before the last was answered", v_two_pings },
    { "HELLO after the handshake", v_hello },
    { "REGION after the handshake", v_region },
    { "READY after the handshake", v_ready },
    { "frame 3 in place of frame 4", v_replay },
    { "frame 4 in place of frame 3", v_skip },
    { "not a frame of this protocol", v_garbage },
    { "frame of an impossible length", v_too_long },
    { "protocol version 2 to 2 offered, node 0 expects 1 to 1", v_version },
};

/* That link ends, with the reason on both sides; the others do not notice. */
static void test_violations(void **state)
{
    for (size_t i = 0; i < sizeof(violations) / sizeof(violations[0]); i++) {
        struct cluster *c = cluster_new(3, WIRE_UNIX);
        struct dsm__frame f;
        struct raw r;

        cluster_start_node(c, 0);
        cluster_start_node(c, 2);
        cluster_wait(c, c->nodes[2].ups[0] == 1 && c->nodes[0].ups[2] == 1);
        raw_handshake(&r, c, 1, 0);
        violations[i].commit(&r, c);
        cluster_wait(c, c->nodes[0].downs[1] == 1);
        assert_string_equal(c->nodes[0].down_reason[1], violations[i].why);
        assert_string_equal(stats_of(c, 0, 1).down_reason,
                            violations[i].why);
        assert_int_equal(stats_of(c, 0, 1).protocol_errors, 1);
        do {
            assert_true(raw_get(&r, c, &f));
        } while (f.type == DSM__FRAME_PONG);
        assert_int_equal(f.type, DSM__FRAME_ERROR);
        assert_memory_equal(f.notice.text, violations[i].why,
                            f.notice.text_bytes);
        raw_expect_closed(&r, c);
        raw_close(&r);
        assert_int_equal(tnode_send(&c->nodes[0], 1, 0, "", 0), -EHOSTDOWN);
        assert_int_equal(dsm_doorbell(c->nodes[0].node, 1, 1), -EHOSTDOWN);
        assert_int_equal(stats_of(c, 0, 1).queued_in[3], 0);

        assert_int_equal(tnode_send(&c->nodes[0], 2, 0, "", 0), 0);
        cluster_wait(c, c->nodes[2].taken[0][0] == 1);
        assert_int_equal(c->nodes[0].downs[2], 0);
        assert_int_equal(c->nodes[0].nr_rejected, 0);
        cluster_free(c);
    }
}

static void test_error_and_reject_received(void **state)
{
    static const struct {
        enum dsm__frame_type type;
        const char *why;
    } cases[] = {
        { DSM__FRAME_ERROR, "closed by the peer: my fault?" },
        { DSM__FRAME_REJECT, "refused by the peer: my fault?" },
    };

    for (int i = 0; i < 2; i++) {
        struct cluster *c = cluster_new(2, WIRE_UNIX);
        struct dsm__frame f = frame_of(cases[i].type);
        struct raw r;

        cluster_start_node(c, 0);
        raw_handshake(&r, c, 1, 0);
        f.notice.code = 12345;
        f.notice.text = "my fault\r";
        f.notice.text_bytes = 9;
        raw_put(&r, &f);
        cluster_wait(c, c->nodes[0].downs[1] == 1);
        assert_string_equal(c->nodes[0].down_reason[1], cases[i].why);
        raw_expect_closed(&r, c);
        raw_close(&r);
        cluster_free(c);
    }
}

/* The stream of an established link ends after each number of bytes. */
static void test_cut_frames(void **state)
{
    uint8_t buf[DSM__WIRE_HEADER_BYTES + 8];
    struct dsm__frame f = frame_of(DSM__FRAME_MESSAGE);

    f.seq = 3;
    f.message.data = (const uint8_t *)"12345678";
    f.message.bytes = 8;
    dsm__wire_encode(buf, &f);
    for (size_t cut = 0; cut <= sizeof(buf); cut++) {
        struct cluster *c = cluster_new(2, WIRE_UNIX);
        struct raw r;

        cluster_start_node(c, 0);
        raw_handshake(&r, c, 1, 0);
        raw_put_bytes(&r, buf, cut);
        raw_close(&r);
        cluster_wait(c, c->nodes[0].downs[1] == 1);
        assert_string_equal(c->nodes[0].down_reason[1],
                            cut == 0 || cut == sizeof(buf)
                                ? "connection lost"
                                : "connection lost inside a frame");
        /* What had come whole was delivered first. */
        assert_int_equal(c->nodes[0].taken[1][0], cut == sizeof(buf));
        cluster_free(c);
    }
}

/* Leaving and dying */

static void leave(enum wiring wiring)
{
    struct cluster *c = cluster_new(3, wiring);

    cluster_start(c);
    /* What was sent before the goodbye arrives before it. */
    for (int i = 0; i < 10; i++) {
        assert_int_equal(tnode_send(&c->nodes[1], 0, 3, "x", 1), 0);
        assert_int_equal(tnode_send(&c->nodes[0], 1, 3, "x", 1), 0);
    }
    cluster_stop_node(c, 1);
    cluster_wait(c, c->nodes[0].downs[1] == 1 && c->nodes[2].downs[1] == 1);
    assert_string_equal(c->nodes[0].down_reason[1], "left");
    assert_string_equal(c->nodes[2].down_reason[1], "left");
    assert_int_equal(c->nodes[0].taken[1][3], 10);
    assert_int_equal(c->nodes[0].downs[2], 0);
    cluster_free(c);
}

static void test_leave(void **state)
{
    leave(WIRE_UNIX);
    leave(WIRE_TCP);
    leave(WIRE_LOOPBACK);
}

/* Found out by a send, outside of dispatch: told inside of it. */
static void test_lost_while_sending(void **state)
{
    struct cluster *c = cluster_new(2, WIRE_UNIX);
    struct dsm__frame f = frame_of(DSM__FRAME_MESSAGE);
    struct raw r;

    cluster_start_node(c, 0);
    raw_handshake(&r, c, 1, 0);
    raw_put(&r, &f); /* the last word */
    raw_close(&r);
    assert_int_equal(tnode_send(&c->nodes[0], 1, 0, "", 0), -EHOSTDOWN);
    assert_int_equal(tnode_send(&c->nodes[0], 1, 0, "", 0), -EHOSTDOWN);
    assert_int_equal(dsm_doorbell(c->nodes[0].node, 1, 1), -EHOSTDOWN);
    assert_int_equal(c->nodes[0].downs[1], 0);
    cluster_wait(c, c->nodes[0].downs[1] == 1);
    assert_int_equal(c->nodes[0].taken[1][0], 1);
    assert_string_equal(c->nodes[0].down_reason[1], "connection lost");
    cluster_free(c);
}

/* The peer refuses to hear, but neither closes nor falls silent. */
static void test_deaf_peer(void **state)
{
    struct cluster *c = cluster_new(2, WIRE_UNIX);
    struct raw r;

    cluster_start_node(c, 0);
    raw_handshake(&r, c, 1, 0);
    shutdown(r.fd, SHUT_RD);
    assert_int_equal(tnode_send(&c->nodes[0], 1, 0, "", 0), -EHOSTDOWN);
    cluster_wait(c, c->nodes[0].downs[1] == 1);
    assert_string_equal(c->nodes[0].down_reason[1], "connection lost");
    raw_close(&r);
    cluster_free(c);
}

/* Heartbeats */

static void test_silent_peer(void **state)
{
    struct cluster *c = cluster_new(2, WIRE_UNIX);
    struct dsm__frame f;
    struct raw r;
    uint64_t begin_ns;

    c->config.heartbeat_ms = 20;
    c->config.peer_timeout_ms = 80;
    cluster_start_node(c, 0);
    raw_handshake(&r, c, 1, 0);
    begin_ns = dsm__now_ns();
    cluster_wait(c, c->nodes[0].downs[1] == 1);
    assert_true(dsm__now_ns() - begin_ns >= 70 * DSM__NSEC_PER_MSEC);
    assert_string_equal(c->nodes[0].down_reason[1], "silent for 80 ms");
    /* It was asked before. */
    assert_true(dsm__wire_decode(r.buf, r.bytes, &f, &(const char *) { 0 }) <=
                0);
    raw_expect_closed(&r, c);
    raw_close(&r);
    cluster_free(c);
}

static uint64_t nr_pings(struct cluster *c, int node, int peer)
{
    struct dsm_link_stats s = stats_of(c, node, peer);
    uint64_t sum = 0;

    for (int i = 0; i < DSM_HISTOGRAM_BUCKETS; i++) {
        sum += s.ping_rtt_ns[i];
    }
    return sum;
}

static void test_heartbeats(void **state)
{
    struct cluster *c = cluster_new(2, WIRE_UNIX);
    uint64_t begin_ns;

    c->config.heartbeat_ms = 5;
    c->config.peer_timeout_ms = 10;
    cluster_start(c);
    begin_ns = dsm__now_ns();
    cluster_wait(c, nr_pings(c, 0, 1) >= 5 && nr_pings(c, 1, 0) >= 1);
    assert_true(dsm__now_ns() - begin_ns >= 20 * DSM__NSEC_PER_MSEC);
    assert_int_equal(c->nodes[0].downs[1] + c->nodes[1].downs[0], 0);
    cluster_free(c);
}

/* A process that was stopped does not hold that against its peers. */
static void test_own_sleep_is_forgiven(void **state)
{
    struct cluster *c = cluster_new(2, WIRE_UNIX);
    struct timespec nap = { .tv_nsec = 60 * DSM__NSEC_PER_MSEC };

    c->config.heartbeat_ms = 5;
    c->config.peer_timeout_ms = 20;
    cluster_start(c);
    for (int i = 0; i < 3; i++) {
        /* Not to synchronise: being away is what is tested. */
        nanosleep(&nap, NULL);
        cluster_settle(c);
    }
    assert_int_equal(c->nodes[0].downs[1] + c->nodes[1].downs[0], 0);
    assert_int_equal(dsm_peer_state(c->nodes[0].node, 1), DSM_PEER_UP);
    cluster_free(c);
}

/* The event loop */

static bool dispatch_inside(struct tnode *t, uint16_t from,
                            enum dsm_class cls, const void *data,
                            uint32_t bytes)
{
    assert_int_equal(dsm_node_dispatch(t->node), -EBUSY);
    dsm_resume(t->node, from, cls); /* has nothing to do: no loop */
    return true;
}

static void test_idle_is_idle(void **state)
{
    struct cluster *c = cluster_new(3, WIRE_UNIX);

    cluster_start(c);
    c->nodes[1].on_message = dispatch_inside;
    assert_int_equal(tnode_send(&c->nodes[0], 1, 0, "", 0), 0);
    cluster_settle(c);
    assert_int_equal(c->nodes[1].taken[0][0], 1);
    for (int i = 0; i < 3; i++) {
        for (int k = 0; k < 3; k++) {
            assert_int_equal(dsm_node_dispatch(c->nodes[i].node), 0);
        }
        assert_true(dsm_node_fd(c->nodes[i].node) >= 0);
    }
    assert_string_equal(dsm_version(), DSM_VERSION);
    cluster_free(c);
}

/* A message may follow the handshake in the same piece of the stream. */
static void send_when_up(struct tnode *t, uint16_t peer)
{
    assert_int_equal(tnode_send(t, peer, DSM_CLASS_REQUEST, "hi", 2), 0);
    assert_int_equal(dsm_doorbell(t->node, peer, 2), 0);
    assert_true(dsm_region_fd(t->node, peer) >= 0);
}

static void test_send_when_up(void **state)
{
    struct cluster *c = cluster_new(6, WIRE_LOOPBACK);

    for (int i = 0; i < 6; i++) {
        c->nodes[i].on_up = send_when_up;
    }
    cluster_start(c);
    for (int i = 0; i < 36; i++) {
        if (i / 6 != i % 6) {
            assert_int_equal(
                c->nodes[i / 6].taken[i % 6][DSM_CLASS_REQUEST], 1);
            assert_int_equal(c->nodes[i / 6].bits[i % 6], 2);
        }
    }
    cluster_free(c);
}

/* The largest machine there can be. */
static void test_64_nodes(void **state)
{
    struct cluster *c = cluster_new(DSM_MAX_NODES, WIRE_UNIX);

    /* One thread makes all 4032 ends shake hands, at whatever pace it gets. */
    c->config.handshake_timeout_ms = 1000000;
    cluster_start(c);
    for (int i = 1; i < DSM_MAX_NODES; i++) {
        assert_int_equal(tnode_send(&c->nodes[0], i, 2, "", 0), 0);
    }
    cluster_settle(c);
    for (int i = 1; i < DSM_MAX_NODES; i++) {
        assert_int_equal(c->nodes[i].taken[0][2], 1);
        assert_string_equal(c->nodes[i].rejected, "");
    }
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_to_all_unix),
        cmocka_unit_test(test_all_to_all_cut),
        cmocka_unit_test(test_all_to_all_tcp),
        cmocka_unit_test(test_all_to_all_loopback),
        cmocka_unit_test(test_send_errors),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_back_pressure),
        cmocka_unit_test(test_partial_resume),
        cmocka_unit_test(test_ack_before_bulk),
        cmocka_unit_test(test_ack_before_answers),
        cmocka_unit_test(test_piggyback),
        cmocka_unit_test(test_doorbells),
        cmocka_unit_test(test_doorbell_on_full_socket),
        cmocka_unit_test(test_violations),
        cmocka_unit_test(test_error_and_reject_received),
        cmocka_unit_test(test_cut_frames),
        cmocka_unit_test(test_leave),
        cmocka_unit_test(test_lost_while_sending),
        cmocka_unit_test(test_deaf_peer),
        cmocka_unit_test(test_silent_peer),
        cmocka_unit_test(test_heartbeats),
        cmocka_unit_test(test_own_sleep_is_forgiven),
        cmocka_unit_test(test_idle_is_idle),
        cmocka_unit_test(test_send_when_up),
        cmocka_unit_test(test_64_nodes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
