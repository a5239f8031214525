/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Frames, and the supervisor's ends of the agent's and QEMU's protocols with
 * a peer that behaves and one that does not.
 */
#include "agent.h"
#include "frame.h"
#include "qmp.h"
#include "util.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- frames ---- */

static void put(GByteArray *a, uint32_t magic, uint16_t type, uint16_t stream,
                uint32_t session, const void *data, uint32_t len)
{
    uint8_t header[16];

    frame_put_u32(header, magic);
    header[4] = (uint8_t)type;
    header[5] = (uint8_t)(type >> 8);
    header[6] = (uint8_t)stream;
    header[7] = (uint8_t)(stream >> 8);
    frame_put_u32(header + 8, session);
    frame_put_u32(header + 12, len);
    g_byte_array_append(a, header, sizeof(header));
    if (data) {
        g_byte_array_append(a, data, len);
    }
}

static void test_frame_parse(void)
{
    g_autoptr(GByteArray) a = g_byte_array_new();
    g_autoptr(GError) error = NULL;
    struct agent_frame f, encoded;

    put(a, AGENT_MAGIC, AGENT_DATA, 1, 0x01020304, "hello", 5);
    for (gsize n = 0; n < a->len; n++) {
        g_assert_cmpint(frame_parse(a->data, n, AGENT_MAGIC, &f, &error), ==, 0);
        g_assert_no_error(error);
    }
    g_assert_cmpint(frame_parse(a->data, a->len, AGENT_MAGIC, &f, &error), ==,
                    21);
    g_assert_cmpint(f.type, ==, AGENT_DATA);
    g_assert_cmpint(f.stream, ==, 1);
    g_assert_cmpint(f.session, ==, 0x01020304);
    g_assert_cmpint(f.len, ==, 5);
    /* The encoder says the same bytes. */
    frame_encode(&encoded, AGENT_MAGIC, AGENT_DATA, 1, 0x01020304, 5);
    g_assert_cmpmem(&encoded, sizeof(encoded), a->data, 16);
}

static const struct {
    const char *name;
    uint32_t magic;
    uint16_t stream;
    uint32_t len;
    const char *error;
} bad_frames[] = {
    { "magic", 0x4d494844, 0, 0, "bad frame magic 0x4d494844" },
    { "length", AGENT_MAGIC, 0, AGENT_MAX_PAYLOAD + 1,
      "frame of 65537 bytes, at most 65536 are allowed" },
    { "length-max", AGENT_MAGIC, 0, UINT32_MAX,
      "frame of 4294967295 bytes, at most 65536 are allowed" },
    { "stream", AGENT_MAGIC, 3, 0, "frame for stream 3, there are 0, 1 and 2" },
};

static void test_frame_bad(gconstpointer data)
{
    unsigned i = GPOINTER_TO_UINT(data);
    g_autoptr(GByteArray) a = g_byte_array_new();
    g_autoptr(GError) error = NULL;
    struct agent_frame f;

    put(a, bad_frames[i].magic, AGENT_DATA, bad_frames[i].stream, 0, NULL,
        bad_frames[i].len);
    g_assert_cmpint(frame_parse(a->data, a->len, AGENT_MAGIC, &f, &error), ==,
                    -1);
    g_assert_error(error, CHIMERA_ERROR, CHIMERA_ERROR_PROTO);
    g_assert_cmpstr(error->message, ==, bad_frames[i].error);
}

static void test_find_hello(void)
{
    static const uint8_t nonce[8] = "nonce-01", other[8] = "nonce-00";
    g_autoptr(GByteArray) a = g_byte_array_new();
    gsize discard, noise = 333;

    for (gsize i = 0; i < noise; i++) {
        uint8_t byte = (uint8_t)g_random_int();

        g_byte_array_append(a, &byte, 1);
    }
    /* an answer to an earlier reset is not it */
    put(a, AGENT_MAGIC, AGENT_HELLO, 0, 0, other, 8);
    put(a, AGENT_MAGIC, AGENT_HELLO, 0, 0, nonce, 8);
    for (gsize n = 0; n < a->len; n++) {
        discard = 0;
        g_assert_cmpint(frame_find_hello(a->data, n, nonce, &discard), ==, -1);
        g_assert_cmpuint(discard, <=, noise + 24);
    }
    g_assert_cmpint(frame_find_hello(a->data, a->len, nonce, &discard), ==,
                    noise + 24);
}

/* ---- the agent's connection ---- */

struct peer {
    int fd; /* the guest's end */
    struct agent *agent;
    GString *log; /* what the callbacks said */
    uint8_t nonce[8]; /* of the last reset */
    bool closed;
};

static void iterate(void)
{
    while (g_main_context_iteration(NULL, FALSE)) {}
}

static void on_hello(struct agent *a, const char *system, void *opaque)
{
    struct peer *p = opaque;

    g_string_append_printf(p->log, "hello(%s) ", system);
}

static void on_machine(struct agent *a, uint32_t up, uint32_t total,
                       void *opaque)
{
    struct peer *p = opaque;

    g_string_append_printf(p->log, "machine(%u,%u) ", up, total);
}

static void on_trouble(struct agent *a, const char *what, void *opaque)
{
    struct peer *p = opaque;

    g_string_append_printf(p->log, "trouble(%s) ", what);
}

static void on_closed(struct agent *a, const GError *error, void *opaque)
{
    struct peer *p = opaque;

    g_string_append_printf(p->log, "closed(%s) ", error ? error->message : "");
    p->closed = true;
    agent_free(a);
    p->agent = NULL;
}

static const struct agent_ops agent_ops = {
    .hello = on_hello,
    .machine = on_machine,
    .trouble = on_trouble,
    .closed = on_closed,
};

static void on_started(struct agent_session *s, uint32_t pid, void *opaque)
{
    g_string_append_printf(opaque, "started(%u) ", pid);
}

static void on_data(struct agent_session *s, unsigned stream,
                    const uint8_t *data, gsize len, void *opaque)
{
    g_string_append_printf(opaque, "data(%u,%zu) ", stream, len);
}

static void on_grant(struct agent_session *s, uint32_t bytes, void *opaque)
{
    g_string_append_printf(opaque, "grant(%u) ", bytes);
}

static void on_exit_(struct agent_session *s, uint32_t kind, uint32_t value,
                     const char *text, void *opaque)
{
    g_string_append_printf(opaque, "exit(%u,%u,%s) ", kind, value, text);
}

static void on_failed(struct agent_session *s, const char *why, void *opaque)
{
    g_string_append_printf(opaque, "failed(%s) ", why);
}

static const struct agent_session_ops session_ops = {
    .started = on_started,
    .data = on_data,
    .grant = on_grant,
    .exit = on_exit_,
    .failed = on_failed,
};

/* Reads what the launcher sent; remembers the nonce of a reset. */
static GByteArray *drain(struct peer *p)
{
    GByteArray *a = g_byte_array_new();
    uint8_t buf[4096];
    ssize_t n;

    iterate();
    while ((n = recv(p->fd, buf, sizeof(buf), MSG_DONTWAIT)) > 0) {
        g_byte_array_append(a, buf, (guint)n);
    }
    for (gsize at = 0; at < a->len;) {
        struct agent_frame f;
        gssize len =
            frame_parse(a->data + at, a->len - at, AGENT_MAGIC, &f, NULL);

        g_assert_cmpint(len, >, 0);
        if (f.type == AGENT_RESET) {
            g_assert_cmpuint(f.len, ==, 8);
            memcpy(p->nonce, a->data + at + 16, 8);
        }
        at += (gsize)len;
    }
    return a;
}

/* How many frames of @type for @session are in @a; the last one's u32. */
static unsigned count_frames(const GByteArray *a, uint16_t type,
                             uint32_t session, uint32_t *ret_value)
{
    unsigned count = 0;

    for (gsize at = 0; at < a->len;) {
        struct agent_frame f;
        gssize len =
            frame_parse(a->data + at, a->len - at, AGENT_MAGIC, &f, NULL);

        g_assert_cmpint(len, >, 0);
        if (f.type == type && f.session == session) {
            count++;
            if (ret_value && f.len >= 4) {
                *ret_value = frame_u32(a->data + at + 16);
            }
        }
        at += (gsize)len;
    }
    return count;
}

static void peer_send(struct peer *p, uint16_t type, uint16_t stream,
                      uint32_t session, const void *data, uint32_t len)
{
    g_autoptr(GByteArray) a = g_byte_array_new();

    put(a, AGENT_MAGIC, type, stream, session, data, len);
    g_assert_cmpint(write_all(p->fd, a->data, a->len), ==, 0);
    iterate();
}

static void peer_send_u32(struct peer *p, uint16_t type, uint16_t stream,
                          uint32_t session, uint32_t value)
{
    uint8_t wire[4];

    frame_put_u32(wire, value);
    peer_send(p, type, stream, session, wire, 4);
}

static void peer_hello(struct peer *p, uint32_t version)
{
    uint8_t hello[16 + 9];

    memcpy(hello, p->nonce, 8);
    frame_put_u32(hello + 8, version);
    frame_put_u32(hello + 12, 0);
    memcpy(hello + 16, "Linux 6.1", 9);
    peer_send(p, AGENT_HELLO, 0, 0, hello, sizeof(hello));
}

static void peer_start(struct peer *p)
{
    int pair[2];

    *p = (struct peer){ .log = g_string_new(NULL) };
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair),
                    ==, 0);
    p->fd = pair[1];
    p->agent = agent_new(pair[0], &agent_ops, p);
    g_byte_array_unref(drain(p));
}

static void peer_stop(struct peer *p)
{
    agent_free(p->agent);
    close(p->fd);
    g_string_free(p->log, TRUE);
}

#define assert_log(p, text)                         \
    do {                                            \
        g_assert_cmpstr((p)->log->str, ==, (text)); \
        g_string_truncate((p)->log, 0);             \
    } while (0)

static struct agent_session *start_session(struct peer *p)
{
    static const char request[] = "arg=sh\0cwd=/";

    return agent_exec(p->agent, request, sizeof(request), &session_ops, p->log);
}

static void test_agent_session(void)
{
    struct peer p;
    struct agent_session *s;
    g_autoptr(GByteArray) sent = NULL;
    static const uint8_t end[8] = { 0, 0, 0, 0, 7, 0, 0, 0 };

    peer_start(&p);
    g_assert_false(agent_is_ready(p.agent));
    peer_hello(&p, 1);
    g_assert_true(agent_is_ready(p.agent));
    peer_send(&p, AGENT_MACHINE, 0, 0, "\1\0\0\0\2\0\0\0", 8);
    assert_log(&p, "hello(Linux 6.1) machine(1,2) ");

    s = start_session(&p);
    peer_send_u32(&p, AGENT_STARTED, 0, 1, 4711);
    peer_send(&p, AGENT_DATA, 1, 1, "out", 3);
    peer_send(&p, AGENT_DATA, 2, 1, "err!", 4);
    assert_log(&p, "started(4711) data(1,3) data(2,4) ");

    /* stdin: as much as the window holds, then as much as is granted */
    g_autofree uint8_t *block = g_malloc0(AGENT_MAX_PAYLOAD);

    for (unsigned i = 0; i < AGENT_WINDOW_BYTES / AGENT_MAX_PAYLOAD; i++) {
        g_assert_true(agent_session_write(s, block, AGENT_MAX_PAYLOAD));
        g_byte_array_unref(drain(&p));
    }
    g_assert_false(agent_session_write(s, block, 1));
    peer_send_u32(&p, AGENT_GRANT, 0, 1, 100);
    g_assert_false(agent_session_write(s, block, 101));
    g_assert_true(agent_session_write(s, block, 100));
    g_assert_true(agent_session_write(s, NULL, 0));
    g_assert_false(agent_session_write(s, NULL, 0));
    assert_log(&p, "grant(100) ");

    /* grants: not more than was taken */
    g_assert_false(agent_session_grant(s, 1, 4));
    g_assert_true(agent_session_grant(s, 1, 3));
    g_assert_false(agent_session_grant(s, 0, 1));
    agent_session_signal(s, SIGINT);
    sent = drain(&p);
    g_assert_cmpuint(count_frames(sent, AGENT_SIGNAL, 1, NULL), ==, 1);
    g_assert_cmpuint(count_frames(sent, AGENT_GRANT, 1, NULL), ==, 1);

    peer_send(&p, AGENT_DATA, 1, 1, NULL, 0);
    peer_send(&p, AGENT_DATA, 2, 1, NULL, 0);
    peer_send(&p, AGENT_EXIT, 0, 1, end, 8);
    assert_log(&p, "data(1,0) data(2,0) exit(0,7,) ");

    /* frames for a session that is over are dropped */
    peer_send(&p, AGENT_DATA, 1, 1, "late", 4);
    assert_log(&p, "");
    peer_stop(&p);
}

static const struct {
    const char *name;
    uint16_t type, stream;
    const char *data;
    uint32_t len;
    const char *log;
} broken[] = {
    { "stdin-data", AGENT_DATA, 0, "x", 1,
      "failed(the guest agent sent data for stdin) " },
    { "start-length", AGENT_STARTED, 0, "x", 1,
      "failed(the guest agent sent a malformed start) " },
    { "grant-length", AGENT_GRANT, 0, "xy", 2,
      "failed(the guest agent sent a malformed grant) " },
    { "grant-zero", AGENT_GRANT, 0, "\0\0\0\0", 4,
      "failed(the guest agent sent a malformed grant) " },
    { "grant-overflow", AGENT_GRANT, 0, "\xff\xff\xff\xff", 4,
      "failed(the guest agent sent a malformed grant) " },
    { "grant-stream", AGENT_GRANT, 1, "\1\0\0\0", 4,
      "failed(the guest agent sent a malformed grant) " },
    { "exit-length", AGENT_EXIT, 0, "x", 1,
      "failed(the guest agent sent a malformed exit) " },
    { "exit-kind", AGENT_EXIT, 0, "\3\0\0\0\0\0\0\0", 8,
      "failed(the guest agent sent a malformed exit) " },
    { "type", 4242, 0, "", 0,
      "failed(the guest agent sent a frame of unknown type) " },
    { "error", AGENT_ERROR, 0, "no\033[31m way", 11,
      "failed(the guest agent reported: no way) " },
};

static void test_agent_broken(gconstpointer data)
{
    unsigned i = GPOINTER_TO_UINT(data);
    struct peer p;
    uint32_t signal = 0;
    g_autoptr(GByteArray) sent = NULL;

    peer_start(&p);
    peer_hello(&p, 1);
    start_session(&p);
    start_session(&p);
    assert_log(&p, "hello(Linux 6.1) ");
    peer_send(&p, broken[i].type, broken[i].stream, 1, broken[i].data,
              broken[i].len);
    assert_log(&p, broken[i].log);
    sent = drain(&p);
    g_assert_cmpuint(count_frames(sent, AGENT_ERROR, 1, NULL), ==, 1);
    g_assert_cmpuint(count_frames(sent, AGENT_SIGNAL, 1, &signal), ==, 1);
    g_assert_cmpuint(signal, ==, SIGKILL);
    /* The other session does not notice. */
    peer_send(&p, AGENT_DATA, 1, 2, "fine", 4);
    assert_log(&p, "data(1,4) ");
    /* Its own frames are ignored from now on. */
    peer_send(&p, AGENT_DATA, 1, 1, "more", 4);
    assert_log(&p, "");
    peer_stop(&p);
}

static void test_agent_window(void)
{
    g_autofree uint8_t *block = g_malloc0(AGENT_MAX_PAYLOAD);
    struct peer p;

    peer_start(&p);
    peer_hello(&p, 1);
    start_session(&p);
    assert_log(&p, "hello(Linux 6.1) ");
    for (unsigned i = 0; i < AGENT_WINDOW_BYTES / AGENT_MAX_PAYLOAD; i++) {
        peer_send(&p, AGENT_DATA, 1, 1, block, AGENT_MAX_PAYLOAD);
        assert_log(&p, "data(1,65536) ");
    }
    peer_send(&p, AGENT_DATA, 1, 1, block, 1);
    assert_log(&p, "failed(the guest agent sent more data than it was "
                   "granted) ");
    peer_stop(&p);
}

static void test_agent_garbage(void)
{
    uint8_t noise[600];
    struct peer p;
    uint8_t old[8];

    peer_start(&p);
    /* before the greeting: skipped, also when it looks like frames */
    peer_send(&p, AGENT_DATA, 1, 9, "x", 1);
    memset(noise, 'M', sizeof(noise));
    g_assert_cmpint(write_all(p.fd, noise, sizeof(noise)), ==, 0);
    iterate();
    peer_hello(&p, 1);
    start_session(&p);
    assert_log(&p, "hello(Linux 6.1) ");

    /* after it: all sessions end, a reset goes out, its answer is found */
    g_byte_array_unref(drain(&p));
    memcpy(old, p.nonce, 8);
    g_assert_cmpint(write_all(p.fd, noise, sizeof(noise)), ==, 0);
    g_byte_array_unref(drain(&p));
    assert_log(&p, "failed(the guest agent sent garbage: bad frame magic "
                   "0x4d4d4d4d) trouble(the guest agent sent garbage: bad "
                   "frame magic 0x4d4d4d4d) ");
    g_assert_false(agent_is_ready(p.agent));
    g_assert_cmpint(memcmp(old, p.nonce, 8), !=, 0);
    peer_hello(&p, 1);
    assert_log(&p, "hello(Linux 6.1) ");
    peer_stop(&p);
}

static void test_agent_versions(void)
{
    struct peer p;

    peer_start(&p);
    peer_hello(&p, 2);
    assert_log(&p, "closed(the guest agent speaks protocol version 2, this "
                   "launcher 1; rebuild the image ('./bootstrap build')) ");
    g_assert_true(p.closed);
    peer_stop(&p);

    peer_start(&p);
    peer_send(&p, AGENT_HELLO, 0, 0, p.nonce, 8);
    assert_log(&p, "closed(the guest agent sent a malformed greeting) ");
    peer_stop(&p);
}

static void test_agent_port(void)
{
    struct peer p;
    uint8_t old[8];

    peer_start(&p);
    memcpy(old, p.nonce, 8);
    agent_port_changed(p.agent, true);
    peer_hello(&p, 1);
    start_session(&p);
    agent_port_changed(p.agent, false);
    assert_log(&p, "hello(Linux 6.1) failed(the guest agent ended) "
                   "trouble(the guest agent ended) ");
    g_assert_false(agent_is_ready(p.agent));
    agent_port_changed(p.agent, true);
    g_byte_array_unref(drain(&p));
    g_assert_cmpint(memcmp(old, p.nonce, 8), !=, 0);
    assert_log(&p, "trouble(the guest agent restarted) ");
    peer_hello(&p, 1);
    assert_log(&p, "hello(Linux 6.1) ");
    /* the peer ends in the middle */
    start_session(&p);
    shutdown(p.fd, SHUT_RDWR);
    iterate();
    assert_log(&p, "closed() failed(the connection to the guest agent "
                   "ended) ");
    peer_stop(&p);
}

/* An abandoned session: SIGHUP, then SIGKILL, and silence. */
static void test_agent_abandon(void)
{
    static const uint8_t end[8] = { 1, 0, 0, 0, 9, 0, 0, 0 };
    struct peer p;
    uint32_t signal = 0;
    g_autoptr(GByteArray) sent = NULL;

    peer_start(&p);
    peer_hello(&p, 1);
    agent_session_abandon(start_session(&p));
    assert_log(&p, "hello(Linux 6.1) ");
    sent = drain(&p);
    g_assert_cmpuint(count_frames(sent, AGENT_SIGNAL, 1, &signal), ==, 1);
    g_assert_cmpuint(signal, ==, SIGHUP);
    while (signal != SIGKILL) {
        g_autoptr(GByteArray) more = NULL;

        g_main_context_iteration(NULL, TRUE); /* the grace timer */
        more = drain(&p);
        count_frames(more, AGENT_SIGNAL, 1, &signal);
    }
    peer_send(&p, AGENT_DATA, 1, 1, "x", 1);
    peer_send(&p, AGENT_EXIT, 0, 1, end, 8);
    assert_log(&p, "");
    peer_stop(&p);
}

/* ---- QEMU's monitor ---- */

static void qmp_ready(struct qmp *qmp, void *opaque)
{
    g_string_append(opaque, "ready ");
}

static void qmp_event(struct qmp *qmp, const char *name, JsonObject *data,
                      void *opaque)
{
    g_string_append_printf(opaque, "event(%s,%s) ", name,
                           data ? "data" : "no data");
}

static void qmp_closed(struct qmp *qmp, const GError *error, void *opaque)
{
    g_string_append(opaque, error ? "broken " : "closed ");
}

static const struct qmp_ops qmp_ops = {
    .ready = qmp_ready,
    .event = qmp_event,
    .closed = qmp_closed,
};

static void qmp_reply_(JsonNode *ret, const GError *error, void *opaque)
{
    g_autofree char *json = ret ? json_to_string(ret, FALSE) : NULL;

    g_string_append_printf(opaque, "reply(%s) ", json ? json : error->message);
}

static void test_qmp(void)
{
    g_autoptr(GString) log = g_string_new(NULL);
    char buf[4096];
    struct qmp *qmp;
    ssize_t n;
    int pair[2];

#define SAY(text)                                                       \
    do {                                                                \
        g_assert_cmpint(write_all(pair[1], text, strlen(text)), ==, 0); \
        iterate();                                                      \
    } while (0)
#define HEAR(text)                                             \
    do {                                                       \
        iterate();                                             \
        n = recv(pair[1], buf, sizeof(buf) - 1, MSG_DONTWAIT); \
        buf[MAX(n, 0)] = '\0';                                 \
        g_assert_cmpstr(buf, ==, text);                        \
    } while (0)

    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair);
    qmp = qmp_new(pair[0], &qmp_ops, log);
    /* given before the handshake: sent after it */
    qmp_execute(qmp, "query-dsm", true, qmp_reply_, log);
    SAY("{\"QMP\":");
    HEAR("");
    SAY("{}}\r\n");
    HEAR("{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":"
         "[\"oob\"]},\"id\":2}\n");
    SAY("{\"return\":{},\"id\":2}\n");
    HEAR("{\"exec-oob\":\"query-dsm\",\"id\":1}\n");
    SAY("{\"event\":\"A\",\"data\":{}}\n{\"event\":\"B\"}\n{\"return\":");
    SAY("{\"node\":0},\"id\":1}\n");
    qmp_execute(qmp, "quit", false, qmp_reply_, log);
    HEAR("{\"execute\":\"quit\",\"id\":3}\n");
    /* nobody's, twice, and of odd shapes: ignored */
    SAY("{\"return\":{},\"id\":99}\n{\"return\":{}}\n{\"id\":\"x\"}\n"
        "{\"error\":5,\"id\":{}}\n{\"event\":7}\n");
    SAY("{\"error\":{\"desc\":\"no\"},\"id\":3}\n");
    qmp_execute(qmp, "last", false, qmp_reply_, log);
    SAY("not json\n");
    g_assert_cmpstr(log->str, ==,
                    "ready event(A,data) event(B,no data) "
                    "reply({\"node\":0}) reply(QEMU: no) "
                    "reply(QEMU closed its monitor: <data>:1:3: Parse error: "
                    "unexpected identifier `not', expected value) broken ");
    qmp_free(qmp);
    close(pair[1]);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    signal(SIGPIPE, SIG_IGN);
    g_test_add_func("/frame/parse", test_frame_parse);
    for (unsigned i = 0; i < G_N_ELEMENTS(bad_frames); i++) {
        g_autofree char *path =
            g_strconcat("/frame/bad/", bad_frames[i].name, NULL);

        g_test_add_data_func(path, GUINT_TO_POINTER(i), test_frame_bad);
    }
    g_test_add_func("/frame/find-hello", test_find_hello);
    g_test_add_func("/agent/session", test_agent_session);
    for (unsigned i = 0; i < G_N_ELEMENTS(broken); i++) {
        g_autofree char *path =
            g_strconcat("/agent/broken/", broken[i].name, NULL);

        g_test_add_data_func(path, GUINT_TO_POINTER(i), test_agent_broken);
    }
    g_test_add_func("/agent/window", test_agent_window);
    g_test_add_func("/agent/garbage", test_agent_garbage);
    g_test_add_func("/agent/versions", test_agent_versions);
    g_test_add_func("/agent/port", test_agent_port);
    g_test_add_func("/agent/abandon", test_agent_abandon);
    g_test_add_func("/qmp", test_qmp);
    return g_test_run();
}
