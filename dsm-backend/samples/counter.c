/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Processes that share nothing but sockets count together, in one word of
 * memory that libdsm keeps coherent.
 *
 * Node 0 owns the word. Every node increments it so often, and each looks at
 * the end that none was lost.
 *
 *   cc counter.c $(pkg-config --cflags --libs libdsm) -pthread -o counter
 *   ./counter 100000 3
 */
#define _GNU_SOURCE
#include <dsm/dsm.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define REGION_BYTES 65536
#define MAX_NODES 8

struct counter {
    struct dsm_node *node;
    uint16_t self, nr_nodes;
    uint64_t rounds;
    _Atomic uint64_t *word; /* of node 0, on every node */
    _Atomic bool done; /* this node has seen the end */
};

static bool on_message(void *opaque, uint16_t from, enum dsm_class cls,
                       const void *data, uint32_t len_bytes)
{
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
    struct counter *c = opaque;

    if (state == DSM_PEER_DOWN && !c->done) {
        fprintf(stderr, "node %u: node %u is down: %s\n", c->self, peer,
                reason);
        exit(1);
    }
    if (state == DSM_PEER_DOWN && peer == 0) {
        exit(0); /* the memory is gone with node 0 */
    }
}

/*
 * Another thread than the one that uses the memory, so that connections are
 * made and ended meanwhile. (The memory itself needs neither.)
 */
static void *dispatch(void *opaque)
{
    struct counter *c = opaque;
    struct pollfd pfd = { .fd = dsm_node_fd(c->node), .events = POLLIN };

    for (;;) {
        poll(&pfd, 1, -1);
        dsm_node_dispatch(c->node);
    }
    return NULL;
}

/* Map node @owner's region and have it kept coherent. */
static void *attach(struct counter *c, uint16_t owner)
{
    struct dsm_region_params params = { 0 };
    int ret;

    params.memory = mmap(NULL, REGION_BYTES, PROT_READ | PROT_WRITE,
                         MAP_SHARED, dsm_region_fd(c->node, owner), 0);
    if (params.memory == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    ret = dsm_region_attach(c->node, owner, &params);
    if (ret < 0) {
        fprintf(stderr, "attach: %s\n", strerror(-ret));
        exit(1);
    }
    return params.memory;
}

static int run_node(struct counter *c, struct dsm_config *config)
{
    static const struct dsm_ops ops = {
        .message = on_message,
        .writable = on_writable,
        .doorbell = on_doorbell,
        .peer_state = on_peer_state,
    };
    uint64_t expected = c->rounds * c->nr_nodes;
    struct dsm_region_stats st;
    pthread_t thread;
    int ret;

    config->self = c->self;
    ret = dsm_node_create(config, &ops, c, &c->node);
    if (ret < 0) {
        fprintf(stderr, "create: %s\n", strerror(-ret));
        return 1;
    }
    c->word = attach(c, 0);
    if (c->self != 0) {
        attach(c, c->self);
    }
    ret = dsm_node_start(c->node);
    if (ret < 0 || pthread_create(&thread, NULL, dispatch, c) != 0) {
        fprintf(stderr, "start: %s\n", strerror(-ret));
        return 1;
    }
    /* This waits for node 0 by itself: the first access does. */
    for (uint64_t i = 0; i < c->rounds; i++) {
        atomic_fetch_add(c->word, 1);
    }
    /* The second word says how many have seen the end. */
    while (atomic_load(c->word) < expected) {
        usleep(100);
    }
    c->done = true;
    atomic_fetch_add(c->word + 1, 1);
    if (c->self == 0) {
        while (atomic_load(c->word + 1) < c->nr_nodes) {
            usleep(100);
        }
        dsm_region_stats(c->node, 0, &st);
        printf("%llu of %llu, the page went %llu times\n",
               (unsigned long long)atomic_load(c->word),
               (unsigned long long)expected, (unsigned long long)st.pages_out);
        return atomic_load(c->word) != expected;
    }
    for (;;) {
        pause();
    }
}

int main(int argc, char **argv)
{
    char dir[] = "/tmp/dsm-counter-XXXXXX";
    char address[MAX_NODES][64];
    struct dsm_node_desc nodes[MAX_NODES];
    struct counter c = {
        .rounds = argc > 1 ? strtoull(argv[1], NULL, 0) : 20000,
        .nr_nodes = argc > 2 ? strtoul(argv[2], NULL, 0) : 2,
    };
    struct dsm_config config = {
        .coherence = DSM_COHERENCE_PAGES,
        .nr_nodes = c.nr_nodes,
        .nodes = nodes,
    };
    const char *why;
    int status, failed = 0;

    if (c.nr_nodes < 1 || c.nr_nodes > MAX_NODES || argc > 3) {
        fprintf(stderr, "usage: %s [ROUNDS [NODES]]\n", argv[0]);
        return 2;
    }
    if (dsm_pages_available(&why) < 0) {
        fprintf(stderr, "%s\n", why);
        return 77;
    }
    if (!mkdtemp(dir)) {
        perror(dir);
        return 1;
    }
    for (int i = 0; i < c.nr_nodes; i++) {
        nodes[i] = (struct dsm_node_desc) {
            .elf_machine = 62,
            .cpus = 1,
            .ram_bytes = REGION_BYTES,
            .address = address[i],
        };
        snprintf(address[i], sizeof(address[i]), "unix:%s/%d", dir, i);
        snprintf(nodes[i].name, sizeof(nodes[i].name), "node%d", i);
    }
    for (int i = 0; i < c.nr_nodes; i++) {
        if (fork() == 0) {
            c.self = i;
            return run_node(&c, &config);
        }
    }
    while (wait(&status) > 0) {
        failed |= status;
    }
    for (int i = 0; i < c.nr_nodes; i++) {
        unlink(address[i] + strlen("unix:"));
    }
    rmdir(dir);
    return failed ? 1 : 0;
}
