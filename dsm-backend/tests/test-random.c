/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Random schedules over the loopback transport. Everything that happens is
 * drawn from one seed, which is printed: DSM_TEST_SEED=... repeats a run.
 *
 * Whatever the schedule:
 *   1. What arrives of one (from, to, class) are the messages sent, in order,
 *      each once, without a gap: a prefix of them.
 *   2. On a link that stands nothing is missing once all has come to rest,
 *      and every bit that was rung has been heard.
 *   3. Every -EAGAIN is followed by one writable(), if the link stands.
 *   4. A fault on one link changes nothing for any other.
 *
 * A loss is noticed when something follows it, so a connection that had one
 * is cut in the end: the links that then stand are those without a fault,
 * and for all of them 2 and 3 are checked.
 */
#include <errno.h>
#include <stdlib.h>

#include "harness.h"
#include "transport_loopback.h"

#define MAX_NODES 5

struct world {
    struct rng rng;
    struct cluster *c;
    uint32_t sent[MAX_NODES][MAX_NODES][DSM_NR_CLASSES];
    uint64_t refused[MAX_NODES][MAX_NODES][DSM_NR_CLASSES];
    uint64_t rung[MAX_NODES][MAX_NODES];
    bool faulty[4096]; /* by connection */
    int faults;        /* other than cuts */
};

static bool take(struct tnode *t, uint16_t from, enum dsm_class cls,
                 const void *data, uint32_t bytes)
{
    uint32_t number;

    assert_true(bytes >= sizeof(number));
    memcpy(&number, data, sizeof(number));
    assert_int_equal(number, t->taken[from][cls]);
    for (uint32_t i = sizeof(number); i < bytes; i++) {
        assert_int_equal(((const uint8_t *)data)[i], (uint8_t)(number + i));
    }
    return true;
}

static void send_some(struct world *w, int from, int to, enum dsm_class cls)
{
    uint8_t data[DSM_MAX_MESSAGE_BYTES];
    uint32_t number = w->sent[from][to][cls];
    size_t bytes = 4 + rng_below(&w->rng, rng_below(&w->rng, 8) ? 40 : 4093);
    int ret;

    memcpy(data, &number, sizeof(number));
    for (size_t i = sizeof(number); i < bytes; i++) {
        data[i] = number + i;
    }
    ret = tnode_send(&w->c->nodes[from], to, cls, data, bytes);
    if (dsm_peer_state(w->c->nodes[from].node, to) != DSM_PEER_UP) {
        assert_int_equal(ret, -EHOSTDOWN);
    } else if (ret == 0) {
        w->sent[from][to][cls]++;
    } else if (ret == -EAGAIN) {
        w->refused[from][to][cls]++;
    } else {
        assert_int_equal(ret, -EHOSTDOWN); /* found broken just now */
    }
}

static void act(struct world *w, bool faults)
{
    struct cluster *c = w->c;
    unsigned int lanes = dsm__hub_nr_lanes(c->hub);
    int a = rng_below(&w->rng, c->nr), b = rng_below(&w->rng, c->nr);
    enum dsm_class cls = rng_below(&w->rng, DSM_NR_CLASSES);
    uint64_t bits;

    switch (rng_below(&w->rng, faults ? 101 : 100)) {
    case 0 ... 29:
        if (a != b) {
            send_some(w, a, b, cls);
        }
        break;
    case 30 ... 54:
        dsm_node_dispatch(c->nodes[a].node);
        break;
    case 55 ... 84:
        if (lanes) {
            dsm__hub_move(c->hub, rng_below(&w->rng, lanes),
                          1 + rng_below(&w->rng,
                                        rng_below(&w->rng, 4) ? 64 : 9000));
        }
        break;
    case 85 ... 89:
        c->nodes[a].refuse[b][cls] ^= true;
        break;
    case 90 ... 94:
        dsm_resume(c->nodes[a].node, b, cls);
        break;
    case 95 ... 99:
        bits = UINT64_C(1) << rng_below(&w->rng, 64);
        if (a != b && dsm_doorbell(c->nodes[a].node, b, bits) == 0) {
            w->rung[a][b] |= bits;
        }
        break;
    case 100:
        if (lanes && rng_below(&w->rng, 4) == 0) {
            unsigned int lane = rng_below(&w->rng, lanes);

            enum dsm__hub_fault fault = rng_below(&w->rng, 5);

            if (fault == DSM__HUB_FLIP) {
                dsm__hub_cut(c->hub, lane);
                w->faulty[lane / 2] = true;
            } else if (dsm__hub_fault(c->hub, lane, fault)) {
                w->faulty[lane / 2] = true;
                w->faults++;
            }
        }
        break;
    }
}

static void come_to_rest(struct world *w)
{
    struct cluster *c = w->c;

    for (int i = 0; i < c->nr; i++) {
        memset(c->nodes[i].refuse, 0, sizeof(c->nodes[i].refuse));
        for (int j = 0; j < c->nr; j++) {
            for (int k = 0; k < DSM_NR_CLASSES; k++) {
                dsm_resume(c->nodes[i].node, j, k);
            }
        }
    }
    cluster_settle(c);
    for (unsigned int i = 0; i < dsm__hub_nr_lanes(c->hub); i += 2) {
        if (w->faulty[i / 2]) {
            dsm__hub_cut(c->hub, i);
        }
    }
    cluster_settle(c);
}

static void check(struct world *w, bool faults)
{
    struct cluster *c = w->c;

    for (int i = 0; i < c->nr; i++) {
        for (int j = 0; j < c->nr; j++) {
            bool up = dsm_peer_state(c->nodes[i].node, j) == DSM_PEER_UP &&
                      dsm_peer_state(c->nodes[j].node, i) == DSM_PEER_UP;

            if (i == j) {
                continue;
            }
            assert_true(up || faults);
            assert_int_equal(c->nodes[i].downs[j] > 0,
                             dsm_peer_state(c->nodes[i].node, j) ==
                                 DSM_PEER_DOWN);
            assert_true(c->nodes[i].downs[j] <= 1);
            for (int k = 0; k < DSM_NR_CLASSES; k++) {
                uint64_t taken = c->nodes[j].taken[i][k];

                assert_true(taken <= w->sent[i][j][k]);
                if (up) {
                    assert_int_equal(taken, w->sent[i][j][k]);
                    if (w->refused[i][j][k]) {
                        assert_true(c->nodes[i].writable[j][k] > 0);
                    }
                }
                assert_true(c->nodes[i].writable[j][k] <=
                            w->refused[i][j][k]);
            }
            assert_true((c->nodes[j].bits[i] & ~w->rung[i][j]) == 0);
            if (up) {
                assert_true(c->nodes[j].bits[i] == w->rung[i][j]);
            }
        }
    }
}

/* Return: in how many directions links stood in the end. */
static int run(struct world *w, bool faults, int steps)
{
    struct cluster *c;
    int standing = 0;

    c = w->c = cluster_new(2 + rng_below(&w->rng, MAX_NODES - 1),
                           WIRE_LOOPBACK);
    for (int k = 0; k < DSM_NR_CLASSES; k++) {
        c->config.credits[k] = 1 + rng_below(&w->rng, 20);
    }
    c->options.sndbuf_bytes = rng_below(&w->rng, 2) ? 5000 : 0;
    /* Time plays no part in it, or a seed would not repeat a run. */
    c->config.connect_retry_ms = 1000000;
    c->config.heartbeat_ms = 1000000;
    c->config.peer_timeout_ms = 10000000;
    c->config.handshake_timeout_ms = 1000000;
    for (int i = 0; i < c->nr; i++) {
        c->nodes[i].on_message = take;
    }
    if (faults) {
        /* The handshake is part of what may go wrong. */
        for (int i = 0; i < c->nr; i++) {
            cluster_start_node(c, i);
        }
    } else {
        cluster_start(c);
    }
    for (int i = 0; i < steps; i++) {
        act(w, faults);
    }
    come_to_rest(w);
    check(w, faults);

    for (int i = 0; i < c->nr; i++) {
        for (int j = 0; j < c->nr; j++) {
            standing += i != j &&
                        dsm_peer_state(c->nodes[i].node, j) == DSM_PEER_UP;
        }
    }
    assert_true(faults || standing == c->nr * (c->nr - 1));
    cluster_free(c);
    return standing;
}

static void test_schedules(void **state)
{
    struct world w = { 0 };

    rng_init(&w.rng, __func__);
    for (int i = 0; i < 40; i++) {
        memset(&w.sent, 0, sizeof(w) - offsetof(struct world, sent));
        run(&w, false, 5000);
    }
}

static void test_faults(void **state)
{
    struct world w = { 0 };
    int standing = 0, faults = 0;

    rng_init(&w.rng, __func__);
    for (int i = 0; i < 60; i++) {
        memset(&w.sent, 0, sizeof(w) - offsetof(struct world, sent));
        standing += run(&w, true, 5000);
        faults += w.faults;
    }
    assert_true(standing > 0 && faults > 0); /* else nothing was checked */
}

/*
 * One wrong bit anywhere, also where no check can see it: the node lives and
 * its other links do not notice.
 */
static bool take_anything(struct tnode *t, uint16_t from, enum dsm_class cls,
                          const void *data, uint32_t bytes)
{
    return true;
}

static void test_flipped_bits(void **state)
{
    struct world w = { 0 };

    rng_init(&w.rng, __func__);
    for (int round = 0; round < 300; round++) {
        struct cluster *c = cluster_new(3, WIRE_LOOPBACK);
        unsigned int lane;

        c->config.connect_retry_ms = 1000;
        c->nodes[0].on_message = c->nodes[1].on_message = take_anything;
        c->nodes[2].on_message = take_anything;
        /* 0 with 2 first, undisturbed. */
        cluster_start_node(c, 0);
        cluster_start_node(c, 2);
        cluster_wait(c, c->nodes[0].ups[2] && c->nodes[2].ups[0]);
        cluster_settle(c);
        lane = dsm__hub_nr_lanes(c->hub);
        cluster_start_node(c, 1);
        for (int step = 0; step < 60; step++) {
            unsigned int lanes = dsm__hub_nr_lanes(c->hub);

            for (int i = 0; i < 3; i++) {
                dsm_node_dispatch(c->nodes[i].node);
            }
            for (unsigned int l = lane; l < lanes; l++) {
                if (rng_below(&w.rng, 10) == 0) {
                    dsm__hub_fault(c->hub, l, DSM__HUB_FLIP);
                }
                dsm__hub_move(c->hub, l, 1 + rng_below(&w.rng, 200));
            }
            tnode_send(&c->nodes[0], 1, rng_below(&w.rng, 4), "12345678",
                       rng_below(&w.rng, 9));
            dsm_doorbell(c->nodes[1].node, 0, 1 + rng_below(&w.rng, 9));
        }
        assert_int_equal(tnode_send(&c->nodes[0], 2, 0, "", 0), 0);
        assert_int_equal(tnode_send(&c->nodes[2], 0, 0, "", 0), 0);
        cluster_settle(c);
        assert_int_equal(c->nodes[2].taken[0][0], 1);
        assert_int_equal(c->nodes[0].taken[2][0], 1);
        assert_int_equal(c->nodes[0].downs[2] + c->nodes[2].downs[0], 0);
        cluster_free(c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_schedules),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_flipped_bits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
