/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Two processes share memory and messages through libdsm's public interface.
 *
 * Node 0 owns a counter in its region. Each round it sends a REQUEST; node 1
 * increments the counter where it lies, through its mapping of node 0's
 * region, and sends a REPLY. At the end node 0 sees how far it got.
 *
 *   cc ping.c $(pkg-config --cflags --libs libdsm) -o ping && ./ping 100000
 */
#define _GNU_SOURCE
#include <dsm/dsm.h>
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define REGION_BYTES (1 << 20)
#define PATIENCE_MS 10000 /* between two events; then something is wrong */

struct ping {
    struct dsm_node *node;
    uint16_t self;
    void *region;              /* of node 0 */
    _Atomic uint64_t *counter; /* in it */
    uint64_t rounds, done;
    bool connected, finished;
    const char *failure;
};

static void ping_send(struct ping *p, enum dsm_class cls)
{
    struct iovec iov = { .iov_base = &p->done, .iov_len = sizeof(p->done) };
    int ret = dsm_send(p->node, !p->self, cls, &iov, 1);

    /* One message is under way at a time: there is always a credit. */
    if (ret < 0) {
        p->failure = strerror(-ret);
    }
}

static bool on_message(void *opaque, uint16_t from, enum dsm_class cls,
                       const void *data, uint32_t len_bytes)
{
    struct ping *p = opaque;

    if (p->self == 1) {
        atomic_fetch_add(p->counter, 1);
        ping_send(p, DSM_CLASS_REPLY);
    } else if (++p->done == p->rounds) {
        p->finished = true;
    } else {
        ping_send(p, DSM_CLASS_REQUEST);
    }
    return true;
}

static void on_writable(void *opaque, uint16_t to, enum dsm_class cls)
{
}

static void on_doorbell(void *opaque, uint16_t from, uint64_t bits)
{
}

static void on_peer_state(void *opaque, uint16_t peer,
                          enum dsm_peer_state state, const char *reason)
{
    struct ping *p = opaque;

    p->connected = state == DSM_PEER_UP;
    if (state == DSM_PEER_UP) {
        /* Here and not later: its messages may follow in this dispatch. */
        p->region = mmap(NULL, REGION_BYTES, PROT_READ | PROT_WRITE,
                         MAP_SHARED, dsm_region_fd(p->node, 0), 0);
        if (p->region == MAP_FAILED) {
            p->failure = strerror(errno);
        }
        p->counter = p->region;
    } else if (state == DSM_PEER_DOWN) {
        if (p->self == 1 && strcmp(reason, "left") == 0) {
            p->finished = true;
        } else {
            fprintf(stderr, "node %u: node %u is down: %s\n", p->self, peer,
                    reason);
            p->failure = "lost its peer";
        }
    }
}

static void on_rejected(void *opaque, const char *reason)
{
    fprintf(stderr, "refused: %s\n", reason);
}

/* Handle events until *@condition or a failure. */
static bool run_until(struct ping *p, const bool *condition)
{
    struct pollfd pfd = { .fd = dsm_node_fd(p->node), .events = POLLIN };

    while (!*condition && !p->failure) {
        int ret = poll(&pfd, 1, PATIENCE_MS);

        if (ret == 0) {
            p->failure = "nothing happened for too long";
        } else if (ret > 0) {
            dsm_node_dispatch(p->node);
        } else if (errno != EINTR) {
            p->failure = strerror(errno);
        }
    }
    return !p->failure;
}

static double seconds(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec + ts.tv_nsec / 1e9;
}

static void run_node(struct ping *p, const struct dsm_config *config)
{
    static const struct dsm_ops ops = {
        .message = on_message,
        .writable = on_writable,
        .doorbell = on_doorbell,
        .peer_state = on_peer_state,
        .rejected = on_rejected,
    };
    double begin;
    int ret;

    ret = dsm_node_create(config, &ops, p, &p->node);
    if (ret == 0) {
        ret = dsm_node_start(p->node);
    }
    if (ret < 0) {
        p->failure = strerror(-ret);
        return;
    }
    if (!run_until(p, &p->connected)) {
        return;
    }
    begin = seconds();
    if (p->self == 0) {
        ping_send(p, DSM_CLASS_REQUEST);
    }
    if (run_until(p, &p->finished) && p->self == 0) {
        printf("%llu rounds, counter %llu, %.2f us a round\n",
               (unsigned long long)p->done,
               (unsigned long long)atomic_load(p->counter),
               (seconds() - begin) * 1e6 / p->done);
        if (atomic_load(p->counter) != p->rounds) {
            p->failure = "the counter is wrong";
        }
    }
    munmap(p->region, REGION_BYTES);
}

int main(int argc, char **argv)
{
    char dir[] = "/tmp/dsm-ping-XXXXXX";
    char address[2][64];
    struct dsm_node_desc nodes[2] = {
        { .name = "ping", .elf_machine = 62, .cpus = 1 },
        { .name = "pong", .elf_machine = 62, .cpus = 1 },
    };
    struct dsm_config config = {
        .coherence = DSM_COHERENCE_SHARED,
        .nr_nodes = 2,
        .nodes = nodes,
    };
    struct ping p = { .rounds = argc > 1 ? strtoull(argv[1], NULL, 0) : 1000 };
    int status = 0;
    pid_t child;

    if (p.rounds == 0 || argc > 2) {
        fprintf(stderr, "usage: %s [ROUNDS]\n", argv[0]);
        return 2;
    }
    if (!mkdtemp(dir)) {
        perror(dir);
        return 1;
    }
    for (int i = 0; i < 2; i++) {
        snprintf(address[i], sizeof(address[i]), "unix:%s/%d", dir, i);
        nodes[i].address = address[i];
        nodes[i].ram_bytes = REGION_BYTES;
    }
    child = fork();
    if (child < 0) {
        perror("fork");
        rmdir(dir);
        return 1;
    }
    config.self = p.self = child == 0;
    run_node(&p, &config);
    dsm_node_destroy(p.node);
    if (p.failure) {
        fprintf(stderr, "node %u: %s\n", p.self, p.failure);
    }
    if (child > 0) {
        waitpid(child, &status, 0);
        rmdir(dir);
    }
    return p.failure || status ? 1 : 0;
}
