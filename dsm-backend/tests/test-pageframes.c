/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Page channels whose other end does what it must not: that link ends with a
 * reason, and nothing else does. Node 0 and node 2 are real; node 1 speaks
 * frames by hand.
 */
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "harness.h"

#define RIGHTS(type, right)                                  \
    (DSM__PAGE_RIGHTS + DSM__NR_RIGHTS * DSM__RIGHTS_##type + \
     DSM__RIGHT_##right)

struct fake {
    struct cluster *c;
    int self;
    struct raw pages, link;
    uint32_t seq;
    uint8_t body[4096];
};

static void connect_channel(struct fake *f, struct raw *r, int channel)
{
    struct dsm__frame h = hello_of(f->c, f->self, 0, DSM__FRAME_HELLO);
    struct dsm__frame ready = frame_of(DSM__FRAME_READY);

    h.hello.channel = channel;
    raw_connect(r, f->c, 0);
    raw_put(r, &h);
    raw_expect(r, f->c, DSM__FRAME_HELLO_ACK, NULL);
    raw_put(r, &ready);
    raw_expect(r, f->c, DSM__FRAME_READY, NULL);
}

static void fake_begin(struct fake *f)
{
    *f = (struct fake) { .c = cluster_new(3, WIRE_UNIX), .self = 1 };
    f->c->config.coherence = DSM_COHERENCE_PAGES;
    cluster_start_node(f->c, 0);
    cluster_start_node(f->c, 2);
    connect_channel(f, &f->pages, 1);
    connect_channel(f, &f->link, 0);
    cluster_wait(f->c, f->c->nodes[0].ups[1] && f->c->nodes[0].ups[2]);
}

/* Nodes 0 and 2 have each other, and page 1 of region 0 goes to and fro. */
static void check_others(struct fake *f)
{
    volatile uint8_t *home = f->c->nodes[0].memory[0] + 4096;
    volatile uint8_t *away = f->c->nodes[2].memory[0] + 4096;

    for (int i = 1; i < 4; i++) {
        *home = i;
        assert_int_equal(*away, i);
        *away = i + 10;
        assert_int_equal(*home, i + 10);
    }
    assert_int_equal(dsm_peer_state(f->c->nodes[0].node, 2), DSM_PEER_UP);
    assert_int_equal(dsm_peer_state(f->c->nodes[2].node, 0), DSM_PEER_UP);
}

static void fake_end(struct fake *f, const char *reason)
{
    cluster_wait(f->c, f->c->nodes[0].downs[1]);
    if (!strstr(f->c->nodes[0].down_reason[1], reason)) {
        fail_msg("'%s' in place of '%s'", f->c->nodes[0].down_reason[1],
                 reason);
    }
    check_others(f);
    raw_close(&f->pages);
    raw_close(&f->link);
    cluster_free(f->c);
}

static void put_page(struct fake *f, struct dsm__page_frame frame)
{
    uint8_t header[DSM__PAGE_HEADER_BYTES];

    frame.seq += f->seq++;
    dsm__page_encode(header, &frame);
    raw_put_bytes(&f->pages, header, sizeof(header));
}

/* What came with the handshake comes first. */
static void get_bytes(struct raw *r, uint8_t *to, size_t bytes)
{
    size_t have = r->bytes < bytes ? r->bytes : bytes;
    ssize_t n;

    memcpy(to, r->buf, have);
    r->bytes -= have;
    memmove(r->buf, r->buf + have, r->bytes);
    for (; have < bytes; have += n) {
        n = recv(r->fd, to + have, bytes - have, 0);
        assert_true(n > 0);
    }
}

/* The next page frame that says something; its last page is in @f->body. */
static struct dsm__page_frame get_page(struct fake *f)
{
    uint8_t header[DSM__PAGE_HEADER_BYTES];
    struct dsm__page_frame frame;
    const char *why = "";

    do {
        get_bytes(&f->pages, header, sizeof(header));
        if (dsm__page_decode(header, &frame, &why) < 0) {
            fail_msg("%s", why);
        }
    } while (frame.type == DSM__PAGE_PING || frame.type == DSM__COH_MET);
    for (uint32_t i = 0; dsm__coh_has_data(frame.type) && i < frame.count; i++) {
        get_bytes(&f->pages, f->body, sizeof(f->body));
    }
    return frame;
}

/* One frame that is wrong by itself. */
static void test_single(void **state)
{
    static const struct {
        struct dsm__page_frame frame;
        const char *reason;
    } cases[] = {
        { { .type = DSM__COH_READ, .seq = 1 },
          "page frame 1 in place of frame 0" },
        { { .type = DSM__COH_READ, .page = 1000 },
          "READ: pages that this node does not know" },
        { { .type = DSM__COH_READ, .region = 7 },
          "READ: pages that this node does not know" },
        { { .type = DSM__COH_READ, .region = 1 },
          "READ: a message for the home of a region" },
        { { .type = DSM__COH_INV }, "only the home of a region sends" },
        { { .type = DSM__COH_INV, .region = 1 },
          "INV: a message that the state of the page does not allow" },
        { { .type = DSM__COH_GRANT, .region = 1 }, "does not allow" },
        { { .type = DSM__COH_GONE, .region = 1 }, "does not allow" },
        { { .type = DSM__COH_FWD_WRITE, .region = 1, .node = 2 },
          "does not allow" },
        { { .type = DSM__COH_FWD_READ, .region = 1, .node = 0 },
          "names a node it cannot name" },
        { { .type = DSM__COH_FWD_READ, .region = 1, .node = 9 },
          "names a node it cannot name" },
        { { .type = DSM__COH_DECLINE, .region = 1, .count = 1, .stride = 1 },
          "does not allow" },
        { { .type = DSM__COH_ACK }, "ACK without INV" },
        { { .type = DSM__COH_DONE }, "DONE without a request" },
        { { .type = DSM__COH_RETURN, .count = 1 }, "nobody asked for" },
        { { .type = DSM__COH_DATA_S, .region = 1, .count = 1 },
          "nobody asked for" },
        { { .type = DSM__COH_DATA_S, .region = 2, .count = 2 },
          "more pages than were asked for" },
        { { .type = DSM__COH_REFUSE, .node = 0 },
          "names a node it cannot name" },
        { { .type = DSM__COH_REFUSE, .node = 1 },
          "names a node it cannot name" },
        { { .type = DSM__COH_MET, .node = 0 },
          "names a node it cannot name" },
        { { .type = DSM__COH_MET, .region = 1, .node = 2 },
          "a message for the home of a region" },
        { { .type = DSM__COH_RETURN, .region = 1, .count = 1 },
          "nobody asked for" },
        { { .type = DSM__COH_LOST, .node = 2 },
          "only the home of a region sends" },
        { { .type = DSM__PAGE_AHEAD, .region = 1, .count = 1, .stride = 1 },
          "AHEAD: a message for the home of a region" },
        { { .type = DSM__PAGE_AHEAD, .count = 200, .stride = 1 },
          "pages that this node does not know" },
        { { .type = DSM__PAGE_AHEAD, .count = 0, .stride = 1 },
          "impossible number of pages" },
        { { .type = DSM__COH_DATA_S, .region = 1, .count = 65 },
          "impossible number of pages" },
        { { .type = DSM__PAGE_AHEAD, .count = 2, .stride = -1 },
          "impossible range" },
        { { .type = DSM__COH_READ, .node = 1 }, "does not use is not 0" },
        { { .type = DSM__PAGE_PING, .page = 1 }, "does not use is not 0" },
        { { .type = RIGHTS(ASK, WRITE) }, "not a frame of the page protocol" },
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct fake f;

        fake_begin(&f);
        put_page(&f, cases[i].frame);
        fake_end(&f, cases[i].reason);
    }
}

/* The same where memory is shared; node 1 gets no further than this. */
static void test_shared(void **state)
{
    static const struct {
        struct dsm__page_frame frame;
        const char *reason;
    } cases[] = {
        { { .type = DSM__COH_READ },
          "READ: not a frame of a machine that shares memory" },
        { { .type = DSM__COH_DATA_S, .count = 1 },
          "DATA_S: not a frame of a machine that shares memory" },
        { { .type = RIGHTS(ASK, WRITE), .page = 1000 },
          "ASK_WRITE: pages that this node does not know" },
        { { .type = RIGHTS(ASK, EXEC), .region = 1 },
          "ASK_EXEC: pages that this node does not know" },
        { { .type = RIGHTS(ASK, EXEC), .stride = 1 }, "does not use is not 0" },
        { { .type = RIGHTS(MAY, WRITE) },
          "MAY_WRITE: a message that only the home may send" },
        { { .type = RIGHTS(MAY, WRITE), .after = 512 }, "impossible range" },
        { { .type = RIGHTS(STOP, EXEC) },
          "STOP_EXEC: a message that only the home may send" },
        { { .type = RIGHTS(STOPPED, WRITE) },
          "STOPPED_WRITE: an answer without a question" },
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct fake f = { .c = cluster_new(2, WIRE_UNIX), .self = 1 };

        f.c->config.code = true;
        cluster_start_node(f.c, 0);
        connect_channel(&f, &f.pages, 1);
        put_page(&f, cases[i].frame);
        cluster_wait(f.c, f.c->nodes[0].downs[1]);
        if (!strstr(f.c->nodes[0].down_reason[1], cases[i].reason)) {
            fail_msg("'%s' in place of '%s'", f.c->nodes[0].down_reason[1],
                     cases[i].reason);
        }
        raw_close(&f.pages);
        cluster_free(f.c);
    }
}

/* Either all nodes keep code coherent or none does. */
static void test_shared_by_one(void **state)
{
    struct cluster *c = cluster_new(2, WIRE_UNIX);
    struct dsm__frame f = hello_of(c, 1, 0, DSM__FRAME_HELLO);
    struct raw r;

    c->config.code = true;
    cluster_start_node(c, 0);
    raw_connect(&r, c, 0);
    raw_put(&r, &f);
    raw_expect(&r, c, DSM__FRAME_REJECT, &f);
    assert_int_equal(f.notice.code, DSM__NOTICE_VERSION);
    assert_non_null(strstr(c->nodes[0].rejected,
                           "features 0 offered, node 0 requires 0x1"));
    raw_close(&r);
    cluster_free(c);
}

static void test_bytes(void **state)
{
    struct fake f;
    uint8_t junk[DSM__PAGE_HEADER_BYTES] = "P?";

    fake_begin(&f);
    raw_put_bytes(&f.pages, junk, sizeof(junk));
    fake_end(&f, "not a frame of the page channel");

    fake_begin(&f);
    memcpy(junk, "PG\1\377", 4);
    raw_put_bytes(&f.pages, junk, sizeof(junk));
    fake_end(&f, "unknown type");

    /* It ends inside a header. */
    fake_begin(&f);
    raw_put_bytes(&f.pages, junk, 5);
    raw_close(&f.pages);
    fake_end(&f, "page channel lost inside a frame");
}

/* A whole exchange, and then its last frame once more. */
static void test_replay(void **state)
{
    struct fake f;
    uint8_t header[DSM__PAGE_HEADER_BYTES];
    struct dsm__page_frame read = { .type = DSM__COH_READ, .page = 3 };

    fake_begin(&f);
    put_page(&f, read);
    assert_int_equal(get_page(&f).type, DSM__COH_DATA_S);
    dsm__page_encode(header, &read);
    raw_put_bytes(&f.pages, header, sizeof(header));
    fake_end(&f, "page frame 0 in place of frame 1");
}

static void test_asks_twice(void **state)
{
    struct fake f;
    uint8_t twice[2 * DSM__PAGE_HEADER_BYTES];
    struct dsm__page_frame read = { .type = DSM__COH_READ, .page = 3 };

    /* For what it has. */
    fake_begin(&f);
    put_page(&f, read);
    assert_int_equal(get_page(&f).type, DSM__COH_DATA_S);
    put_page(&f, read);
    fake_end(&f, "it asks for what it has");

    /*
     * Before it was answered: page 3 is at node 2 then, and both come at once, or
     * the home might have the page, give it and be done before the second.
     */
    fake_begin(&f);
    f.c->nodes[2].memory[0][3 * 4096] = 1;
    read.type = DSM__COH_WRITE;
    for (read.seq = 0; read.seq < 2; read.seq++) {
        dsm__page_encode(twice + read.seq * DSM__PAGE_HEADER_BYTES, &read);
    }
    raw_put_bytes(&f.pages, twice, sizeof(twice));
    fake_end(&f, "it asks for a page twice");
}

/* It says that it has what it cannot have yet. */
static void test_done_too_soon(void **state)
{
    struct fake f;
    struct dsm__page_frame write = { .type = DSM__COH_WRITE, .page = 3 };

    fake_begin(&f);
    put_page(&f, write);
    assert_int_equal(get_page(&f).type, DSM__COH_DATA_M);
    write.type = DSM__COH_DONE;
    put_page(&f, write);
    fake_end(&f, "DONE without a request");
}

/* It is asked to give up a page, and does not say so: others wait until it
 * is gone. */
static void test_no_ack(void **state)
{
    struct fake f;
    struct dsm__page_frame read = { .type = DSM__COH_READ, .page = 3 };

    fake_begin(&f);
    f.c->nodes[0].memory[0][3 * 4096] = 7;
    put_page(&f, read);
    assert_int_equal(get_page(&f).type, DSM__COH_DATA_S);
    assert_int_equal(f.c->nodes[2].memory[0][3 * 4096], 7);
    if (fork() == 0) {
        /* From elsewhere: this thread is about to wait. */
        assert_int_equal(get_page(&f).type, DSM__COH_INV);
        shutdown(f.pages.fd, SHUT_RDWR);
        _exit(0);
    }
    f.c->nodes[2].memory[0][3 * 4096] = 8;
    assert_int_equal(f.c->nodes[0].memory[0][3 * 4096], 8);
    fake_end(&f, "page channel lost");
}

static void *write_7(void *at)
{
    *(volatile uint8_t *)at = 7;
    return NULL;
}

/*
 * Node 0 is told to give a page to node 2 before node 2 is connected to it,
 * as any order of connections allows: it is given then.
 */
static void test_early_forward(void **state)
{
    struct fake home = { .c = cluster_new(3, WIRE_UNIX), .self = 1 };
    struct fake reader = { .c = home.c, .self = 2 };
    struct dsm__page_frame data = {
        .type = DSM__COH_DATA_M, .region = 1, .page = 3, .count = 1,
    };
    struct dsm__page_frame forward = {
        .type = DSM__COH_FWD_WRITE, .region = 1, .page = 3, .node = 2,
    };
    struct dsm_region_stats stats = { 0 };
    struct dsm__page_frame got;
    pthread_t thread;

    home.c->config.coherence = DSM_COHERENCE_PAGES;
    cluster_start_node(home.c, 0);
    connect_channel(&home, &home.pages, 1);
    connect_channel(&home, &home.link, 0);
    pthread_create(&thread, NULL, write_7,
                   home.c->nodes[0].memory[1] + 3 * 4096);
    assert_int_equal(get_page(&home).type, DSM__COH_WRITE);
    put_page(&home, data);
    raw_put_bytes(&home.pages, home.body, sizeof(home.body));
    pthread_join(thread, NULL);
    put_page(&home, forward);
    while (stats.invalidations == 0) {
        dsm_region_stats(home.c->nodes[0].node, 1, &stats);
    }
    connect_channel(&reader, &reader.pages, 1);
    got = get_page(&reader);
    assert_int_equal(got.type, DSM__COH_DATA_M);
    assert_int_equal(got.region, 1);
    assert_int_equal(got.page, 3);
    assert_int_equal(reader.body[0], 7);
    raw_close(&home.pages);
    raw_close(&home.link);
    raw_close(&reader.pages);
    cluster_free(home.c);
}

/*
 * Node 1 is lost and its window unmapped; before it is fenced, node 2's window
 * is where it was. Faults there are node 2's, and fencing does not touch it.
 */
static void test_window_in_place_of_another(void **state)
{
    struct fake f = { .c = cluster_new(3, WIRE_UNIX), .self = 1 };
    struct cluster *c = f.c;
    struct tnode *t = &c->nodes[0];
    struct dsm_region_params params = { 0 };
    uint64_t bytes = c->desc[1].ram_bytes;
    volatile uint8_t *home;

    c->config.coherence = DSM_COHERENCE_PAGES;
    c->desc[2].ram_bytes = bytes;
    c->late_region = 2;
    cluster_start_node(c, 0);
    cluster_start_node(c, 2);
    connect_channel(&f, &f.pages, 1);
    connect_channel(&f, &f.link, 0);
    cluster_wait(c, t->ups[1] && t->ups[2]);
    raw_close(&f.link);
    raw_close(&f.pages);
    cluster_wait(c, t->downs[1]);

    params.memory = mmap(t->memory[1], bytes, PROT_READ | PROT_WRITE,
                         MAP_SHARED | MAP_FIXED, dsm_region_fd(t->node, 2), 0);
    assert_ptr_equal(params.memory, t->memory[1]);
    t->memory[1] = NULL;
    t->memory[2] = params.memory;
    assert_int_equal(dsm_region_attach(t->node, 2, &params), 0);
    assert_int_equal(dsm_peer_fence(t->node, 1), 0);
    home = c->nodes[2].memory[2];
    for (int i = 1; i < 4; i++) {
        home[4096] = i;
        assert_int_equal(((volatile uint8_t *)t->memory[2])[4096], i);
    }
    cluster_free(c);
}

/* The end of the link is the end of the page channel, too. */
static void test_link_ends(void **state)
{
    struct fake f;
    uint8_t byte;

    fake_begin(&f);
    raw_close(&f.link);
    cluster_wait(f.c, f.c->nodes[0].downs[1]);
    while (recv(f.pages.fd, &byte, 1, 0) > 0) {
    }
    fake_end(&f, "connection lost");
}

/* No link before there is a page channel, and one page channel only. */
static void test_order(void **state)
{
    struct fake f = { .c = cluster_new(3, WIRE_UNIX), .self = 1 };
    struct dsm__frame h = hello_of(f.c, 1, 0, DSM__FRAME_HELLO), got;

    f.c->config.coherence = DSM_COHERENCE_PAGES;
    h.hello.coherence = DSM_COHERENCE_PAGES;
    cluster_start_node(f.c, 0);
    raw_connect(&f.link, f.c, 0);
    raw_put(&f.link, &h);
    raw_expect(&f.link, f.c, DSM__FRAME_REJECT, &got);
    assert_int_equal(got.notice.code, DSM__NOTICE_BUSY);
    raw_close(&f.link);
    connect_channel(&f, &f.pages, 1);
    h.hello.channel = 1;
    h.seq = 0;
    raw_connect(&f.link, f.c, 0);
    raw_put(&f.link, &h);
    raw_expect(&f.link, f.c, DSM__FRAME_REJECT, &got);
    assert_int_equal(got.notice.code, DSM__NOTICE_DUPLICATE);
    raw_close(&f.link);
    /* Lost before it was a peer: it is one that is DOWN. */
    raw_close(&f.pages);
    cluster_wait(f.c, f.c->nodes[0].downs[1]);
    cluster_free(f.c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_single),
        cmocka_unit_test(test_shared),
        cmocka_unit_test(test_shared_by_one),
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_replay),
        cmocka_unit_test(test_asks_twice),
        cmocka_unit_test(test_done_too_soon),
        cmocka_unit_test(test_no_ack),
        cmocka_unit_test(test_early_forward),
        cmocka_unit_test(test_window_in_place_of_another),
        cmocka_unit_test(test_link_ends),
        cmocka_unit_test(test_order),
    };
    const char *why;

    if (dsm_pages_available(&why) < 0) {
        print_message("%s\n", why);
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
