/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The page protocol of one region on one node: (state, event) -> (state,
 * actions), as two tables. No I/O, no memory of its own, no clock, no
 * threads; docs/coherence.md explains the tables, and a test keeps the two
 * the same.
 *
 * Every node has a copy (in some state) of every page. The region's home has
 * a directory beside it: for each page the set of nodes that have a copy, and
 * at most one request that is being served. What a node says to itself goes
 * the same way as what it says to others, so the home is no special case.
 *
 * Messages between two nodes arrive in the order in which they were sent;
 * nothing is assumed about the order of messages of different pairs, nor
 * about when they arrive: what is said to a node before it is connected waits
 * for the connection. Only dsm__coh_down() ends that.
 */
#ifndef DSM_SRC_COHERENCE_H
#define DSM_SRC_COHERENCE_H

#include <stdbool.h>
#include <stdint.h>

#include "dsm/dsm.h"

/* States of a copy. */
enum dsm__copy {
    DSM__COPY_I,   /* none */
    DSM__COPY_S,   /* readable, as others may have it */
    DSM__COPY_M,   /* writable, the only one */
    DSM__COPY_IS,  /* none, asked for a readable one */
    DSM__COPY_IM,  /* none, asked for a writable one */
    DSM__COPY_SM,  /* readable, asked to write */
    DSM__COPY_IP,  /* none, asked for ahead of use */
    DSM__COPY_IPF, /* the same, and now somebody waits for it */
    DSM__COPY_X,   /* lost for good: an access gets SIGBUS */
    DSM__NR_COPIES
};

/* What can happen to a copy. */
enum dsm__copy_event {
    DSM__COPY_READ,      /* a thread here wants to read */
    DSM__COPY_WRITE,     /* ... to write */
    DSM__COPY_AHEAD,     /* the page is worth having */
    DSM__COPY_DATA_S,    /* data, to read */
    DSM__COPY_DATA_M,    /* data, to write */
    DSM__COPY_GRANT,     /* it may be written */
    DSM__COPY_FILL,      /* (home) the data here is the page again */
    DSM__COPY_DECLINE,   /* what was asked for ahead of use is refused */
    DSM__COPY_GONE,      /* the page is lost */
    DSM__COPY_INV,       /* give it up */
    DSM__COPY_FWD_READ,  /* give a copy to a node */
    DSM__COPY_FWD_WRITE, /* give it away to a node */
    DSM__COPY_RECALL,    /* give the data to the home */
    DSM__COPY_HOME_DOWN, /* the home is lost */
    DSM__NR_COPY_EVENTS
};

/* What is done then, in the order of the bits. */
enum dsm__copy_action {
    DSM__COPY_A_PROTECT = 1 << 0, /* from here on only readable */
    DSM__COPY_A_ZAP = 1 << 1,     /* from here on not accessible */
    DSM__COPY_A_POISON = 1 << 2,  /* from here on SIGBUS */
    DSM__COPY_A_MAP_RO = 1 << 3,  /* readable; wakes who waits */
    DSM__COPY_A_MAP_RW = 1 << 4,  /* writable; wakes who waits */
    DSM__COPY_A_ALLOW = 1 << 5,   /* the same, of what is there already */
    DSM__COPY_A_READ = 1 << 6,    /* send READ to the home */
    DSM__COPY_A_WRITE = 1 << 7,   /* send WRITE to the home */
    DSM__COPY_A_DATA_S = 1 << 8,  /* send data to the requester */
    DSM__COPY_A_DATA_M = 1 << 9,  /* ... with the right to write */
    DSM__COPY_A_RETURN = 1 << 10,  /* send data to the home */
    DSM__COPY_A_ACK = 1 << 11,    /* tell the home that it is given up */
    DSM__COPY_A_DONE = 1 << 12,   /* tell the home, if data came from another */
    DSM__COPY_A_WON = 1 << 13,    /* a wait is over, the hold begins */
};
#define DSM__NR_COPY_ACTIONS 14

struct dsm__copy_rule {
    bool defined; /* else it cannot happen unless the sender is broken */
    uint8_t next;
    uint16_t actions;
};

extern const struct dsm__copy_rule
    dsm__copy_rules[DSM__NR_COPIES][DSM__NR_COPY_EVENTS];

/* States of a request at the home's directory. */
enum dsm__dir {
    DSM__DIR_RUN, /* to be looked at: the state between two messages */
    DSM__DIR_INV, /* sharers give the page up */
    DSM__DIR_FWD, /* a node that has the page gives it to the requester */
    DSM__DIR_REC, /* a node that has the data gives it to the home */
    DSM__DIR_END, /* answered; the next request of the page has its turn */
    DSM__NR_DIRS
};

/*
 * What can happen to a request. The first group is what a look at the page
 * finds, in this order of precedence.
 */
enum dsm__dir_event {
    DSM__DIR_PAGE_LOST,  /* the page is lost */
    DSM__DIR_AT_HOME,    /* nobody has a copy, but the home's data is good */
    DSM__DIR_ELSEWHERE,  /* ... but the data of a node that gave it up is */
    DSM__DIR_NOWHERE,    /* ... and nobody has the data */
    DSM__DIR_ABANDONED,  /* the requester is down, or talks nonsense */
    DSM__DIR_SOLE,       /* a write, and the requester has the only copy */
    DSM__DIR_SHARED,     /* a write, and more than the source have copies */
    DSM__DIR_REACHABLE,  /* there is a source that reaches the requester */
    DSM__DIR_CUT_OFF,    /* there is a source, but it does not */

    DSM__DIR_ACK,        /* a sharer gave it up, others have not yet */
    DSM__DIR_LAST_ACK,   /* all have */
    DSM__DIR_DONE,       /* the requester has it */
    DSM__DIR_REFUSED,    /* the requester will not take it from the source */
    DSM__DIR_RETURNED,   /* the data has come home */
    DSM__DIR_NO_SOURCE,  /* the source is down (FWD: and home the requester) */
    DSM__DIR_NO_READER,  /* the requester is down, it has not written */
    DSM__DIR_NO_WRITER,  /* the requester is down, it may have written */
    DSM__NR_DIR_EVENTS
};

enum dsm__dir_action {
    DSM__DIR_A_LOSE = 1 << 0,    /* the page is lost */
    DSM__DIR_A_FILL = 1 << 1,    /* the home has a copy again */
    DSM__DIR_A_DROP = 1 << 2,    /* the source of a write has no copy now */
    DSM__DIR_A_GIVEN = 1 << 3,   /* note who has copies now */
    DSM__DIR_A_GRANT = 1 << 4,   /* send GRANT to the requester */
    DSM__DIR_A_GONE = 1 << 5,    /* send GONE to the requester */
    DSM__DIR_A_INV = 1 << 6,     /* send INV to all copies but the source */
    DSM__DIR_A_FWD = 1 << 7,     /* send FWD_READ or FWD_WRITE to the source */
    DSM__DIR_A_RECALL = 1 << 8,  /* send RECALL to who has the data */
    DSM__DIR_A_CANCEL = 1 << 9,  /* a FWD that the home held back is void */
};
#define DSM__NR_DIR_ACTIONS 10

struct dsm__dir_rule {
    bool defined;
    uint8_t next;
    uint16_t actions;
};

extern const struct dsm__dir_rule
    dsm__dir_rules[DSM__NR_DIRS][DSM__NR_DIR_EVENTS];

/* Names of all of these, for documents and tests. */
extern const char *const dsm__copy_names[DSM__NR_COPIES];
extern const char *const dsm__copy_event_names[DSM__NR_COPY_EVENTS];
extern const char *const dsm__copy_action_names[DSM__NR_COPY_ACTIONS];
extern const char *const dsm__dir_names[DSM__NR_DIRS];
extern const char *const dsm__dir_event_names[DSM__NR_DIR_EVENTS];
extern const char *const dsm__dir_action_names[DSM__NR_DIR_ACTIONS];

/* Messages; the numbers are those of the wire. */
enum dsm__coh_type {
    DSM__COH_READ = 1,   /* to the home */
    DSM__COH_WRITE,      /* to the home */
    DSM__COH_FWD_READ,   /* from the home; node: the requester */
    DSM__COH_FWD_WRITE,  /* from the home; node: the requester */
    DSM__COH_INV,        /* from the home */
    DSM__COH_RECALL,     /* from the home */
    DSM__COH_GRANT,      /* from the home */
    DSM__COH_GONE,       /* from the home */
    DSM__COH_ACK,        /* to the home */
    DSM__COH_DONE,       /* to the home */
    DSM__COH_DATA_S,     /* with the page */
    DSM__COH_DATA_M,     /* with the page */
    DSM__COH_RETURN,     /* to the home, with the page */
    DSM__COH_DECLINE,    /* from the home */
    DSM__COH_LOST,       /* from the home; node: whom it lost; no page */
    DSM__COH_REFUSE,     /* to the home; node: whose data is not taken */
    /* 17 to 19: those of the page channel that are not of the protocol */
    DSM__COH_MET = 20,   /* to the home; node: who is connected to it */
    DSM__NR_COH
};

struct dsm__coh_msg {
    uint8_t type;
    uint16_t node; /* in messages that name one, else 0 */
    uint64_t page;
};

static inline bool dsm__coh_has_data(unsigned int type)
{
    return type == DSM__COH_DATA_S || type == DSM__COH_DATA_M ||
           type == DSM__COH_RETURN;
}

enum dsm__mem {
    DSM__MEM_PROTECT,
    DSM__MEM_ZAP,
    DSM__MEM_POISON,
    DSM__MEM_MAP_RO,
    DSM__MEM_MAP_RW,
    DSM__MEM_ALLOW,
    DSM__NR_MEM
};

/* One page on one node. All zero: as it is when the region begins. */
struct dsm__coh_page {
    uint64_t others; /* home: nodes that have a copy, but for the home */
    uint32_t stamp;  /* not the protocol's: when it was asked for or won */
    uint16_t request; /* home: the first of its requests; else see flags */
    uint8_t copy;    /* not to be read as it is: dsm__coh_copy() */
    uint8_t flags;
};
_Static_assert(sizeof(struct dsm__coh_page) <= 24, "memory at the home");

enum dsm__coh_flag {
    /* What was held back: an event minus DSM__COPY_INV plus 1, or 0. */
    DSM__COH_HELD_MASK = 3,
    DSM__COH_PAGE_LOST = 1 << 2,
    /* Not the protocol's: for those who ask ahead of use. */
    DSM__COH_AHEAD_UNUSED = 1 << 3,
    DSM__COH_AHEAD_MARK = 1 << 4,
    /* Nor these: of pages that travel, pages.c. */
    DSM__COH_UNTRIED = 1 << 5,
    DSM__COH_TRAVELS_ONE = 1 << 6, /* a number of two bits */
    DSM__COH_TRAVELS_MASK = 3 << 6,
};

struct dsm__coh_request {
    uint64_t page;
    uint64_t acks; /* INV: nodes that have not given it up yet */
    uint64_t had;  /* nodes that had copies when it began, and live */
    uint16_t next; /* waiting for the same page, or free; 0: none */
    uint8_t from;
    uint8_t source;
    uint8_t state; /* enum dsm__dir */
    bool write;
    bool begun;
};

struct dsm__coh_region;

/* The world outside. None of them may call back into the region. */
struct dsm__coh_ops {
    void (*send)(void *ctx, uint16_t to, const struct dsm__coh_msg *msg);
    void (*memory)(void *ctx, uint64_t page, enum dsm__mem op);
    /* Was the copy won so recently that it has to be kept for a while? */
    bool (*held)(void *ctx, uint64_t page);
    /* So it is kept: dsm__coh_release() is to be called later. */
    void (*hold)(void *ctx, uint64_t page);
    /* A wait has ended; the copy's state says how. */
    void (*won)(void *ctx, uint64_t page);
    /* Nobody has this page's data any more (home), or it is told so. */
    void (*lost)(void *ctx, uint64_t page);
    /* @node broke the protocol. */
    void (*violation)(void *ctx, uint16_t node, const char *why);
};

#define DSM__COH_SELF_MESSAGES 8

struct dsm__coh_region {
    uint16_t self;
    uint16_t home;
    uint16_t nr_nodes;
    uint16_t peer_limit; /* requests of one node at a time */
    uint64_t nr_pages;
    struct dsm__coh_page *pages;
    /* Home: a pool of nr_nodes * peer_limit + 1; [0] is not used. */
    struct dsm__coh_request *requests;
    uint16_t nr_requests;
    uint16_t free_request;
    uint16_t nr_of[DSM_MAX_NODES];
    const struct dsm__coh_ops *ops;
    void *ctx;

    uint64_t down;    /* nodes that cannot be reached any more */
    uint64_t refused; /* whose data is not taken (not at the home) */
    /* Home: whose data each node refuses, or has not met. */
    uint64_t broken[DSM_MAX_NODES];
    bool dead;        /* the home is lost */
    uint32_t nr_waiting; /* copies in IS, IM, SM or IPF */
    uint64_t nr_in[DSM__NR_COPIES]; /* copies in each state */

    struct dsm__coh_msg self_messages[DSM__COH_SELF_MESSAGES];
    uint16_t self_from[DSM__COH_SELF_MESSAGES];
    unsigned int nr_self;
};

/**
 * dsm__coh_init() - set up what the caller's fields, those above "down", do
 * not say. @pages is all zero; @requests is needed at the home only.
 */
void dsm__coh_init(struct dsm__coh_region *r);

/** dsm__coh_requests() - size of the pool; 0 if it would be too large. */
uint32_t dsm__coh_requests(uint16_t nr_nodes, uint16_t peer_limit);

static inline enum dsm__copy dsm__coh_copy(const struct dsm__coh_region *r,
                                           uint64_t page)
{
    /* A region begins with the home having all of it to itself. */
    return r->pages[page].copy ^
           (r->self == r->home ? DSM__COPY_M : DSM__COPY_I);
}

/** dsm__coh_copies() - (home) the nodes that have a copy of @page. */
uint64_t dsm__coh_copies(const struct dsm__coh_region *r, uint64_t page);

/**
 * dsm__coh_fault() - a thread waits for @page.
 * Return: false: too many requests are under way; again when one has ended.
 */
bool dsm__coh_fault(struct dsm__coh_region *r, uint64_t page, bool write);

/**
 * dsm__coh_ahead() - mark @page as asked for ahead of use.
 * Return: true: ask for it; false: there is no need.
 */
bool dsm__coh_ahead(struct dsm__coh_region *r, uint64_t page);

enum dsm__coh_spare {
    DSM__COH_KEEP,       /* decline */
    DSM__COH_SEND,       /* send DATA_S, the directory knows */
    DSM__COH_SEND_FIRST_PROTECT, /* the same, protect it before */
};
/** dsm__coh_spare() - (home) can @page be given ahead of use to @to? */
enum dsm__coh_spare dsm__coh_spare(struct dsm__coh_region *r, uint64_t page,
                                   uint16_t to);

/** What to do with the data that follows a header. */
enum dsm__coh_data {
    DSM__COH_DATA_TAKE,
    DSM__COH_DATA_SKIP,  /* the sender cannot know that it is not wanted */
    DSM__COH_DATA_ERROR, /* nobody asked for it */
};
enum dsm__coh_data dsm__coh_data(const struct dsm__coh_region *r,
                                 uint16_t from,
                                 const struct dsm__coh_msg *msg);

/**
 * dsm__coh_receive() - handle a message of @from (never self).
 * The data is where the page's copy has it.
 * Return: 0; -EPROTO with *ret_why a constant string.
 */
int dsm__coh_receive(struct dsm__coh_region *r, uint16_t from,
                     const struct dsm__coh_msg *msg, const char **ret_why);

/** dsm__coh_release() - the hold of @page is over. */
void dsm__coh_release(struct dsm__coh_region *r, uint64_t page);

/** dsm__coh_met() - @node and this one are connected, for the first time. */
void dsm__coh_met(struct dsm__coh_region *r, uint16_t node);

/** dsm__coh_down() - @node cannot be reached any more. */
void dsm__coh_down(struct dsm__coh_region *r, uint16_t node);

#endif
