/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The page engine of a node: regions, page channels, and the thread that
 * serves them. It joins coherence.c (what to do), uffd.c (the memory) and the
 * transports (the others).
 *
 * Threads: all of it belongs to the protocol thread. Others come in through
 * dsm__pages_run(), which has a function run there and waits for it, and get
 * news by notes. The protocol thread takes no lock but calls_lock and
 * notes_lock, which nobody holds for longer than a few instructions, and
 * touches registered memory never: only aliases.
 */
#ifndef DSM_SRC_PAGES_H
#define DSM_SRC_PAGES_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "ahead.h"
#include "coherence.h"
#include "dsm/dsm.h"
#include "heat.h"
#include "pagewire.h"
#include "rights.h"
#include "transport.h"
#include "uffd.h"

/* Requests for pages of one home that a node has under way at a time. */
#define DSM__PAGES_REQUESTS 64
/* Pages of one home that a node has asked for ahead of use. */
#define DSM__PAGES_AHEAD 512

struct dsm__pages;

struct dsm__tx {
    uint8_t header[DSM__PAGE_HEADER_BYTES];
    const uint8_t *data; /* in an alias; see coherence.c, 5. */
    uint32_t data_bytes;
};

/* A page channel: pagelink.c. */
struct dsm__plink {
    struct dsm__pages *pages;
    uint16_t peer;
    bool up;
    struct dsm__conn conn;

    /* Receiving. A body goes to where it belongs, or to nowhere. */
    uint8_t *rx_buf;
    size_t rx_start, rx_end;
    uint32_t rx_seq;
    struct dsm__page_frame body;
    uint8_t *body_at; /* NULL: to nowhere */
    size_t body_left; /* 0: a header comes next */
    uint64_t last_rx_ns;

    /* Sending. */
    struct dsm__tx *tx; /* NULL: the peer is lost */
    uint32_t tx_room, tx_first, tx_nr;
    size_t tx_sent; /* of the first */
    uint64_t tx_bytes;
    uint32_t tx_seq;
    bool tx_blocked; /* EPOLLOUT is asked for */
    bool tx_full;    /* and has not come */
    bool tx_dead;
    bool ping_sent;

    /* What the peer asked for ahead of use and was not looked at yet. */
    struct dsm__page_frame *ahead;
    uint32_t ahead_first, ahead_nr, ahead_pages;

    uint64_t bytes_in, bytes_out, frames_in, frames_out;
};

struct dsm__pregion {
    struct dsm__coh_region coh;
    struct dsm__pages *pages;
    uint16_t owner;
    struct dsm_region_params params;
    uint8_t *memory; /* registered; never touched here */
    uint8_t *alias;  /* the same pages, at another place */
    uint64_t bytes, nr_pages;
    size_t table_bytes;
    uint64_t chunk_bytes;
    uint64_t *watched; /* at home: a bit per chunk; else NULL: all are */
    bool detached;
    struct dsm__ahead ahead;
    struct dsm_region_stats stats;
    struct dsm__heat heat;

    /* Where all nodes share the memory; then there is no alias. */
    struct dsm__rights rights;
    struct {       /* rights to execute that were given lately */
        uint64_t page;
        uint32_t at_us;
        bool valid;
    } won[DSM__PAGES_REQUESTS];
    uint32_t next_won;
};

/* A thread that waits for the right to execute a page. */
struct dsm__waiter {
    struct dsm__pregion *region;
    uint64_t page;
    bool done;
    struct dsm__waiter *next;
};

/* Memory operations on neighbours are done as one. */
struct dsm__mem_batch {
    struct dsm__pregion *region; /* NULL: empty */
    enum dsm__mem op;
    uint64_t first, nr;
};

struct dsm__held {
    struct dsm__pregion *region;
    uint64_t page;
    uint32_t until_us;
};

struct dsm__call {
    void (*fn)(struct dsm__pages *pages, void *arg);
    void *arg;
    bool done;
    struct dsm__call *next;
};

struct dsm__pages {
    uint16_t self, nr_nodes;
    uint32_t page_bytes;
    bool rights; /* the memory is shared: rights.c in place of coherence.c */
    uint32_t hold_us, spin_us;
    uint64_t heartbeat_ns, timeout_ns;
    int epoll_fd, kick_fd, note_fd, uffd;

    pthread_t thread;
    bool threaded, stop;
    pthread_mutex_t calls_lock;
    pthread_cond_t calls_done;
    struct dsm__call *calls;
    struct dsm__waiter *new_waiters; /* under calls_lock */
    struct dsm__waiter *waiters;

    pthread_mutex_t notes_lock;
    uint64_t noted; /* peers whose page channel was lost */
    struct {
        bool broke_protocol;
        char reason[DSM_REASON_BYTES];
    } notes[DSM_MAX_NODES];

    uint64_t now_ns;
    uint32_t now_us;
    uint64_t busy_ns;  /* when something happened last */
    uint64_t check_ns; /* when to look at silence next */
    struct dsm__fault faults[DSM__FAULTS];
    int fault_first, fault_nr;
    bool faults_paused;
    struct dsm__mem_batch batch;
    struct dsm__held *held;
    uint32_t held_first, held_nr, held_room;
    enum dsm__coh_type current; /* the message that is being handled */
    const char *violation[DSM_MAX_NODES];
    uint64_t violators, lost_peers;

    struct dsm__pregion *regions[DSM_MAX_NODES];
    struct dsm__plink links[DSM_MAX_NODES];
};

/* pages.c */
struct dsm__pages_config {
    uint16_t self, nr_nodes;
    uint32_t page_bytes;
    uint32_t hold_us, spin_us, heartbeat_ms, peer_timeout_ms;
    bool rights;
    bool no_thread; /* tests call dsm__pages_step() */
};
int dsm__pages_create(const struct dsm__pages_config *config,
                      struct dsm__pages **ret_pages);
void dsm__pages_destroy(struct dsm__pages *pages);
/** dsm__pages_step() - one round of the loop; waits up to @timeout_ns. */
void dsm__pages_step(struct dsm__pages *pages, uint64_t timeout_ns);
/** dsm__pages_run() - run @fn on the protocol thread and wait for it. */
void dsm__pages_run(struct dsm__pages *pages,
                    void (*fn)(struct dsm__pages *pages, void *arg),
                    void *arg);
/** dsm__pages_attach() - the region of @owner is mapped; @fd has its pages. */
int dsm__pages_attach(struct dsm__pages *pages, uint16_t owner, int fd,
                      uint64_t bytes, const struct dsm_region_params *params);
int dsm__pages_detach(struct dsm__pages *pages, uint16_t owner);
/**
 * dsm__pages_connect() - @conn is the page channel to @peer, from now on the
 * engine's; @first: bytes that came on it already.
 */
int dsm__pages_connect(struct dsm__pages *pages, uint16_t peer,
                       const struct dsm__conn *conn, const uint8_t *first,
                       size_t first_bytes);
/** dsm__pages_lose() - @peer is lost for another reason. */
void dsm__pages_lose(struct dsm__pages *pages, uint16_t peer);
/** dsm__pages_note() - Return: false: no page channel was lost since. */
bool dsm__pages_note(struct dsm__pages *pages, uint16_t *ret_peer,
                     bool *ret_broke_protocol,
                     char ret_reason[DSM_REASON_BYTES]);
int dsm__pages_stats(struct dsm__pages *pages, uint16_t owner,
                     struct dsm_region_stats *ret_stats);
int dsm__pages_heat(struct dsm__pages *pages, uint16_t owner,
                    struct dsm_region_heat *ret_heat);

/**
 * dsm__pages_execute() - wait until this node may execute a page; see
 * dsm_region_execute().
 */
int dsm__pages_execute(struct dsm__pages *pages, uint16_t owner,
                       uint64_t page);

/* For pagerights.c */
/* Zeros that take memory when they are touched, for munmap(); NULL: none. */
void *dsm__pages_map_table(size_t bytes);
void dsm__pages_memory(struct dsm__pregion *r, uint64_t page,
                       enum dsm__mem op);
void dsm__pages_memory_all(struct dsm__pregion *r, enum dsm__mem op);
/* What was put off happens when the time has come. */
void dsm__pages_hold(struct dsm__pregion *r, uint64_t page, uint32_t until_us);

/* pagerights.c */
int dsm__prights_init(struct dsm__pregion *r);
void dsm__prights_free(struct dsm__pregion *r);
int dsm__prights_register(struct dsm__pregion *r);
/* Return: false: not now. */
bool dsm__prights_fault(struct dsm__pregion *r, uint64_t page);
int dsm__prights_frame(struct dsm__pregion *r, uint16_t from,
                       const struct dsm__page_frame *f, const char **ret_why);
void dsm__prights_down(struct dsm__pregion *r, uint16_t peer);
void dsm__prights_take_waiters(struct dsm__pages *pages);
void dsm__prights_serve_waiters(struct dsm__pages *pages);

/* For pagelink.c */
void dsm__pages_lose_link(struct dsm__plink *link, bool broke_protocol,
                          const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Where the data of @f goes. Return: -EPROTO with *ret_why; 0. */
int dsm__pages_place(struct dsm__plink *link, const struct dsm__page_frame *f,
                     uint8_t **ret_at, const char **ret_why);
/* A whole frame is here. Return: -EPROTO with *ret_why; 0. */
int dsm__pages_frame(struct dsm__plink *link, const struct dsm__page_frame *f,
                     const char **ret_why);
uint64_t dsm__pages_now(struct dsm__pages *pages);

/* pagelink.c */
/* From here on frames can be queued. Return: -ENOMEM; 0. */
int dsm__plink_init(struct dsm__plink *link, struct dsm__pages *pages,
                    uint16_t peer);
/* link->conn is there; dsm__plink_begin() takes what came with it. */
int dsm__plink_open(struct dsm__plink *link, const uint8_t *first,
                    size_t first_bytes);
void dsm__plink_close(struct dsm__plink *link);
void dsm__plink_receive(struct dsm__plink *link);
void dsm__plink_begin(struct dsm__plink *link);
void dsm__plink_send(struct dsm__plink *link, struct dsm__page_frame *f,
                     const uint8_t *data);
void dsm__plink_flush(struct dsm__plink *link);

#endif
