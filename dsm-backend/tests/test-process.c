/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Nodes in processes of their own, as they are in reality: they die without
 * a word, stop, come too late, and are asked for statistics by other threads.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

/*
 * Become node @index until killed: answers each REQUEST with a REPLY and
 * sends BULK to everybody as fast as it can.
 */
static void flood(struct tnode *t, uint16_t to, enum dsm_class cls)
{
    uint8_t data[1000];
    int ret = 0;

    memset(data, 0x5a, sizeof(data));
    while (cls == DSM_CLASS_BULK && ret == 0) {
        ret = tnode_send(t, to, cls, data, sizeof(data));
    }
}

static void flood_when_up(struct tnode *t, uint16_t peer)
{
    flood(t, peer, DSM_CLASS_BULK);
}

static bool answer(struct tnode *t, uint16_t from, enum dsm_class cls,
                   const void *data, uint32_t bytes)
{
    return cls != DSM_CLASS_REQUEST ||
           tnode_send(t, from, DSM_CLASS_REPLY, data, bytes) != -EAGAIN;
}

static pid_t fork_node(struct cluster *c, int index, bool floods)
{
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        struct tnode *t = &c->nodes[index];
        struct pollfd pfd = { .events = POLLIN };

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        t->on_message = answer;
        if (floods) {
            t->on_up = flood_when_up;
            t->on_writable = flood;
        }
        cluster_start_node(c, index);
        pfd.fd = dsm_node_fd(t->node);
        for (;;) {
            poll(&pfd, 1, -1);
            dsm_node_dispatch(t->node);
        }
    }
    return pid;
}

static void end_process(pid_t pid, int sig)
{
    int status;

    assert_int_equal(kill(pid, sig), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), sig);
}

static void unlink_node(struct cluster *c, int index)
{
    unlink(c->address[index] + strlen("unix:"));
}

/* kill -9 at any moment of a busy link: DOWN at once, memory stays. */
static void test_kill(void **state)
{
    struct rng rng;

    rng_init(&rng, __func__);
    for (int round = 0; round < 20; round++) {
        struct cluster *c = cluster_new(3, WIRE_UNIX);
        struct tnode *t = &c->nodes[0];
        uint32_t after = rng_below(&rng, 2000);
        uint64_t killed_ns;
        uint8_t *memory;
        pid_t pid;

        pid = fork_node(c, 1, true);
        t->on_up = flood_when_up;
        t->on_writable = flood;
        cluster_start_node(c, 0);
        cluster_start_node(c, 2);
        cluster_wait(c, t->ups[1] && t->ups[2] && c->nodes[2].ups[1]);
        cluster_wait(c, t->taken[1][DSM_CLASS_BULK] >= after);
        memory = mmap(NULL, c->desc[1].ram_bytes, PROT_READ | PROT_WRITE,
                      MAP_SHARED, dsm_region_fd(t->node, 1), 0);
        assert_true(memory != MAP_FAILED);
        memory[5] = 77;
        end_process(pid, SIGKILL);
        killed_ns = dsm__now_ns();
        cluster_wait(c, t->downs[1] == 1 && c->nodes[2].downs[1] == 1);
        assert_true(dsm__now_ns() - killed_ns < 2000 * DSM__NSEC_PER_MSEC);
        assert_memory_equal(t->down_reason[1], "connection lost", 15);
        assert_int_equal(t->downs[2] + c->nodes[2].downs[0], 0);
        assert_int_equal(tnode_send(t, 1, 0, "", 0), -EHOSTDOWN);

        /* Its memory can still be used, until it is fenced and after. */
        assert_int_equal(memory[5], 77);
        memory[c->desc[1].ram_bytes - 1] = 1;
        assert_int_equal(dsm_peer_fence(t->node, 1), 0);
        assert_int_equal(memory[5], 77);
        munmap(memory, c->desc[1].ram_bytes);
        unlink_node(c, 1);
        cluster_free(c);
    }
}

/* A node that was lost does not come back, and the new process is told. */
static void test_restart(void **state)
{
    struct cluster *c = cluster_new(2, WIRE_UNIX);
    pid_t pid = fork_node(c, 1, false);

    cluster_start_node(c, 0);
    cluster_wait(c, c->nodes[0].ups[1] == 1);
    end_process(pid, SIGKILL);
    cluster_wait(c, c->nodes[0].downs[1] == 1);
    cluster_start_node(c, 1); /* replaces the socket that was left behind */
    cluster_wait(c, c->nodes[1].downs[0] == 1);
    assert_string_equal(
        c->nodes[1].down_reason[0],
        "refused by the peer: node 1 was lost and cannot come back");
    assert_int_equal(c->nodes[0].ups[1], 1);
    cluster_free(c);
}

/* Death in the middle of the handshake leaves the place free. */
static void test_kill_in_handshake(void **state)
{
    struct cluster *c = cluster_new(2, WIRE_UNIX);

    cluster_start_node(c, 0);
    for (int i = 0; i < 20; i++) {
        pid_t pid = fork_node(c, 1, false);
        int status;

        for (int k = 0; k < i % 7; k++) {
            dsm_node_dispatch(c->nodes[0].node);
        }
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
        if (c->nodes[0].ups[1]) {
            break; /* it was quicker */
        }
        cluster_settle(c);
    }
    if (!c->nodes[0].ups[1]) {
        cluster_start_node(c, 1);
        cluster_wait(c, c->nodes[0].ups[1] == 1 && c->nodes[1].ups[0] == 1);
    } else {
        unlink_node(c, 1);
    }
    cluster_free(c);
}

/* A stopped process is silent: DOWN after the time-out, not before. */
static void test_stopped(void **state)
{
    struct cluster *c = cluster_new(3, WIRE_UNIX);
    pid_t pid;

    c->config.heartbeat_ms = 20;
    c->config.peer_timeout_ms = 150;
    pid = fork_node(c, 1, true);
    cluster_start_node(c, 0);
    cluster_start_node(c, 2);
    cluster_wait(c, c->nodes[0].ups[1] && c->nodes[2].ups[0] &&
                        c->nodes[2].ups[1]);
    assert_int_equal(kill(pid, SIGSTOP), 0);
    /* Everything that can be sent is; nothing waits for it. */
    flood(&c->nodes[0], 1, DSM_CLASS_BULK);
    cluster_wait(c, c->nodes[0].downs[1] == 1 && c->nodes[2].downs[1] == 1);
    assert_string_equal(c->nodes[0].down_reason[1], "silent for 150 ms");
    assert_int_equal(c->nodes[0].downs[2], 0);
    end_process(pid, SIGKILL);
    unlink_node(c, 1);
    cluster_free(c);
}

/* Statistics and states from any thread, while everything goes on. */
struct watcher {
    struct cluster *c;
    _Atomic bool stop;
};

static void *watch(void *opaque)
{
    struct watcher *w = opaque;
    uint64_t last = 0;

    while (!w->stop) {
        struct dsm_link_stats s;
        enum dsm_peer_state state = dsm_peer_state(w->c->nodes[0].node, 1);
        uint64_t received;

        if (dsm_link_stats(w->c->nodes[0].node, 1, &s) < 0) {
            abort();
        }
        received = s.messages_received[DSM_CLASS_BULK];
        /* Monotonic, whole, and the reason is there once it is down. */
        if (received < last || memchr(s.down_reason, 0,
                                      sizeof(s.down_reason)) == NULL) {
            abort();
        }
        last = received;
        if (state == DSM_PEER_DOWN) {
            dsm_link_stats(w->c->nodes[0].node, 1, &s);
            if (strncmp(s.down_reason, "connection lost", 15) != 0) {
                abort();
            }
        }
    }
    return NULL;
}

static void test_stats_from_threads(void **state)
{
    struct cluster *c = cluster_new(2, WIRE_UNIX);
    struct watcher w = { .c = c };
    pthread_t thread;
    pid_t pid = fork_node(c, 1, true);

    cluster_start_node(c, 0);
    assert_int_equal(pthread_create(&thread, NULL, watch, &w), 0);
    cluster_wait(c, c->nodes[0].taken[1][DSM_CLASS_BULK] >= 20000);
    end_process(pid, SIGKILL);
    cluster_wait(c, c->nodes[0].downs[1] == 1);
    for (int i = 0; i < 100; i++) {
        struct dsm_link_stats s;

        assert_int_equal(dsm_link_stats(c->nodes[0].node, 1, &s), 0);
    }
    w.stop = true;
    pthread_join(thread, NULL);
    unlink_node(c, 1);
    cluster_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kill),
        cmocka_unit_test(test_restart),
        cmocka_unit_test(test_kill_in_handshake),
        cmocka_unit_test(test_stopped),
        cmocka_unit_test(test_stats_from_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
