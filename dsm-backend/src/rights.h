/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who may write and who may execute a page of memory that all nodes share:
 * (state, event) -> (state, actions), as two tables. No I/O, no memory of its
 * own, no clock, no threads; docs/coherence.md, "Translated code", explains
 * the tables, and a test keeps the two the same.
 *
 * There are two rights to a page, and any number of nodes can hold either;
 * but who writes and who executes are not two nodes. The region's home has a
 * directory: for each page the nodes that hold each right. At the beginning
 * the home holds both rights to all pages. What a node says to itself goes
 * the same way as what it says to others.
 *
 * Messages between two nodes arrive in the order in which they were sent.
 */
#ifndef DSM_SRC_RIGHTS_H
#define DSM_SRC_RIGHTS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "dsm/dsm.h"

enum dsm__right {
    DSM__RIGHT_WRITE,
    DSM__RIGHT_EXEC,
    DSM__NR_RIGHTS
};

/* A node's claim to a right. */
enum dsm__claim {
    DSM__CLAIM_NONE,
    DSM__CLAIM_ASKED,   /* and not answered */
    DSM__CLAIM_HELD,
    DSM__CLAIM_CROSSED, /* held; given ahead, while it was being asked for */
    DSM__NR_CLAIMS
};

enum dsm__claim_event {
    DSM__CLAIM_WANT,  /* a thread here wants to use it */
    DSM__CLAIM_MAY,   /* the answer */
    DSM__CLAIM_AHEAD, /* it is given without having been asked for */
    DSM__CLAIM_STOP,  /* give it up */
    DSM__NR_CLAIM_EVENTS
};

/* What is done then, in the order of the bits. */
enum dsm__claim_action {
    DSM__CLAIM_A_FORBID = 1 << 0,  /* from here on it is not used */
    DSM__CLAIM_A_ALLOW = 1 << 1,   /* it can be used; wakes who waits */
    DSM__CLAIM_A_ASK = 1 << 2,     /* send ASK to the home */
    DSM__CLAIM_A_STOPPED = 1 << 3, /* send STOPPED to the home */
};
#define DSM__NR_CLAIM_ACTIONS 4

struct dsm__claim_rule {
    bool defined; /* else it cannot happen unless the sender is broken */
    uint8_t next;
    uint8_t actions;
};

extern const struct dsm__claim_rule
    dsm__claim_rules[DSM__NR_CLAIMS][DSM__NR_CLAIM_EVENTS];

/* A page in the directory. */
enum dsm__turn {
    DSM__TURN_REST, /* whoever asks has his turn */
    DSM__TURN_STOP, /* somebody's; others give the other right up for it */
    DSM__NR_TURNS
};

enum dsm__turn_event {
    DSM__TURN_FREE,         /* nobody else holds the other right */
    DSM__TURN_TAKEN,        /* somebody does */
    DSM__TURN_STOPPED,      /* one gave it up, or is lost; not all have */
    DSM__TURN_LAST_STOPPED, /* all have */
    DSM__TURN_ABANDONED,    /* all have, and who asked is lost */
    DSM__NR_TURN_EVENTS
};

enum dsm__turn_action {
    DSM__TURN_A_STOP = 1 << 0, /* send STOP to those who hold the other right */
    DSM__TURN_A_MAY = 1 << 1,  /* send MAY to who asked */
};
#define DSM__NR_TURN_ACTIONS 2

struct dsm__turn_rule {
    bool defined;
    uint8_t next;
    uint8_t actions;
};

extern const struct dsm__turn_rule
    dsm__turn_rules[DSM__NR_TURNS][DSM__NR_TURN_EVENTS];

/* Names of all of these, for documents and tests. */
extern const char *const dsm__claim_names[DSM__NR_CLAIMS];
extern const char *const dsm__claim_event_names[DSM__NR_CLAIM_EVENTS];
extern const char *const dsm__claim_action_names[DSM__NR_CLAIM_ACTIONS];
extern const char *const dsm__turn_names[DSM__NR_TURNS];
extern const char *const dsm__turn_event_names[DSM__NR_TURN_EVENTS];
extern const char *const dsm__turn_action_names[DSM__NR_TURN_ACTIONS];

enum dsm__rights_type {
    DSM__RIGHTS_ASK,     /* to the home */
    DSM__RIGHTS_MAY,     /* from the home */
    DSM__RIGHTS_STOP,    /* from the home */
    DSM__RIGHTS_STOPPED, /* to the home */
    DSM__NR_RIGHTS_TYPES
};

struct dsm__rights_msg {
    uint8_t type, right;
    uint64_t page;
    /*
     * MAY: so many pages before and after @page, which is the answer, are
     * given ahead; only of the right to write.
     */
    uint32_t before, after;
};

/* What is given ahead is in the same aligned block of so many pages. */
#define DSM__RIGHTS_BLOCK 512

/* One page at its home. All zero: as it is when the region begins. */
struct dsm__rights_page {
    uint64_t has[DSM__NR_RIGHTS]; /* nodes; the home's bit: does not */
    uint64_t asks[DSM__NR_RIGHTS];
    uint64_t awaited;
    uint16_t by; /* whose turn it is or was last */
    uint8_t right;
    uint8_t turn;
};

struct dsm__rights_ops {
    void (*send)(void *ctx, uint16_t to, const struct dsm__rights_msg *msg);
    /*
     * This node may use the right from now on; wakes who waits. That it may
     * not: it does not when this returns, or at least before any message is
     * sent that was handed to send() later.
     */
    void (*allow)(void *ctx, uint64_t page, enum dsm__right right);
    void (*forbid)(void *ctx, uint64_t page, enum dsm__right right);
    /* Has this node executed it? A guess, to spare it. */
    bool (*executed)(void *ctx, uint64_t page);
    /* May STOP of the right to execute wait for dsm__rights_release()? */
    bool (*hold)(void *ctx, uint64_t page);
};

struct dsm__rights {
    uint16_t self, home, nr_nodes;
    uint32_t limit; /* a node has so many ASKs under way at most */
    uint64_t nr_pages;
    const struct dsm__rights_ops *ops;
    void *ctx;

    _Atomic uint8_t *claims;        /* nr_pages; see dsm__rights_claim() */
    struct dsm__rights_page *pages; /* nr_pages at the home, else NULL */
    uint32_t asked;
    uint32_t asks_of[DSM_MAX_NODES]; /* at the home */
    uint64_t down;
    _Atomic bool home_down;
};

/* Which claims there are; any thread. */
enum dsm__claim dsm__rights_claim(const struct dsm__rights *r, uint64_t page,
                                  enum dsm__right right);

static inline bool dsm__rights_holds(const struct dsm__rights *r,
                                     uint64_t page, enum dsm__right right)
{
    return dsm__rights_claim(r, page, right) >= DSM__CLAIM_HELD;
}

/**
 * dsm__rights_want() - a thread here waits for a right.
 * Return: false: too much is under way; again when something has changed.
 */
bool dsm__rights_want(struct dsm__rights *r, uint64_t page,
                      enum dsm__right right);

/**
 * dsm__rights_receive() - a message; its page is in the region.
 * Return: 0; -EPROTO with *ret_why: it breaks the rules, and has changed
 * nothing.
 */
int dsm__rights_receive(struct dsm__rights *r, uint16_t from,
                        const struct dsm__rights_msg *msg,
                        const char **ret_why);

/* What hold() put off happens now. */
void dsm__rights_release(struct dsm__rights *r, uint64_t page);

/** dsm__rights_down() - @node is lost; if the home is, all is allowed. */
void dsm__rights_down(struct dsm__rights *r, uint16_t node);

#endif
