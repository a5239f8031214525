/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the tests of libdsm share: nodes that record, peers that misbehave. */
#ifndef DSM_TESTS_HARNESS_H
#define DSM_TESTS_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "internal.h"

#define PATIENCE_MS 10000 /* nothing here takes a tenth of it */
#define REGION_BYTES UINT64_C(65536)

/* One node of the test, with what its callbacks have seen. */
struct tnode {
    struct cluster *cluster;
    struct dsm_node *node; /* NULL: not created, or destroyed */
    uint16_t self;
    bool refuse[DSM_MAX_NODES][DSM_NR_CLASSES];
    /* Optional: called for a message that is not refused. */
    bool (*on_message)(struct tnode *t, uint16_t from, enum dsm_class cls,
                       const void *data, uint32_t bytes);
    void (*on_writable)(struct tnode *t, uint16_t to, enum dsm_class cls);
    void (*on_up)(struct tnode *t, uint16_t peer);
    void *opaque;
    uint8_t *memory[DSM_MAX_NODES]; /* with pages: all regions, attached */

    uint64_t taken[DSM_MAX_NODES][DSM_NR_CLASSES];
    uint64_t writable[DSM_MAX_NODES][DSM_NR_CLASSES];
    uint64_t bits[DSM_MAX_NODES];
    uint64_t bit_calls[DSM_MAX_NODES];
    int ups[DSM_MAX_NODES], downs[DSM_MAX_NODES];
    char down_reason[DSM_MAX_NODES][DSM_REASON_BYTES];
    int nr_rejected;
    char rejected[DSM_REASON_BYTES]; /* the last one */
};

struct cluster {
    int nr;
    char dir[64];
    char address[DSM_MAX_NODES][96];
    struct dsm_node_desc desc[DSM_MAX_NODES];
    struct dsm_config config; /* of every node but for self */
    struct dsm__options options;
    struct dsm__hub *hub;
    int late_region; /* whose region nodes do not attach at first; 0: none */
    struct dsm_key *key[2]; /* of TLS, and another */
    struct tnode nodes[DSM_MAX_NODES];
};

enum wiring {
    WIRE_UNIX,
    WIRE_TCP,
    WIRE_TLS,
    WIRE_LOOPBACK,
};

/* A description of @nr nodes; nothing is created yet, so it can be bent. */
struct cluster *cluster_new(int nr, enum wiring wiring);
void cluster_free(struct cluster *c);
void cluster_start_node(struct cluster *c, int index);
void cluster_stop_node(struct cluster *c, int index);
/* All nodes created and connected with each other. */
void cluster_start(struct cluster *c);

/* Dispatch all nodes (and move all lanes) until nothing happens any more. */
void cluster_settle(struct cluster *c);

/*
 * Wait for @condition, handling events meanwhile; fails the test after
 * PATIENCE_MS. @extra_fd: watched too, -1 for none.
 */
#define cluster_wait(c, condition)                                         \
    do {                                                                   \
        uint64_t end_ns_ = patience_end_ns();                              \
        while (!(condition)) {                                             \
            if (!cluster_step(c, end_ns_)) {                               \
                fail_msg("%s:%d: still not: %s", __FILE__, __LINE__,       \
                         #condition);                                      \
            }                                                              \
        }                                                                  \
    } while (0)
uint64_t patience_end_ns(void);
/* Return: false when @end_ns passed. */
bool cluster_step(struct cluster *c, uint64_t end_ns);

int tnode_send(struct tnode *t, uint16_t to, enum dsm_class cls,
               const void *data, size_t bytes);

/* A peer that speaks frames by hand, over a unix socket. */
struct raw {
    int fd;
    uint32_t seq;
    uint8_t buf[65536];
    size_t bytes;
    int passed_fd;
    bool closed;
};

void raw_connect(struct raw *r, struct cluster *c, int to);
/* Accept a node's connection as node @as; r->fd is the connection. */
void raw_listen(int *ret_listener, struct cluster *c, int as);
void raw_accept(struct raw *r, struct cluster *c, int listener);
void raw_close(struct raw *r);
void raw_put_bytes(struct raw *r, const void *data, size_t bytes);
/* Numbers the frame unless @frame->seq is set. */
void raw_put(struct raw *r, const struct dsm__frame *frame);
void raw_put_fds(struct raw *r, const struct dsm__frame *frame,
                 const int *fds, int nr);
/* Wait for a frame of @type, PINGs and CREDITs apart; false: closed. */
bool raw_get(struct raw *r, struct cluster *c, struct dsm__frame *ret);
void raw_expect(struct raw *r, struct cluster *c, enum dsm__frame_type type,
                struct dsm__frame *ret);
void raw_expect_closed(struct raw *r, struct cluster *c);

/* A HELLO (or HELLO_ACK) that node @to accepts from node @from. */
struct dsm__frame hello_of(struct cluster *c, int from, int to,
                           enum dsm__frame_type type);
struct dsm__frame region_of(struct cluster *c, int owner);
struct dsm__frame frame_of(enum dsm__frame_type type);
/* The whole handshake as node @as with the listening node @to. */
void raw_handshake(struct raw *r, struct cluster *c, int as, int to);

int nr_open_fds(void);

/* Make @path a file of @mode with @text in it. */
void write_file(const char *path, const char *text, unsigned int mode);

/* Reproducible randomness; DSM_TEST_SEED sets the seed, which is printed. */
struct rng {
    uint64_t state;
};
void rng_init(struct rng *rng, const char *test);
uint64_t rng_next(struct rng *rng);
uint32_t rng_below(struct rng *rng, uint32_t bound);

#endif
