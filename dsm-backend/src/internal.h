/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A node and its links, as node.c and link.c see them.
 *
 * Ownership: a link belongs to its node's list of handshakes until it is UP,
 * then to its peer. Only dsm_node_dispatch() ends a link, at the level of one
 * event, never below a callback: so a pointer to a link stays valid through
 * every callback, and a dsm_send() that finds the connection broken only
 * marks it; the broken socket's own event ends it.
 *
 * Threads: everything is touched by the (serialised) caller only, except for
 * the counters (relaxed atomics, one writer), peer->state (atomic) and
 * peer->down_reason (node->reason_lock, a leaf).
 */
#ifndef DSM_SRC_INTERNAL_H
#define DSM_SRC_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "dsm/dsm.h"
#include "pages.h"
#include "transport.h"
#include "wire.h"

#define DSM__NSEC_PER_MSEC UINT64_C(1000000)
#define DSM__NEVER UINT64_MAX

/* What only tests choose. */
struct dsm__options {
    const struct dsm__transport *transport; /* one more, with its context */
    void *transport_ctx;
    bool links_only;  /* COHERENCE_PAGES without pages: only links */
    int sndbuf_bytes; /* SO_SNDBUF of the links; 0: the system's */
};

struct dsm__counters {
    _Atomic uint64_t messages_sent[DSM_NR_CLASSES];
    _Atomic uint64_t messages_received[DSM_NR_CLASSES];
    _Atomic uint64_t bytes_sent;
    _Atomic uint64_t bytes_received;
    _Atomic uint64_t sends_refused[DSM_NR_CLASSES];
    _Atomic uint64_t deliveries_refused[DSM_NR_CLASSES];
    _Atomic uint64_t doorbells_sent;
    _Atomic uint64_t doorbell_frames_sent;
    _Atomic uint64_t doorbell_frames_received;
    _Atomic uint64_t protocol_errors;
    _Atomic uint64_t ping_rtt_ns[DSM_HISTOGRAM_BUCKETS];
    _Atomic uint32_t credits_left[DSM_NR_CLASSES];
    _Atomic uint32_t queued_in[DSM_NR_CLASSES];
};

/* One writer at a time, so a load and a store do; no locked instruction. */
#define dsm__count(counter, n)                                              \
    atomic_store_explicit(                                                  \
        &(counter),                                                         \
        atomic_load_explicit(&(counter), memory_order_relaxed) + (n),       \
        memory_order_relaxed)
#define dsm__gauge(counter, n) \
    atomic_store_explicit(&(counter), (n), memory_order_relaxed)

/* What an fd in the node's epoll set belongs to; first in its owner. */
enum dsm__source {
    DSM__SOURCE_LISTENER,
    DSM__SOURCE_TIMER,
    DSM__SOURCE_KICK,
    DSM__SOURCE_LINK,
    DSM__SOURCE_PAGES,
};

/* Messages of one class that message() did not take. */
struct dsm__kept {
    uint8_t *slots; /* window slots of DSM_MAX_MESSAGE_BYTES each */
    uint16_t *bytes;
    uint32_t head;
    uint32_t nr;
};

/*
 * The handshake; docs/protocol.rst has the picture.
 *
 *   outgoing: CONNECTING -> [SECURING] -> HELLO_ACK -> [REGION] -> READY -> UP
 *   incoming:               [SECURING] -> HELLO     -> [REGION] -> READY -> UP
 *
 * Named after the frame that is waited for; SECURING only if the transport
 * has something to do first, REGION only if regions are passed.
 */
enum dsm__phase {
    DSM__PHASE_CONNECTING,
    DSM__PHASE_SECURING,
    DSM__PHASE_HELLO,
    DSM__PHASE_HELLO_ACK,
    DSM__PHASE_REGION,
    DSM__PHASE_READY,
    DSM__PHASE_UP,
};

enum dsm__end {
    DSM__END_NONE,
    DSM__END_SILENT,  /* nothing worth telling anybody */
    DSM__END_LOST,    /* by itself: closed, reset, silent, said goodbye */
    DSM__END_REFUSED, /* the other side refused us or reported an error */
    DSM__END_REFUSE,  /* this side refuses: the other one is told */
    DSM__END_HANDED,  /* it is a page channel: the engine has it now */
};

struct dsm__link {
    enum dsm__source source;
    enum dsm__phase phase;
    struct dsm_node *node;
    struct dsm__link *next, **link_to_this; /* node->handshakes */
    struct dsm__conn conn;
    int peer; /* its index; -1 while unknown */
    char who[DSM__WHO_BYTES];
    bool outgoing;
    enum dsm__channel channel;
    uint8_t version;      /* of the protocol, once agreed on */
    int connect_error;    /* what an asynchronous connect() ended with */
    uint64_t deadline_ns; /* of the handshake; UP: next look at silence */

    /* Set by whoever finds out, acted on at the level of the event. */
    enum dsm__end end;
    uint32_t end_notice; /* enum dsm__notice of a refusal */
    char end_reason[DSM_REASON_BYTES];

    /* Receiving. */
    uint8_t *rx_buf;
    size_t rx_start, rx_end;
    uint64_t last_rx_ns;
    uint64_t rx_bits; /* rung, not yet handed to doorbell() */
    uint32_t rx_seq;
    int region_fd; /* checked, not yet the peer's */
    struct dsm__fds rx_fds;
    uint16_t rx_room[DSM_NR_CLASSES]; /* messages the peer may still send */
    uint16_t rx_owed[DSM_NR_CLASSES]; /* credits to return */
    uint16_t rx_doorbell_room;
    uint16_t rx_doorbell_owed;
    bool resume[DSM_NR_CLASSES];
    struct dsm__kept kept[DSM_NR_CLASSES]; /* nr > 0: the class waits */
    void *kept_map;
    size_t kept_map_bytes;

    /* Sending. */
    uint64_t tx_bits; /* rung, not yet sent */
    uint64_t ping_token, pong_token;
    uint32_t tx_seq;
    uint16_t tx_window[DSM_NR_CLASSES]; /* what the peer granted at first */
    uint16_t tx_credit[DSM_NR_CLASSES]; /* what is left of it */
    uint16_t tx_doorbell_window;
    uint16_t tx_doorbell_credit;
    bool tx_wanted[DSM_NR_CLASSES]; /* writable() is owed */
    bool tx_blocked; /* the socket is full; EPOLLOUT is awaited */
    bool tx_dead;    /* it takes nothing any more */
    bool ping_due, ping_sent, pong_due;
    size_t tx_rest_start, tx_rest_end;
    uint8_t tx_rest[DSM__WIRE_FRAME_MAX_BYTES]; /* tail of a cut frame */
};

struct dsm__peer {
    struct dsm_node_desc desc;
    char *address;
    const struct dsm__transport *transport;
    const char *where; /* in address, behind the scheme */
    _Atomic int state;
    struct dsm__link *link; /* while UP */
    bool paged;             /* its page channel was set up */
    int region_fd;
    /* Only where we connect: the next attempt and what the last one met. */
    uint64_t connect_at_ns;
    uint64_t backoff_ns;
    int connect_error;
    struct dsm__counters counters;
    char down_reason[DSM_REASON_BYTES];
};

struct dsm_node {
    struct dsm_config config; /* nodes and addresses: in peers[] */
    struct dsm_ops ops;
    void *opaque;
    struct dsm__options options;
    uint32_t page_bytes;

    struct dsm__pages *pages; /* COHERENCE_PAGES */
    uint64_t attached;        /* owners whose regions are */

    enum dsm__source listener_source, timer_source, kick_source, pages_source;
    int epoll_fd, timer_fd, kick_fd;
    bool kicked;
    bool dispatching;
    bool listening;
    struct dsm__listener listener;
    uint64_t accept_at_ns; /* accepting pauses until then */
    uint64_t armed_ns;     /* what timer_fd is set to */
    uint64_t now_ns;       /* of the current dispatch */

    struct dsm__link *handshakes;
    unsigned int nr_handshakes;

    pthread_mutex_t reason_lock;
    struct dsm__peer peers[]; /* nr_nodes */
};

/* node.c */
int dsm__node_create(const struct dsm_config *config,
                     const struct dsm_ops *ops, void *opaque,
                     const struct dsm__options *options,
                     struct dsm_node **ret_node);
uint64_t dsm__now_ns(void);
/* What the functions of @transport get as their ctx. */
void *dsm__node_transport_ctx(const struct dsm_node *node,
                              const struct dsm__transport *transport);
/* Have a dispatch happen at @deadline_ns or before. */
void dsm__node_arm(struct dsm_node *node, uint64_t deadline_ns);
/* Have a dispatch happen without any other event. */
void dsm__node_kick(struct dsm_node *node);
static inline bool dsm__node_passes_regions(const struct dsm_node *node)
{
    return node->config.coherence == DSM_COHERENCE_SHARED;
}
static inline enum dsm_peer_state dsm__peer_get_state(
    const struct dsm__peer *peer)
{
    return atomic_load_explicit(&peer->state, memory_order_acquire);
}
/* Connect for the next channel. */
void dsm__peer_connect_next(struct dsm_node *node, uint16_t index);
void dsm__peer_set_up(struct dsm_node *node, struct dsm__link *link);
void dsm__peer_set_down(struct dsm_node *node, uint16_t index,
                        const char *reason);
/* Connect again later; @connect_error: 0 or what connect() met. */
void dsm__peer_retry(struct dsm_node *node, uint16_t index,
                     int connect_error);
void dsm__node_rejected(struct dsm_node *node, const char *reason);

/* link.c */
/* @outgoing_to: the peer that @fd connects to; -1: it was accepted. */
int dsm__link_new(struct dsm_node *node,
                  const struct dsm__transport *transport, int fd,
                  int outgoing_to, bool connected);
void dsm__link_event(struct dsm__link *link, uint32_t events);
void dsm__link_timer(struct dsm__link *link);
/* Look at what dsm__node_kick() may have been called for. */
void dsm__link_kicked(struct dsm__link *link);
/* End without telling this side's callbacks; says BYE on a link that is UP. */
void dsm__link_leave(struct dsm__link *link);
int dsm__link_send(struct dsm__link *link, enum dsm_class cls,
                   const struct iovec *iov, int iovcnt, size_t bytes);
/* End a link that is UP, for what happened on the page channel. */
void dsm__link_lose(struct dsm__link *link, bool broke_protocol,
                    const char *reason);
void dsm__link_ring(struct dsm__link *link, uint64_t bits);

#endif
