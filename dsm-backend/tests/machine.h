/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Machines of several processes with coherent memory, for the tests of pages.
 *
 * machine_run() makes one process for each node, each with all regions mapped
 * and all peers UP, and runs a function in it. What is checked fails the
 * process, with a message; the test fails with it. Beside the coherent memory
 * there is a board: memory that all of them really share, which knows what
 * the coherent memory should be.
 */
#ifndef DSM_TESTS_MACHINE_H
#define DSM_TESTS_MACHINE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>

#include "dsm/dsm.h"

#define MACHINE_MAX 8
#define PAGE 4096
#define HUGE_PAGE ((size_t)2 * 1024 * 1024)
#define MACHINE_PATIENCE_S 60

#define CHECK(condition, ...)                                            \
    do {                                                                 \
        if (!(condition)) {                                              \
            fprintf(stderr, "%s:%d: not so: %s: ", __FILE__, __LINE__,   \
                    #condition);                                         \
            fprintf(stderr, __VA_ARGS__);                                \
            fprintf(stderr, "\n");                                       \
            _exit(1);                                                    \
        }                                                                \
    } while (0)

struct board {
    _Atomic uint32_t arrived, round; /* machine_barrier() */
    _Atomic uint32_t ended;
    _Atomic uint64_t words[1 << 16];
};

struct machine {
    /* Set by the test, before machine_run(). */
    const char *name; /* NULL: says nothing */
    int nr;
    bool tcp, tls; /* tls: by tcp, too */
    bool shared;   /* one memory, and code in it */
    uint64_t region_bytes;
    bool ahead;
    struct dsm_config config; /* what is not set here */
    void (*run)(struct machine *m);

    /* In each process. */
    int self;
    struct dsm_node *node;
    uint8_t *memory[MACHINE_MAX];
    struct board *board;
    uint64_t seed;
    _Atomic int state[MACHINE_MAX];
    _Atomic uint64_t down_ns[MACHINE_MAX];
    char reason[MACHINE_MAX][DSM_REASON_BYTES];
    _Atomic uint64_t lost_pages[MACHINE_MAX];
    _Atomic uint64_t invalidated[MACHINE_MAX];
    /* shared: of dsm_region_params; also counted as above */
    void (*on_invalidated)(struct machine *m, int owner, uint64_t page);
    bool (*on_executed)(struct machine *m, int owner, uint64_t page);

    /* In the parent. */
    pid_t pid[MACHINE_MAX];
    char dir[64];
    char address[MACHINE_MAX][96];
    struct dsm_node_desc desc[MACHINE_MAX];
    pthread_t dispatcher;
    int stop_fd;
};

/* Skip (77) with the reason if the kernel does not let this process. */
void machine_need(void);

/** machine_start() - all processes run; the parent goes on. Describes it
 * first unless that is done. */
void machine_start(struct machine *m);
/** machine_kill() - kill -9, and reap. */
void machine_kill(struct machine *m, int node);
/** machine_wait() - wait for one; fails if it does. */
void machine_wait(struct machine *m, int node);
/** machine_finish() - wait for all that are left; fails if one fails. */
void machine_finish(struct machine *m);
void machine_run(struct machine *m);

/* In a process of the machine. */
void machine_barrier(struct machine *m); /* of all nodes */
uint64_t machine_now_ns(void);
uint64_t machine_random(struct machine *m);
/* Only describe: for benchmarks and the parent as a node of its own. */
void machine_describe(struct machine *m);
void machine_join(struct machine *m, int self); /* be node @self */
void machine_leave(struct machine *m);
struct dsm_region_stats machine_stats(struct machine *m, int owner);

#endif
