/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Links with a key: whose file is taken, who gets in, and what a stranger, or
 * somebody between two nodes, can do. That messages and pages are the same as
 * without one is shown where they are tested.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness.h"

/* GnuTLS takes at most 8 in a second from one peer. */
#define NEW_KEYS 6
#define HEX32 "000102030405060708090a0b0c0d0e0f"

static void assert_contains(const char *text, const char *part)
{
    if (!strstr(text, part)) {
        fail_msg("\"%s\" does not contain \"%s\"", text, part);
    }
}

/* Key files */

static int load(const char *path, char reason[DSM_REASON_BYTES])
{
    struct dsm_key *key = NULL;
    int ret = dsm_key_load(path, &key, reason);

    assert_true((ret == 0) == (key != NULL));
    dsm_key_free(key);
    return ret;
}

static void test_key_text(void **state)
{
    static const struct {
        const char *text;
        int ret;
        const char *reason;
    } files[] = {
        { HEX32, 0, "" },
        { HEX32 "\n", 0, "" },
        { HEX32 "\r\n\n", 0, "" },
        { "machine:" HEX32 "\n", 0, "" },
        { "#4d616368:000102030405060708090A0B0C0D0E0F", 0, "" },
        { HEX32 HEX32 HEX32 HEX32, 0, "" },
        { HEX32 HEX32 HEX32 HEX32 "00", -EINVAL, "130 hexadecimal digits" },
        { "", -EINVAL, "0 hexadecimal digits; 32 to 128 are needed" },
        { "\n", -EINVAL, "0 hexadecimal digits" },
        { "name:\n", -EINVAL, "0 hexadecimal digits" },
        { "0001020304050607", -EINVAL, "16 hexadecimal digits" },
        { HEX32 "0", -EINVAL, "33 hexadecimal digits" },
        { "a secret that is not written in hex", -EINVAL, "35 hex" },
        { "x00102030405060708090a0b0c0d0e0f", -EINVAL, "not made of" },
        { "a:" HEX32 "\nb:" HEX32 "\n", -EINVAL, "more than one line" },
    };
    char path[] = "/tmp/dsm-test-key-XXXXXX", reason[DSM_REASON_BYTES];
    int fd = mkstemp(path), fds = nr_open_fds();

    assert_true(fd >= 0);
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        reason[0] = '\0';
        write_file(path, files[i].text, 0600);
        assert_int_equal(load(path, reason), files[i].ret);
        assert_contains(reason, files[i].reason);
    }
    /* Binary, and far too long: read no further than that shows. */
    assert_int_equal(ftruncate(fd, 16), 0);
    assert_int_equal(pwrite(fd, "\0", 1, 3), 1);
    assert_int_equal(load(path, reason), -EINVAL);
    assert_string_equal(reason, "it is not a key");
    assert_int_equal(ftruncate(fd, INT64_C(1) << 40), 0);
    assert_int_equal(load(path, reason), -EINVAL);
    assert_int_equal(nr_open_fds(), fds);
    close(fd);
    unlink(path);
}

static void test_key_file(void **state)
{
    static const unsigned int modes[] = { 0644, 0640, 0620, 0610, 0604, 0601 };
    char dir[] = "/tmp/dsm-test-XXXXXX", path[64], other[64];
    char reason[DSM_REASON_BYTES];
    int fds = nr_open_fds();

    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/key", dir);
    snprintf(other, sizeof(other), "%s/other", dir);
    assert_int_equal(load(path, reason), -ENOENT);
    assert_string_equal(reason, strerror(ENOENT));
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
        write_file(path, HEX32, modes[i]);
        assert_int_equal(load(path, reason), -EACCES);
        assert_contains(reason, "it must be 0600 or stricter");
    }
    assert_int_equal(chmod(path, 0644), 0);
    assert_int_equal(load(path, reason), -EACCES);
    assert_contains(reason, "its mode is 0644, so others could use the key");
    assert_int_equal(chmod(path, 0400), 0);
    assert_int_equal(load(path, reason), 0);

    /* A link counts as what it leads to. */
    assert_int_equal(symlink(path, other), 0);
    assert_int_equal(load(other, reason), 0);
    assert_int_equal(chmod(path, 0444), 0);
    assert_int_equal(load(other, reason), -EACCES);
    unlink(other);

    assert_int_equal(load(dir, reason), -EINVAL);
    assert_string_equal(reason, "not a regular file");
    assert_int_equal(mkfifo(other, 0600), 0);
    assert_int_equal(load(other, reason), -EINVAL); /* and does not wait */
    assert_string_equal(reason, "not a regular file");
    if (geteuid() == 0) {
        assert_int_equal(chmod(path, 0600), 0);
        assert_int_equal(chown(path, 65534, 0), 0);
        assert_int_equal(load(path, reason), -EACCES);
        assert_string_equal(reason,
                            "it belongs to user 65534, not to user 0");
    }
    unlink(other);
    unlink(path);
    assert_int_equal(rmdir(dir), 0);
    assert_int_equal(nr_open_fds(), fds);
    dsm_key_free(NULL);
}

/* Where a key is needed */

static void test_needs_key(void **state)
{
    static const struct {
        const char *address;
        bool needs;
    } addresses[] = {
        { "tcp:127.0.0.1:1", false },     { "tcp:127.255.0.9:1", false },
        { "tcp:[::1]:1", false },         { "tcp:[::ffff:127.0.0.1]:1", false },
        { "tcp:0.0.0.0:1", true },        { "tcp:[::]:1", true },
        { "tcp:128.0.0.1:1", true },      { "tcp:10.0.0.1:1", true },
        { "tcp:[fe80::1]:1", true },      { "tcp:[::ffff:10.0.0.1]:1", true },
        { "unix:/10.0.0.1:1", false },    { "tcp:example.com:1", false },
        { "10.0.0.1:1", false },          { "", false },
    };
    struct dsm_ops ops = {
        .message = (void *)abort,
        .writable = (void *)abort,
        .doorbell = (void *)abort,
        .peer_state = (void *)abort,
    };
    struct cluster *c = cluster_new(2, WIRE_TLS);
    struct dsm__options options = { .links_only = true };
    struct dsm_node *node = NULL;
    int fds = nr_open_fds();

    for (size_t i = 0; i < sizeof(addresses) / sizeof(addresses[0]); i++) {
        if (dsm_address_needs_key(addresses[i].address) !=
            addresses[i].needs) {
            fail_msg("%s: %d", addresses[i].address, !addresses[i].needs);
        }
        if (addresses[i].needs) {
            c->desc[1].address = addresses[i].address;
            c->config.key = NULL;
            assert_int_equal(
                dsm__node_create(&c->config, &ops, NULL, &options, &node),
                -ENOKEY);
            assert_null(node);
            c->config.key = c->key[0];
            assert_int_equal(
                dsm__node_create(&c->config, &ops, NULL, &options, &node), 0);
            dsm_node_destroy(node);
            node = NULL;
        }
    }
    assert_int_equal(nr_open_fds(), fds);
    cluster_free(c);
}

/* Other keys */

static void test_wrong_key(void **state)
{
    struct cluster *c = cluster_new(2, WIRE_TLS);

    c->config.connect_retry_ms = 1;
    cluster_start_node(c, 0);
    c->config.key = c->key[1];
    cluster_start_node(c, 1);
    cluster_wait(c, c->nodes[0].nr_rejected >= 3 &&
                        c->nodes[1].nr_rejected >= 3);
    assert_contains(c->nodes[0].rejected, "connection from 127.0.0.1 port ");
    assert_contains(c->nodes[0].rejected, " has another key");
    assert_contains(c->nodes[1].rejected,
                    "connecting to node 0: TLS: 127.0.0.1 port ");
    assert_contains(c->nodes[1].rejected, " has another key");
    for (int i = 0; i < 2; i++) {
        assert_int_equal(c->nodes[i].ups[!i] + c->nodes[i].downs[!i], 0);
    }
    /* It is never too late for the right one. */
    cluster_stop_node(c, 1);
    c->config.key = c->key[0];
    cluster_start_node(c, 1);
    cluster_wait(c, c->nodes[0].ups[1] && c->nodes[1].ups[0]);
    cluster_free(c);
}

/* One of the two has none. */
static void test_no_key(void **state)
{
    for (int without = 0; without < 2; without++) {
        struct cluster *c = cluster_new(2, WIRE_TLS);

        c->config.key = without == 0 ? NULL : c->key[0];
        cluster_start_node(c, 0);
        c->config.key = without == 1 ? NULL : c->key[0];
        cluster_start_node(c, 1);
        cluster_wait(c, c->nodes[0].nr_rejected >= 2 &&
                            c->nodes[1].nr_rejected >= 2);
        assert_contains(c->nodes[!without].rejected,
                        " does not speak it; has it no key?");
        for (int i = 0; i < 2; i++) {
            assert_int_equal(c->nodes[i].ups[!i] + c->nodes[i].downs[!i], 0);
        }
        cluster_free(c);
    }
}

/* Strangers: to begin with, they have only the address. */

static int port_of(struct cluster *c, int node)
{
    return atoi(strrchr(c->address[node], ':') + 1);
}

static int tcp_to(int port)
{
    struct sockaddr_in sa = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
        .sin_port = htons(port),
    };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    return fd;
}

static void test_strangers(void **state)
{
    static const char http[] = "GET / HTTP/1.1\r\n\r\n";
    static uint8_t much[1 << 20];
    struct cluster *c = cluster_new(2, WIRE_TLS);
    int fds, before, fd;
    struct rng rng;

    rng_init(&rng, "strangers");
    cluster_start_node(c, 0);
    fds = nr_open_fds();

    /* Who only looks whether somebody listens is no news. */
    close(tcp_to(port_of(c, 0)));
    cluster_settle(c);
    assert_int_equal(c->nodes[0].nr_rejected, 0);

    fd = tcp_to(port_of(c, 0));
    assert_int_equal(send(fd, http, strlen(http), 0), strlen(http));
    cluster_wait(c, c->nodes[0].nr_rejected == 1);
    assert_contains(c->nodes[0].rejected, "has it no key?");
    close(fd);

    /* Records of a handshake that never ends: read no longer than needed. */
    for (size_t at = 0; at + 5 + 16384 <= sizeof(much); at += 5 + 16384) {
        memcpy(much + at, "\x16\x03\x01\x40\x00", 5);
    }
    memcpy(much + 5, "\x01\xff\xff\xff", 4);
    fd = tcp_to(port_of(c, 0));
    fcntl(fd, F_SETFL, O_NONBLOCK);
    cluster_wait(c, (send(fd, much, sizeof(much), MSG_NOSIGNAL),
                     c->nodes[0].nr_rejected == 2));
    close(fd);

    for (int i = 0; i < 200; i++) {
        size_t bytes = 1 + rng_below(&rng, 2000);

        for (size_t k = 0; k < bytes; k++) {
            much[k] = rng_next(&rng);
        }
        if (i % 2) {
            memcpy(much, "\x16\x03\x01", bytes < 3 ? bytes : 3);
        }
        before = c->nodes[0].nr_rejected;
        fd = tcp_to(port_of(c, 0));
        send(fd, much, bytes, MSG_NOSIGNAL);
        shutdown(fd, SHUT_WR);
        cluster_wait(c, c->nodes[0].nr_rejected == before + 1);
        close(fd);
    }
    assert_int_equal(nr_open_fds(), fds);
    cluster_start_node(c, 1);
    cluster_wait(c, c->nodes[0].ups[1] && c->nodes[1].ups[0]);
    cluster_free(c);
}

/* Nobody can keep a place by saying nothing. */
static void test_stalled(void **state)
{
    struct cluster *c = cluster_new(2, WIRE_TLS);
    int fd[2];

    c->config.handshake_timeout_ms = 50;
    cluster_start_node(c, 0);
    fd[0] = tcp_to(port_of(c, 0));
    fd[1] = tcp_to(port_of(c, 0));
    assert_int_equal(send(fd[1], "\x16\x03\x01\x02", 4, 0), 4);
    cluster_wait(c, c->nodes[0].nr_rejected == 2);
    assert_contains(c->nodes[0].rejected, "no complete handshake within 50 ms");
    for (int i = 0; i < 2; i++) {
        char byte;

        assert_true(recv(fd[i], &byte, 1, 0) <= 0);
        close(fd[i]);
    }
    cluster_free(c);
}

/* A listener that says nothing, or not what it should. */
static void test_wrong_listener(void **state)
{
    struct cluster *c = cluster_new(2, WIRE_TLS);
    struct sockaddr_in sa = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
        .sin_port = htons(port_of(c, 0)),
    };
    int one = 1, fd;
    int listener = socket(AF_INET,
                          SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    assert_int_equal(setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one,
                                sizeof(one)), 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&sa, sizeof(sa)), 0);
    assert_int_equal(listen(listener, 8), 0);
    c->config.handshake_timeout_ms = 50;
    cluster_start_node(c, 1);
    cluster_wait(c, (fd = accept(listener, NULL, NULL)) >= 0);
    cluster_wait(c, c->nodes[1].nr_rejected == 1);
    assert_contains(c->nodes[1].rejected, "no complete handshake within 50 ms");
    close(fd);
    cluster_wait(c, (fd = accept(listener, NULL, NULL)) >= 0);
    assert_int_equal(send(fd, "220 mail\r\n", 10, MSG_NOSIGNAL), 10);
    cluster_wait(c, c->nodes[1].nr_rejected == 2);
    assert_contains(c->nodes[1].rejected, "has it no key?");
    close(fd);
    cluster_wait(c, (fd = accept(listener, NULL, NULL)) >= 0);
    close(fd);
    cluster_wait(c, c->nodes[1].nr_rejected == 3);
    assert_contains(c->nodes[1].rejected,
                    "closed the connection during the handshake");
    close(listener);
    assert_int_equal(c->nodes[1].downs[0], 0);
    cluster_free(c);
}

/* Between two nodes: a relay that looks, cuts and bends. */
struct relay {
    int listener;
    int fd[2]; /* of who connects, of whom it connects to */
    uint64_t bytes[2]; /* from each */
    uint64_t bend_at[2]; /* this byte is changed; 0: none */
    uint8_t header[2][5]; /* of the record that goes by */
    uint64_t header_at[2], next_at[2];
    bool bent_nothing; /* the byte that was changed has no meaning */
    bool saw; /* the words in plain */
};

static void relay_start(struct relay *r, struct cluster *c)
{
    struct sockaddr_in sa = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    socklen_t len = sizeof(sa);

    *r = (struct relay) { .fd = { -1, -1 } };
    r->listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC,
                         0);
    assert_int_equal(bind(r->listener, (struct sockaddr *)&sa, len), 0);
    assert_int_equal(listen(r->listener, 1), 0);
    assert_int_equal(getsockname(r->listener, (struct sockaddr *)&sa, &len),
                     0);
    cluster_start_node(c, 0);
    /* Where node 1 believes node 0 to be. */
    snprintf(c->address[0], sizeof(c->address[0]), "tcp:127.0.0.1:%d",
             ntohs(sa.sin_port));
    cluster_start_node(c, 1);
}

static void relay_close(struct relay *r)
{
    for (int i = 0; i < 2; i++) {
        if (r->fd[i] >= 0) {
            close(r->fd[i]);
            r->fd[i] = -1;
        }
    }
}

/*
 * RFC 8446 has two things that nobody looks at: the version of a record that
 * is not encrypted yet, and all of change_cipher_spec.
 */
static void relay_follow(struct relay *r, int from, uint8_t *byte)
{
    uint64_t at = ++r->bytes[from];
    uint64_t in_header;

    if (at > r->next_at[from]) {
        r->header_at[from] = at;
        r->next_at[from] = UINT64_MAX;
    }
    in_header = at - r->header_at[from];
    if (in_header < 5) {
        r->header[from][in_header] = *byte;
    }
    if (in_header == 4) {
        r->next_at[from] =
            at + ((size_t)r->header[from][3] << 8 | r->header[from][4]);
    }
    if (at == r->bend_at[from]) {
        r->bent_nothing =
            r->header[from][0] == 0x14 ||
            (r->header[from][0] == 0x16 &&
             (in_header == 1 || in_header == 2));
        *byte ^= 0x10;
    }
}

/* Return: true, so that it can stand in a condition. */
static bool relay_move(struct relay *r, int port)
{
    static uint8_t buf[65536];

    if (r->fd[0] < 0) {
        r->fd[0] = accept(r->listener, NULL, NULL);
        if (r->fd[0] < 0) {
            return true;
        }
        r->fd[1] = tcp_to(port);
        r->bytes[0] = r->bytes[1] = 0;
        r->next_at[0] = r->next_at[1] = 0;
    }
    for (int i = 0; i < 2 && r->fd[0] >= 0; i++) {
        ssize_t n = recv(r->fd[i], buf, sizeof(buf), MSG_DONTWAIT);

        if (n == 0 || (n < 0 && errno != EAGAIN)) {
            relay_close(r);
        } else if (n > 0) {
            r->saw |= memmem(buf, n, "DSM1", 4) || memmem(buf, n, "node1", 5);
            for (ssize_t k = 0; k < n; k++) {
                relay_follow(r, i, &buf[k]);
            }
            assert_int_equal(send(r->fd[!i], buf, n, MSG_NOSIGNAL), n);
        }
    }
    return true;
}

/* What goes by is not readable. */
static void test_encrypted(void **state)
{
    for (int keys = 0; keys < 2; keys++) {
        struct cluster *c = cluster_new(2, keys ? WIRE_TLS : WIRE_TCP);
        int port = port_of(c, 0);
        struct relay r;

        relay_start(&r, c);
        cluster_wait(c, relay_move(&r, port) && c->nodes[0].ups[1] &&
                            c->nodes[1].ups[0]);
        assert_int_equal(tnode_send(&c->nodes[0], 1, 0, "node1", 5), 0);
        cluster_wait(c, relay_move(&r, port) && c->nodes[1].taken[0][0] == 1);
        assert_true(r.saw == !keys);
        relay_close(&r);
        close(r.listener);
        cluster_free(c);
    }
}

/* Any byte that is changed ends the connection if it means something. */
static void test_bent(void **state)
{
    for (int from = 0; from < 2; from++) {
        struct cluster *c = cluster_new(2, WIRE_TLS);
        int port = port_of(c, 0);
        struct relay r;
        uint64_t upto = 0;

        c->config.handshake_timeout_ms = 300;
        relay_start(&r, c);
        cluster_wait(c, relay_move(&r, port) && c->nodes[0].ups[1] &&
                            c->nodes[1].ups[0]);
        upto = r.bytes[from];
        assert_true(upto > 200);
        relay_close(&r);
        cluster_wait(c, c->nodes[0].downs[1] && c->nodes[1].downs[0]);
        cluster_stop_node(c, 1);
        cluster_stop_node(c, 0);
        for (uint64_t at = 1; at <= upto; at += 1 + at / 64) {
            memset(c->nodes[0].ups, 0, sizeof(c->nodes[0].ups));
            memset(c->nodes[1].ups, 0, sizeof(c->nodes[1].ups));
            c->nodes[0].nr_rejected = c->nodes[1].nr_rejected = 0;
            c->nodes[0].downs[1] = c->nodes[1].downs[0] = 0;
            snprintf(c->address[0], sizeof(c->address[0]),
                     "tcp:127.0.0.1:%d", port);
            close(r.listener);
            relay_start(&r, c);
            r.bend_at[from] = at;
            /* It is noticed by one or both, who need not have been UP. */
            cluster_wait(c, relay_move(&r, port) &&
                                (c->nodes[0].nr_rejected > 0 ||
                                 c->nodes[1].nr_rejected > 0 ||
                                 c->nodes[0].downs[1] > 0 ||
                                 c->nodes[1].downs[0] > 0 ||
                                 (c->nodes[0].ups[1] && c->nodes[1].ups[0])));
            if (c->nodes[0].ups[1] && c->nodes[1].ups[0]) {
                assert_true(r.bent_nothing);
            }
            relay_close(&r);
            cluster_stop_node(c, 1);
            cluster_stop_node(c, 0);
        }
        close(r.listener);
        cluster_free(c);
    }
}

static void test_bent_when_up(void **state)
{
    struct cluster *c = cluster_new(2, WIRE_TLS);
    int port = port_of(c, 0);
    struct relay r;

    relay_start(&r, c);
    cluster_wait(c, relay_move(&r, port) && c->nodes[0].ups[1] &&
                        c->nodes[1].ups[0]);
    r.bend_at[1] = r.bytes[1] + 20;
    assert_int_equal(tnode_send(&c->nodes[0], 1, 0, "hello", 5), 0);
    cluster_wait(c, relay_move(&r, port) && c->nodes[1].downs[0] &&
                        c->nodes[0].downs[1]);
    assert_string_equal(c->nodes[1].down_reason[0],
                        "connection lost: Bad message");
    assert_int_equal(c->nodes[1].taken[0][0], 0);
    relay_close(&r);
    close(r.listener);
    cluster_free(c);
}

/* Cut off without a word of goodbye, which says nothing about why. */
static void test_cut_when_up(void **state)
{
    struct cluster *c = cluster_new(2, WIRE_TLS);
    int port = port_of(c, 0);
    struct relay r;

    relay_start(&r, c);
    cluster_wait(c, relay_move(&r, port) && c->nodes[0].ups[1] &&
                        c->nodes[1].ups[0]);
    relay_close(&r);
    cluster_wait(c, c->nodes[0].downs[1] && c->nodes[1].downs[0]);
    assert_contains(c->nodes[0].down_reason[1], "connection lost");
    assert_contains(c->nodes[1].down_reason[0], "connection lost");
    close(r.listener);
    cluster_free(c);
}

static void test_leave(void **state)
{
    struct cluster *c = cluster_new(2, WIRE_TLS);

    cluster_start(c);
    cluster_stop_node(c, 1);
    cluster_wait(c, c->nodes[0].downs[1]);
    assert_string_equal(c->nodes[0].down_reason[1], "left");
    cluster_free(c);
}

/*
 * More than the sockets take, in both directions at once: what GnuTLS holds
 * back is sent when there is room, although nobody sends anything more.
 */
static void test_held_back(void **state)
{
    static uint8_t message[DSM_MAX_MESSAGE_BYTES];
    struct cluster *c = cluster_new(2, WIRE_TLS);
    uint64_t sent[2] = { 0 };

    c->options.sndbuf_bytes = 4000;
    c->config.credits[3] = DSM_MAX_CREDITS;
    cluster_start(c);
    for (int i = 0; i < 2; i++) {
        while (tnode_send(&c->nodes[i], !i, 3, message, sizeof(message)) ==
               0) {
            sent[i]++;
        }
        assert_true(sent[i] > 0 && sent[i] < DSM_MAX_CREDITS);
    }
    cluster_wait(c, c->nodes[0].taken[1][3] == sent[1] &&
                        c->nodes[1].taken[0][3] == sent[0]);
    cluster_wait(c, c->nodes[0].writable[1][3] == 1 &&
                        c->nodes[1].writable[0][3] == 1);
    cluster_free(c);
}

/*
 * GnuTLS changes the keys of a connection after so many records that no test
 * sends them: here it is asked to. What says so is a record without data, in
 * front of others that have come with it.
 */
static void test_new_keys(void **state)
{
    struct cluster *c = cluster_new(2, WIRE_TLS);

    cluster_start(c);
    for (int i = 0; i < NEW_KEYS; i++) {
        int from = i % 2;
        struct dsm__link *link = c->nodes[from].node->peers[!from].link;
        gnutls_session_t session = *(gnutls_session_t *)link->conn.session;

        assert_int_equal(gnutls_session_key_update(session, 0), 0);
        for (int k = 0; k < 3; k++) {
            assert_int_equal(tnode_send(&c->nodes[from], !from, 0, "x", 1), 0);
        }
        cluster_wait(c, c->nodes[!from].taken[from][0] ==
                            3 * (uint64_t)(i / 2 + 1));
    }
    assert_int_equal(c->nodes[0].downs[1] + c->nodes[1].downs[0], 0);
    cluster_free(c);
}

/* More strangers at once than are listened to are sent away, unheard. */
static void test_busy(void **state)
{
    struct cluster *c = cluster_new(2, WIRE_TLS);
    int fds[64];

    cluster_start_node(c, 0);
    for (int i = 0; i < 64; i++) {
        fds[i] = tcp_to(port_of(c, 0));
        cluster_settle(c);
    }
    cluster_wait(c, c->nodes[0].nr_rejected >= 40);
    assert_contains(c->nodes[0].rejected, "too many connections at once");
    for (int i = 0; i < 64; i++) {
        close(fds[i]);
    }
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_key_text),
        cmocka_unit_test(test_key_file),
        cmocka_unit_test(test_needs_key),
        cmocka_unit_test(test_wrong_key),
        cmocka_unit_test(test_no_key),
        cmocka_unit_test(test_strangers),
        cmocka_unit_test(test_stalled),
        cmocka_unit_test(test_busy),
        cmocka_unit_test(test_wrong_listener),
        cmocka_unit_test(test_encrypted),
        cmocka_unit_test(test_bent),
        cmocka_unit_test(test_bent_when_up),
        cmocka_unit_test(test_cut_when_up),
        cmocka_unit_test(test_leave),
        cmocka_unit_test(test_held_back),
        cmocka_unit_test(test_new_keys),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
