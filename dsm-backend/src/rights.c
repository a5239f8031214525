/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Rights to write and to execute; rights.h says what it is.
 *
 * What always holds, between two events and as far as nobody is down:
 *
 *  1. If a node holds the right to write a page, no other holds that to
 *     execute it.
 *  2. has[right] of the page at the home has every node that holds it.
 *  3. Who has asked has an ASK at the home or on its way there, or the answer
 *     is on its way back.
 *  4. A page whose turn is STOP waits for the STOPPED of all in awaited.
 *
 * tests/test-rights.c checks them in all states that can be reached.
 */
#include <assert.h>
#include <errno.h>
#include <stddef.h>

#include "rights.h"

/* A test wants to know which rules it has used. */
#ifndef DSM__RIGHTS_USED
#define DSM__RIGHTS_USED(table, state, event) ((void)0)
#endif

/* The tables */

#define RULE(prefix, next, actions) { true, prefix##next, (actions) }

#define CLAIM(next, actions) RULE(DSM__CLAIM_, next, actions)
#define A(action) DSM__CLAIM_A_##action

const struct dsm__claim_rule
    dsm__claim_rules[DSM__NR_CLAIMS][DSM__NR_CLAIM_EVENTS] = {
    [DSM__CLAIM_NONE] = {
        [DSM__CLAIM_WANT] = CLAIM(ASKED, A(ASK)),
        [DSM__CLAIM_AHEAD] = CLAIM(HELD, A(ALLOW)),
    },
    [DSM__CLAIM_ASKED] = {
        [DSM__CLAIM_WANT] = CLAIM(ASKED, 0),
        [DSM__CLAIM_MAY] = CLAIM(HELD, A(ALLOW)),
        [DSM__CLAIM_AHEAD] = CLAIM(CROSSED, A(ALLOW)),
    },
    [DSM__CLAIM_HELD] = {
        [DSM__CLAIM_WANT] = CLAIM(HELD, A(ALLOW)),
        [DSM__CLAIM_STOP] = CLAIM(NONE, A(FORBID) | A(STOPPED)),
    },
    [DSM__CLAIM_CROSSED] = {
        [DSM__CLAIM_WANT] = CLAIM(CROSSED, A(ALLOW)),
        [DSM__CLAIM_MAY] = CLAIM(HELD, 0),
        [DSM__CLAIM_STOP] = CLAIM(ASKED, A(FORBID) | A(STOPPED)),
    },
};
#undef A

#define TURN(next, actions) RULE(DSM__TURN_, next, actions)
#define A(action) DSM__TURN_A_##action

const struct dsm__turn_rule
    dsm__turn_rules[DSM__NR_TURNS][DSM__NR_TURN_EVENTS] = {
    [DSM__TURN_REST] = {
        [DSM__TURN_FREE] = TURN(REST, A(MAY)),
        [DSM__TURN_TAKEN] = TURN(STOP, A(STOP)),
    },
    [DSM__TURN_STOP] = {
        [DSM__TURN_STOPPED] = TURN(STOP, 0),
        [DSM__TURN_LAST_STOPPED] = TURN(REST, A(MAY)),
        [DSM__TURN_ABANDONED] = TURN(REST, 0),
    },
};
#undef A

const char *const dsm__claim_names[DSM__NR_CLAIMS] = {
    "NONE", "ASKED", "HELD", "CROSSED",
};
const char *const dsm__claim_event_names[DSM__NR_CLAIM_EVENTS] = {
    "WANT", "MAY", "AHEAD", "STOP",
};
const char *const dsm__claim_action_names[DSM__NR_CLAIM_ACTIONS] = {
    "forbid", "allow", "+ASK", "+STOPPED",
};
const char *const dsm__turn_names[DSM__NR_TURNS] = { "REST", "STOP" };
const char *const dsm__turn_event_names[DSM__NR_TURN_EVENTS] = {
    "FREE", "TAKEN", "STOPPED", "LAST_STOPPED", "ABANDONED",
};
const char *const dsm__turn_action_names[DSM__NR_TURN_ACTIONS] = {
    "+STOP", "+MAY",
};

static uint64_t bit(uint16_t node)
{
    return UINT64_C(1) << node;
}

/* Claims: two bits for each right, so kept that all zero is the beginning. */

#define CLAIM_BITS 2
#define CLAIM_MASK ((1u << CLAIM_BITS) - 1)

static unsigned int claim_zero(const struct dsm__rights *r)
{
    return r->self == r->home ? DSM__CLAIM_HELD : DSM__CLAIM_NONE;
}

enum dsm__claim dsm__rights_claim(const struct dsm__rights *r, uint64_t page,
                                  enum dsm__right right)
{
    unsigned int claims = atomic_load(&r->claims[page]);

    if (atomic_load(&r->home_down)) {
        return DSM__CLAIM_HELD;
    }
    return (claims >> (CLAIM_BITS * right) & CLAIM_MASK) ^ claim_zero(r);
}

static void set_claim(struct dsm__rights *r, uint64_t page,
                      enum dsm__right right, enum dsm__claim claim)
{
    unsigned int shift = CLAIM_BITS * right;
    unsigned int claims = atomic_load(&r->claims[page]);

    claims &= ~(CLAIM_MASK << shift);
    claims |= (claim ^ claim_zero(r)) << shift;
    atomic_store(&r->claims[page], (uint8_t)claims); /* the only writer */
}

static void dir_ask(struct dsm__rights *r, uint64_t page,
                    enum dsm__right right, uint16_t from);
static void dir_stopped(struct dsm__rights *r, uint64_t page, uint16_t from);

static void to_home(struct dsm__rights *r, enum dsm__rights_type type,
                    uint64_t page, enum dsm__right right)
{
    struct dsm__rights_msg msg = { .type = type, .right = right, .page = page };

    if (r->self != r->home) {
        r->ops->send(r->ctx, r->home, &msg);
    } else if (type == DSM__RIGHTS_ASK) {
        dir_ask(r, page, right, r->self);
    } else {
        dir_stopped(r, page, r->self);
    }
}

static const struct dsm__claim_rule *claim_rule(const struct dsm__rights *r,
                                                uint64_t page,
                                                enum dsm__right right,
                                                enum dsm__claim_event event)
{
    return &dsm__claim_rules[dsm__rights_claim(r, page, right)][event];
}

static void claim_event(struct dsm__rights *r, uint64_t page,
                        enum dsm__right right, enum dsm__claim_event event)
{
    const struct dsm__claim_rule *rule = claim_rule(r, page, right, event);

    assert(rule->defined);
    DSM__RIGHTS_USED(claim, dsm__rights_claim(r, page, right), event);
    r->asked -= event == DSM__CLAIM_MAY;
    set_claim(r, page, right, rule->next);
    if (rule->actions & DSM__CLAIM_A_FORBID) {
        r->ops->forbid(r->ctx, page, right);
    }
    if (rule->actions & DSM__CLAIM_A_ALLOW) {
        r->ops->allow(r->ctx, page, right);
    }
    if (rule->actions & DSM__CLAIM_A_ASK) {
        r->asked++;
        to_home(r, DSM__RIGHTS_ASK, page, right);
    }
    if (rule->actions & DSM__CLAIM_A_STOPPED) {
        to_home(r, DSM__RIGHTS_STOPPED, page, right);
    }
}

bool dsm__rights_want(struct dsm__rights *r, uint64_t page,
                      enum dsm__right right)
{
    if (atomic_load(&r->home_down)) {
        r->ops->allow(r->ctx, page, right);
        return true;
    }
    if (dsm__rights_claim(r, page, right) == DSM__CLAIM_NONE &&
        r->asked == r->limit) {
        return false;
    }
    claim_event(r, page, right, DSM__CLAIM_WANT);
    return true;
}

/* From the home, which may be this node. */
static void claim_stop(struct dsm__rights *r, uint64_t page,
                       enum dsm__right right)
{
    if (right != DSM__RIGHT_EXEC || !r->ops->hold(r->ctx, page)) {
        claim_event(r, page, right, DSM__CLAIM_STOP);
    }
}

void dsm__rights_release(struct dsm__rights *r, uint64_t page)
{
    /* A broken home may have said it twice. */
    if (!atomic_load(&r->home_down) &&
        claim_rule(r, page, DSM__RIGHT_EXEC, DSM__CLAIM_STOP)->defined) {
        claim_event(r, page, DSM__RIGHT_EXEC, DSM__CLAIM_STOP);
    }
}

/* The directory */

static uint64_t dir_has(const struct dsm__rights *r, uint64_t page,
                        enum dsm__right right)
{
    return r->pages[page].has[right] ^ bit(r->home);
}

static enum dsm__right other(enum dsm__right right)
{
    return right == DSM__RIGHT_WRITE ? DSM__RIGHT_EXEC : DSM__RIGHT_WRITE;
}

/*
 * Who gets the right to write a page will want its neighbours, too. They are
 * given if nobody has anything to lose by it: of the nodes that may execute,
 * the home can be one that never did.
 */
static bool dir_spare(struct dsm__rights *r, uint64_t page, uint16_t to)
{
    struct dsm__rights_page *e = &r->pages[page];
    uint64_t executors = dir_has(r, page, DSM__RIGHT_EXEC) & ~bit(to);

    if (e->turn != DSM__TURN_REST ||
        e->asks[DSM__RIGHT_WRITE] || e->asks[DSM__RIGHT_EXEC] ||
        (dir_has(r, page, DSM__RIGHT_WRITE) & bit(to)) ||
        (executors & ~bit(r->home)) ||
        (executors && r->ops->executed(r->ctx, page))) {
        return false;
    }
    if (executors) {
        /* Nobody waits for it, so it needs no turn. */
        e->has[DSM__RIGHT_EXEC] ^= bit(r->home);
        set_claim(r, page, DSM__RIGHT_EXEC, DSM__CLAIM_NONE);
        r->ops->forbid(r->ctx, page, DSM__RIGHT_EXEC);
    }
    e->has[DSM__RIGHT_WRITE] |= bit(to);
    return true;
}

static void dir_may(struct dsm__rights *r, uint64_t page)
{
    struct dsm__rights_page *e = &r->pages[page];
    uint64_t first = page - page % DSM__RIGHTS_BLOCK;
    uint64_t end = first + DSM__RIGHTS_BLOCK;
    struct dsm__rights_msg msg = {
        .type = DSM__RIGHTS_MAY,
        .right = e->right,
        .page = page,
    };
    uint16_t to = e->by;

    e->asks[e->right] &= ~bit(to);
    r->asks_of[to]--;
    if (!(dir_has(r, page, e->right) & bit(to))) {
        e->has[e->right] ^= bit(to);
    }
    if (to == r->self) {
        claim_event(r, page, e->right, DSM__CLAIM_MAY);
        return;
    }
    if (e->right == DSM__RIGHT_WRITE) {
        end = end < r->nr_pages ? end : r->nr_pages;
        while (page - msg.before > first &&
               dir_spare(r, page - msg.before - 1, to)) {
            msg.before++;
        }
        while (page + msg.after + 1 < end &&
               dir_spare(r, page + msg.after + 1, to)) {
            msg.after++;
        }
    }
    r->ops->send(r->ctx, to, &msg);
}

/* Home comes last, because it answers at once. */
static void dir_stop(struct dsm__rights *r, uint64_t page, uint64_t nodes)
{
    struct dsm__rights_msg msg = {
        .type = DSM__RIGHTS_STOP,
        .right = other(r->pages[page].right),
        .page = page,
    };

    r->pages[page].awaited = nodes;
    for (uint16_t i = 0; i < r->nr_nodes; i++) {
        if (i != r->self && (nodes & bit(i))) {
            r->ops->send(r->ctx, i, &msg);
        }
    }
    if (nodes & bit(r->self)) {
        claim_stop(r, page, msg.right);
    }
}

static void turn_event(struct dsm__rights *r, uint64_t page,
                       enum dsm__turn_event event, uint64_t nodes)
{
    struct dsm__rights_page *e = &r->pages[page];
    const struct dsm__turn_rule *rule = &dsm__turn_rules[e->turn][event];

    assert(rule->defined);
    DSM__RIGHTS_USED(turn, e->turn, event);
    e->turn = rule->next;
    if (rule->actions & DSM__TURN_A_STOP) {
        dir_stop(r, page, nodes);
    }
    if (rule->actions & DSM__TURN_A_MAY) {
        dir_may(r, page);
    }
}

/* The next of @nodes, not empty, after @node. */
static uint16_t next_of(uint64_t nodes, uint16_t node)
{
    uint64_t above = node < 63 ? nodes & (UINT64_MAX << (node + 1)) : 0;

    return __builtin_ctzll(above ? above : nodes);
}

/* The rights take turns, and so do the nodes. */
static void dir_next(struct dsm__rights *r, uint64_t page)
{
    struct dsm__rights_page *e = &r->pages[page];
    enum dsm__right right;
    uint64_t others;

    while (e->turn == DSM__TURN_REST &&
           (e->asks[DSM__RIGHT_WRITE] || e->asks[DSM__RIGHT_EXEC])) {
        right = other(e->right);
        e->right = e->asks[right] ? right : e->right;
        e->by = next_of(e->asks[e->right], e->by);
        others = dir_has(r, page, other(e->right)) & ~bit(e->by);
        turn_event(r, page, others ? DSM__TURN_TAKEN : DSM__TURN_FREE, others);
    }
}

static void dir_ask(struct dsm__rights *r, uint64_t page,
                    enum dsm__right right, uint16_t from)
{
    r->pages[page].asks[right] |= bit(from);
    r->asks_of[from]++;
    dir_next(r, page);
}

static void dir_stopped(struct dsm__rights *r, uint64_t page, uint16_t from)
{
    struct dsm__rights_page *e = &r->pages[page];

    e->awaited &= ~bit(from);
    if (dir_has(r, page, other(e->right)) & bit(from)) {
        e->has[other(e->right)] ^= bit(from);
    }
    turn_event(r, page,
               e->awaited                ? DSM__TURN_STOPPED
               : (r->down & bit(e->by)) ? DSM__TURN_ABANDONED
                                         : DSM__TURN_LAST_STOPPED, 0);
    dir_next(r, page);
}

/* Messages */

static int receive_may(struct dsm__rights *r,
                       const struct dsm__rights_msg *msg,
                       const char **ret_why)
{
    uint64_t first = msg->page - msg->before, page;
    uint64_t end = msg->page + msg->after + 1;

    if (msg->before > msg->page || end > r->nr_pages) {
        *ret_why = "pages that this node does not know";
        return -EPROTO;
    }
    for (page = first; page < end; page++) {
        if (!claim_rule(r, page, msg->right, page == msg->page
                                                 ? DSM__CLAIM_MAY
                                                 : DSM__CLAIM_AHEAD)
                 ->defined) {
            *ret_why = "a right that was not asked for or is held";
            return -EPROTO;
        }
    }
    for (page = first; page < end; page++) {
        claim_event(r, page, msg->right,
                    page == msg->page ? DSM__CLAIM_MAY : DSM__CLAIM_AHEAD);
    }
    return 0;
}

static int receive_at_home(struct dsm__rights *r, uint16_t from,
                           const struct dsm__rights_msg *msg,
                           const char **ret_why)
{
    struct dsm__rights_page *e = &r->pages[msg->page];

    if (msg->type == DSM__RIGHTS_ASK) {
        if ((e->asks[msg->right] & bit(from)) || r->asks_of[from] == r->limit) {
            *ret_why = "too many questions at a time";
            return -EPROTO;
        }
        dir_ask(r, msg->page, msg->right, from);
    } else {
        if (!(e->awaited & bit(from)) || msg->right != other(e->right)) {
            *ret_why = "an answer without a question";
            return -EPROTO;
        }
        dir_stopped(r, msg->page, from);
    }
    return 0;
}

int dsm__rights_receive(struct dsm__rights *r, uint16_t from,
                        const struct dsm__rights_msg *msg,
                        const char **ret_why)
{
    bool to_home =
        msg->type == DSM__RIGHTS_ASK || msg->type == DSM__RIGHTS_STOPPED;

    if (to_home ? r->self != r->home : from != r->home) {
        *ret_why = to_home ? "a message for the home of a region"
                           : "a message that only the home may send";
        return -EPROTO;
    }
    if (to_home) {
        return receive_at_home(r, from, msg, ret_why);
    }
    if (msg->type == DSM__RIGHTS_MAY) {
        return receive_may(r, msg, ret_why);
    }
    if (!claim_rule(r, msg->page, msg->right, DSM__CLAIM_STOP)->defined) {
        *ret_why = "a right that this node does not hold";
        return -EPROTO;
    }
    claim_stop(r, msg->page, msg->right);
    return 0;
}

/* Losing a node */

static void dir_down(struct dsm__rights *r, uint64_t page, uint16_t node)
{
    struct dsm__rights_page *e = &r->pages[page];
    bool awaited = e->awaited & bit(node);

    if (!((e->has[DSM__RIGHT_WRITE] | e->has[DSM__RIGHT_EXEC] |
           e->asks[DSM__RIGHT_WRITE] | e->asks[DSM__RIGHT_EXEC] | e->awaited) &
          bit(node))) {
        return; /* and takes no memory for a page that nobody shared */
    }
    for (int i = 0; i < DSM__NR_RIGHTS; i++) {
        e->has[i] &= ~bit(node);
        e->asks[i] &= ~bit(node);
    }
    if (awaited) {
        dir_stopped(r, page, node);
    }
}

void dsm__rights_down(struct dsm__rights *r, uint16_t node)
{
    r->down |= bit(node);
    if (node == r->home) {
        atomic_store(&r->home_down, true);
    } else if (r->pages) {
        r->asks_of[node] = 0;
        for (uint64_t page = 0; page < r->nr_pages; page++) {
            dir_down(r, page, node);
        }
    }
}
