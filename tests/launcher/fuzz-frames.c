/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The supervisor's end of the agent protocol takes any bytes from a guest.
 * The first byte of the input says where the greeting stands; two sessions
 * run. Each hears of its end exactly once.
 */
#include "agent.h"
#include "frame.h"
#include "util.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

struct watcher {
    bool over;
    size_t taken[3];
};

static bool greeted;

static void on_hello(struct agent *a, const char *system, void *opaque)
{
    greeted = true;
}

static void on_machine(struct agent *a, uint32_t up, uint32_t total,
                       void *opaque)
{
}

static void on_trouble(struct agent *a, const char *what, void *opaque)
{
    g_assert_false(agent_is_ready(a));
}

static void on_closed(struct agent *a, const GError *error, void *opaque)
{
    *(bool *)opaque = true;
}

static const struct agent_ops agent_ops = {
    .hello = on_hello,
    .machine = on_machine,
    .trouble = on_trouble,
    .closed = on_closed,
};

static void on_started(struct agent_session *s, uint32_t pid, void *opaque)
{
    g_assert_false(((struct watcher *)opaque)->over);
}

static void on_data(struct agent_session *s, unsigned stream,
                    const uint8_t *data, gsize len, void *opaque)
{
    struct watcher *w = opaque;

    g_assert_false(w->over);
    g_assert_true(stream == 1 || stream == 2);
    w->taken[stream] += len;
    g_assert_cmpuint(w->taken[stream], <=, AGENT_WINDOW_BYTES);
}

static void on_grant(struct agent_session *s, uint32_t bytes, void *opaque)
{
    g_assert_false(((struct watcher *)opaque)->over);
}

static void on_exit_(struct agent_session *s, uint32_t kind, uint32_t value,
                     const char *text, void *opaque)
{
    g_assert_false(((struct watcher *)opaque)->over);
    g_assert_true(g_utf8_validate(text, -1, NULL));
    ((struct watcher *)opaque)->over = true;
}

static void on_failed(struct agent_session *s, const char *why, void *opaque)
{
    g_assert_false(((struct watcher *)opaque)->over);
    ((struct watcher *)opaque)->over = true;
}

static const struct agent_session_ops session_ops = {
    .started = on_started,
    .data = on_data,
    .grant = on_grant,
    .exit = on_exit_,
    .failed = on_failed,
};

static void iterate(void)
{
    while (g_main_context_iteration(NULL, FALSE)) {}
}

/* The answer to the reset that waits at @fd. */
static void greet(int fd)
{
    uint8_t buf[16 + FRAME_NONCE_BYTES], hello[16 + FRAME_NONCE_BYTES + 8];
    struct agent_frame f;

    g_assert_cmpint(recv(fd, buf, sizeof(buf), MSG_DONTWAIT), ==, sizeof(buf));
    frame_encode(&f, AGENT_MAGIC, AGENT_HELLO, 0, 0, FRAME_NONCE_BYTES + 8);
    memcpy(hello, &f, 16);
    memcpy(hello + 16, buf + 16, FRAME_NONCE_BYTES);
    frame_put_u32(hello + 24, AGENT_PROTO_VERSION);
    frame_put_u32(hello + 28, 0);
    g_assert_cmpint(write_all(fd, hello, sizeof(hello)), ==, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct watcher w[2] = { 0 };
    bool closed = false;
    struct agent *a;
    size_t first;
    int pair[2];

    if (bytes == 0) {
        return 0;
    }
    greeted = false;
    first = MIN(data[0], bytes - 1);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair),
                    ==, 0);
    a = agent_new(pair[0], &agent_ops, &closed);
    iterate();
    write_all(pair[1], data + 1, first);
    greet(pair[1]);
    iterate();
    g_assert_true(greeted || closed);
    for (unsigned i = 0; i < 2 && !closed; i++) {
        agent_exec(a, "arg=x", sizeof("arg=x"), &session_ops, &w[i]);
    }
    write_all(pair[1], data + 1 + first, bytes - 1 - first);
    iterate();
    shutdown(pair[1], SHUT_RDWR);
    iterate();
    g_assert_true(closed);
    agent_free(a);
    g_assert_true(!greeted || (w[0].over && w[1].over));
    close(pair[1]);
    return 0;
}
