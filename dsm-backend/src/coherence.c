/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The page protocol; coherence.h says what it is, docs/coherence.md why.
 *
 * What always holds, between two events and as far as nobody is down:
 *
 *  1. If a node is in M, every other node is in a state without access.
 *  2. copies(page) at the home has every node that is in S, M or SM.
 *  3. At most one request of a page is begun; all others wait behind it.
 *  4. Who is in IS, IM or SM has a request at the home or on its way there,
 *     or the answer is on its way back.
 *  5. What a message carries is read when the transport takes it, so the
 *     copy that it was sent from does not change until it has arrived.
 *
 * tests/test-coherence.c checks them in all states that can be reached.
 */
#include <assert.h>
#include <errno.h>
#include <stddef.h>

#include "coherence.h"

/* A test wants to know which rules it has used. */
#ifndef DSM__COH_USED
#define DSM__COH_USED(table, state, event) ((void)0)
#endif

/* The tables */

#define RULE(prefix, next, actions) { true, prefix##next, (actions) }

#define COPY(next, actions) RULE(DSM__COPY_, next, actions)
#define A(action) DSM__COPY_A_##action

const struct dsm__copy_rule
    dsm__copy_rules[DSM__NR_COPIES][DSM__NR_COPY_EVENTS] = {
    [DSM__COPY_I] = {
        [DSM__COPY_READ] = COPY(IS, A(READ)),
        [DSM__COPY_WRITE] = COPY(IM, A(WRITE)),
        [DSM__COPY_AHEAD] = COPY(IP, 0),
        [DSM__COPY_FILL] = COPY(S, 0),
        [DSM__COPY_RECALL] = COPY(I, A(RETURN)),
    },
    [DSM__COPY_S] = {
        [DSM__COPY_READ] = COPY(S, A(MAP_RO)),
        [DSM__COPY_WRITE] = COPY(SM, A(WRITE)),
        [DSM__COPY_INV] = COPY(I, A(ZAP) | A(ACK)),
        [DSM__COPY_FWD_READ] = COPY(S, A(DATA_S)),
        [DSM__COPY_FWD_WRITE] = COPY(I, A(ZAP) | A(DATA_M)),
        [DSM__COPY_RECALL] = COPY(S, A(RETURN)),
        [DSM__COPY_HOME_DOWN] = COPY(X, A(ZAP)),
    },
    [DSM__COPY_M] = {
        [DSM__COPY_READ] = COPY(M, A(MAP_RW)),
        [DSM__COPY_WRITE] = COPY(M, A(MAP_RW)),
        [DSM__COPY_FWD_READ] = COPY(S, A(PROTECT) | A(DATA_S)),
        [DSM__COPY_FWD_WRITE] = COPY(I, A(PROTECT) | A(ZAP) | A(DATA_M)),
        [DSM__COPY_RECALL] = COPY(S, A(PROTECT) | A(RETURN)),
        [DSM__COPY_HOME_DOWN] = COPY(X, A(ZAP)),
    },
    [DSM__COPY_IS] = {
        [DSM__COPY_READ] = COPY(IS, 0),
        [DSM__COPY_WRITE] = COPY(IS, 0),
        [DSM__COPY_DATA_S] = COPY(S, A(MAP_RO) | A(DONE) | A(WON)),
        [DSM__COPY_FILL] = COPY(S, A(MAP_RO) | A(WON)),
        [DSM__COPY_GONE] = COPY(X, A(POISON)),
        [DSM__COPY_RECALL] = COPY(IS, A(RETURN)),
        [DSM__COPY_HOME_DOWN] = COPY(X, A(POISON)),
    },
    [DSM__COPY_IM] = {
        [DSM__COPY_READ] = COPY(IM, 0),
        [DSM__COPY_WRITE] = COPY(IM, 0),
        [DSM__COPY_DATA_M] = COPY(M, A(MAP_RW) | A(DONE) | A(WON)),
        [DSM__COPY_FILL] = COPY(SM, 0),
        [DSM__COPY_GONE] = COPY(X, A(POISON)),
        [DSM__COPY_RECALL] = COPY(IM, A(RETURN)),
        [DSM__COPY_HOME_DOWN] = COPY(X, A(POISON)),
    },
    [DSM__COPY_SM] = {
        [DSM__COPY_READ] = COPY(SM, A(MAP_RO)),
        [DSM__COPY_WRITE] = COPY(SM, 0),
        [DSM__COPY_GRANT] = COPY(M, A(ALLOW) | A(WON)),
        [DSM__COPY_INV] = COPY(IM, A(ZAP) | A(ACK)),
        [DSM__COPY_FWD_READ] = COPY(SM, A(DATA_S)),
        [DSM__COPY_FWD_WRITE] = COPY(IM, A(ZAP) | A(DATA_M)),
        [DSM__COPY_RECALL] = COPY(SM, A(RETURN)),
        [DSM__COPY_HOME_DOWN] = COPY(X, A(ZAP) | A(POISON)),
    },
    [DSM__COPY_IP] = {
        [DSM__COPY_READ] = COPY(IPF, 0),
        [DSM__COPY_WRITE] = COPY(IPF, 0),
        [DSM__COPY_DATA_S] = COPY(S, A(MAP_RO)),
        [DSM__COPY_DECLINE] = COPY(I, 0),
        [DSM__COPY_RECALL] = COPY(IP, A(RETURN)),
        [DSM__COPY_HOME_DOWN] = COPY(X, 0),
    },
    [DSM__COPY_IPF] = {
        [DSM__COPY_READ] = COPY(IPF, 0),
        [DSM__COPY_WRITE] = COPY(IPF, 0),
        [DSM__COPY_DATA_S] = COPY(S, A(MAP_RO) | A(WON)),
        [DSM__COPY_DECLINE] = COPY(IS, A(READ)),
        [DSM__COPY_RECALL] = COPY(IPF, A(RETURN)),
        [DSM__COPY_HOME_DOWN] = COPY(X, A(POISON)),
    },
    [DSM__COPY_X] = {
        [DSM__COPY_READ] = COPY(X, A(POISON)),
        [DSM__COPY_WRITE] = COPY(X, A(POISON)),
        [DSM__COPY_HOME_DOWN] = COPY(X, 0),
    },
};
#undef A

#define DIR(next, actions) RULE(DSM__DIR_, next, actions)
#define A(action) DSM__DIR_A_##action

const struct dsm__dir_rule
    dsm__dir_rules[DSM__NR_DIRS][DSM__NR_DIR_EVENTS] = {
    [DSM__DIR_RUN] = {
        [DSM__DIR_PAGE_LOST] = DIR(END, A(GONE)),
        [DSM__DIR_AT_HOME] = DIR(RUN, A(FILL)),
        [DSM__DIR_ELSEWHERE] = DIR(REC, A(RECALL)),
        [DSM__DIR_NOWHERE] = DIR(RUN, A(LOSE)),
        [DSM__DIR_ABANDONED] = DIR(END, 0),
        [DSM__DIR_SOLE] = DIR(END, A(GRANT)),
        [DSM__DIR_SHARED] = DIR(INV, A(INV)),
        [DSM__DIR_REACHABLE] = DIR(FWD, A(FWD)),
        [DSM__DIR_CUT_OFF] = DIR(REC, A(RECALL)),
    },
    [DSM__DIR_INV] = {
        [DSM__DIR_ACK] = DIR(INV, 0),
        [DSM__DIR_LAST_ACK] = DIR(RUN, 0),
    },
    [DSM__DIR_FWD] = {
        [DSM__DIR_DONE] = DIR(END, A(GIVEN)),
        [DSM__DIR_REFUSED] = DIR(RUN, A(DROP)),
        [DSM__DIR_NO_SOURCE] = DIR(RUN, 0),
        [DSM__DIR_NO_READER] = DIR(RUN, A(CANCEL)),
        [DSM__DIR_NO_WRITER] = DIR(RUN, A(LOSE)),
    },
    [DSM__DIR_REC] = {
        [DSM__DIR_RETURNED] = DIR(RUN, A(FILL)),
        [DSM__DIR_NO_SOURCE] = DIR(RUN, 0),
    },
};
#undef A

const char *const dsm__copy_names[] = {
    "I", "S", "M", "IS", "IM", "SM", "IP", "IPF", "X",
};
const char *const dsm__copy_event_names[] = {
    "READ", "WRITE", "AHEAD", "DATA_S", "DATA_M", "GRANT", "FILL", "DECLINE",
    "GONE", "INV", "FWD_READ", "FWD_WRITE", "RECALL", "HOME_DOWN",
};
const char *const dsm__copy_action_names[] = {
    "protect", "zap", "poison", "map_ro", "map_rw", "allow", "+READ", "+WRITE",
    "+DATA_S", "+DATA_M", "+RETURN", "+ACK", "+DONE", "won",
};
const char *const dsm__dir_names[] = { "RUN", "INV", "FWD", "REC", "END" };
const char *const dsm__dir_event_names[] = {
    "PAGE_LOST", "AT_HOME", "ELSEWHERE", "NOWHERE", "ABANDONED", "SOLE",
    "SHARED", "REACHABLE", "CUT_OFF", "ACK", "LAST_ACK", "DONE",
    "REFUSED", "RETURNED", "NO_SOURCE", "NO_READER", "NO_WRITER",
};
const char *const dsm__dir_action_names[] = {
    "lose", "fill", "drop", "given", "+GRANT", "+GONE", "+INV", "+FWD",
    "+RECALL", "cancel",
};

/* Sending */

static uint64_t bit(uint16_t node)
{
    return UINT64_C(1) << node;
}

static uint16_t lowest(uint64_t nodes)
{
    return __builtin_ctzll(nodes);
}

static bool is_home(const struct dsm__coh_region *r)
{
    return r->self == r->home;
}

/* To itself a node says things later, but before anybody else does. */
static void say_to_self(struct dsm__coh_region *r, uint16_t from,
                        enum dsm__coh_type type, uint64_t page, uint16_t node)
{
    assert(r->nr_self < DSM__COH_SELF_MESSAGES);
    r->self_from[r->nr_self] = from;
    r->self_messages[r->nr_self++] = (struct dsm__coh_msg) {
        .type = type,
        .node = node,
        .page = page,
    };
}

static void say(struct dsm__coh_region *r, uint16_t to,
                enum dsm__coh_type type, uint64_t page, uint16_t node)
{
    struct dsm__coh_msg msg = { .type = type, .node = node, .page = page };

    if (to == r->self) {
        say_to_self(r, r->self, type, page, node);
    } else if (!(r->down & bit(to))) {
        r->ops->send(r->ctx, to, &msg);
    }
}

/* Copies */

static bool copy_waits(enum dsm__copy copy)
{
    return copy == DSM__COPY_IS || copy == DSM__COPY_IM ||
           copy == DSM__COPY_SM || copy == DSM__COPY_IPF;
}

static void set_copy(struct dsm__coh_region *r, uint64_t page,
                     enum dsm__copy copy)
{
    enum dsm__copy old = dsm__coh_copy(r, page);

    r->nr_waiting += copy_waits(copy) - copy_waits(old);
    r->nr_in[old]--;
    r->nr_in[copy]++;
    r->pages[page].copy = copy ^ (is_home(r) ? DSM__COPY_M : DSM__COPY_I);
}

static unsigned int copy_held(const struct dsm__coh_page *p)
{
    return p->flags & DSM__COH_HELD_MASK;
}

static bool copy_must_hold(const struct dsm__coh_region *r, uint64_t page,
                           enum dsm__copy_event event)
{
    enum dsm__copy copy = dsm__coh_copy(r, page);

    return event >= DSM__COPY_INV && event <= DSM__COPY_FWD_WRITE &&
           (copy == DSM__COPY_S || copy == DSM__COPY_M) &&
           r->ops->held(r->ctx, page);
}

/* @from: who sent data; @node: the requester that a FWD names. */
static void copy_apply(struct dsm__coh_region *r, uint64_t page,
                       enum dsm__copy_event event, uint16_t from,
                       uint16_t node)
{
    const struct dsm__copy_rule *rule =
        &dsm__copy_rules[dsm__coh_copy(r, page)][event];
    uint16_t a = rule->actions;

    assert(rule->defined);
    DSM__COH_USED(copy, dsm__coh_copy(r, page), event);
    set_copy(r, page, rule->next);
    for (int op = 0; op < DSM__NR_MEM; op++) {
        if (a & (1 << op)) {
            r->ops->memory(r->ctx, page, op);
        }
    }
    if (a & DSM__COPY_A_READ) {
        say(r, r->home, DSM__COH_READ, page, 0);
    }
    if (a & DSM__COPY_A_WRITE) {
        say(r, r->home, DSM__COH_WRITE, page, 0);
    }
    if (a & (DSM__COPY_A_DATA_S | DSM__COPY_A_DATA_M)) {
        say(r, node, a & DSM__COPY_A_DATA_S ? DSM__COH_DATA_S : DSM__COH_DATA_M,
            page, 0);
        /*
         * From here the requester can only hear of later requests after it
         * has the data: so that is as good as done.
         */
        if (is_home(r)) {
            say_to_self(r, node, DSM__COH_DONE, page, 0);
        }
    }
    if (a & DSM__COPY_A_RETURN) {
        say(r, r->home, DSM__COH_RETURN, page, 0);
    }
    if (a & DSM__COPY_A_ACK) {
        say(r, r->home, DSM__COH_ACK, page, 0);
    }
    if ((a & DSM__COPY_A_DONE) && from != r->home) {
        say(r, r->home, DSM__COH_DONE, page, 0);
    }
    if (a & DSM__COPY_A_WON) {
        r->ops->won(r->ctx, page);
    }
    if (event == DSM__COPY_GONE && !is_home(r)) {
        r->ops->lost(r->ctx, page);
    }
}

_Static_assert((int)DSM__COPY_A_PROTECT == 1 << DSM__MEM_PROTECT &&
               (int)DSM__COPY_A_ZAP == 1 << DSM__MEM_ZAP &&
               (int)DSM__COPY_A_POISON == 1 << DSM__MEM_POISON &&
               (int)DSM__COPY_A_MAP_RO == 1 << DSM__MEM_MAP_RO &&
               (int)DSM__COPY_A_MAP_RW == 1 << DSM__MEM_MAP_RW &&
               (int)DSM__COPY_A_ALLOW == 1 << DSM__MEM_ALLOW, "");

static void copy_release(struct dsm__coh_region *r, uint64_t page)
{
    struct dsm__coh_page *p = &r->pages[page];
    enum dsm__copy_event event = copy_held(p) + DSM__COPY_INV - 1;
    uint16_t node = is_home(r) ? r->requests[p->request].from : p->request;

    p->flags &= ~DSM__COH_HELD_MASK;
    copy_apply(r, page, event, r->home, node);
}

/* Return: false: the rules have no such thing. */
static bool copy_event(struct dsm__coh_region *r, uint64_t page,
                       enum dsm__copy_event event, uint16_t from,
                       uint16_t node)
{
    struct dsm__coh_page *p = &r->pages[page];

    /* The home does not wait for what is held back: its requester is down. */
    if (copy_held(p) && event >= DSM__COPY_INV &&
        event <= DSM__COPY_RECALL) {
        copy_release(r, page);
    }
    if (!dsm__copy_rules[dsm__coh_copy(r, page)][event].defined) {
        return false;
    }
    if (copy_must_hold(r, page, event)) {
        p->flags |= event - DSM__COPY_INV + 1;
        if (!is_home(r)) {
            p->request = node;
        }
        r->ops->hold(r->ctx, page);
        return true;
    }
    copy_apply(r, page, event, from, node);
    return true;
}

/* The directory */

uint64_t dsm__coh_copies(const struct dsm__coh_region *r, uint64_t page)
{
    enum dsm__copy own = dsm__coh_copy(r, page);
    bool have = own == DSM__COPY_S || own == DSM__COPY_M ||
                own == DSM__COPY_SM;

    return r->pages[page].others | (have ? bit(r->home) : 0);
}

static struct dsm__coh_request *dir_active(struct dsm__coh_region *r,
                                           uint64_t page)
{
    uint16_t index = r->pages[page].request;

    return index ? &r->requests[index] : NULL;
}

/*
 * Which of @nodes cannot give @to a page? Both ends have a say in that: the
 * home sends nobody where it is not known that data arrives.
 */
static uint64_t dir_cut_off(const struct dsm__coh_region *r, uint16_t to,
                            uint64_t nodes)
{
    uint64_t cut = r->broken[to] & nodes;

    for (uint64_t left = nodes & ~cut; left; left &= left - 1) {
        if (r->broken[lowest(left)] & bit(to)) {
            cut |= bit(lowest(left));
        }
    }
    return cut;
}

/* Who gives the page: itself, else the home, else whom it can hear. */
static uint16_t dir_source(const struct dsm__coh_region *r,
                           const struct dsm__coh_request *q, uint64_t copies)
{
    uint64_t near;

    if (copies & bit(q->from)) {
        return q->from;
    }
    if (copies & bit(r->home)) {
        return r->home;
    }
    near = copies & ~dir_cut_off(r, q->from, copies);
    return lowest(near ? near : copies);
}

/* What does the request find? Chooses the source on the way. */
static enum dsm__dir_event dir_look(struct dsm__coh_region *r,
                                    struct dsm__coh_request *q)
{
    uint64_t copies = dsm__coh_copies(r, q->page);

    if (!q->begun) {
        q->begun = true;
        q->had = copies;
    }
    if (r->pages[q->page].flags & DSM__COH_PAGE_LOST) {
        return DSM__DIR_PAGE_LOST;
    }
    if (!copies) {
        if (q->had & bit(r->home)) {
            return DSM__DIR_AT_HOME;
        }
        if (q->had) {
            q->source = lowest(q->had);
            return DSM__DIR_ELSEWHERE;
        }
        return DSM__DIR_NOWHERE;
    }
    if (r->down & bit(q->from)) {
        return DSM__DIR_ABANDONED;
    }
    if (!q->write && (copies & bit(q->from))) {
        r->ops->violation(r->ctx, q->from, "it asks for what it has");
        return DSM__DIR_ABANDONED;
    }
    if (q->write && copies == bit(q->from)) {
        return DSM__DIR_SOLE;
    }
    q->source = dir_source(r, q, copies);
    if (q->write && (copies & ~bit(q->source))) {
        return DSM__DIR_SHARED;
    }
    return dir_cut_off(r, q->from, bit(q->source)) ? DSM__DIR_CUT_OFF
                                                   : DSM__DIR_REACHABLE;
}

static void dir_lose(struct dsm__coh_region *r, uint64_t page)
{
    r->pages[page].flags |= DSM__COH_PAGE_LOST;
    r->pages[page].others = 0;
    r->ops->lost(r->ctx, page);
}

static void dir_send_inv(struct dsm__coh_region *r, struct dsm__coh_request *q)
{
    uint64_t left = dsm__coh_copies(r, q->page) & ~bit(q->source);

    q->acks = left;
    for (; left; left &= left - 1) {
        say(r, lowest(left), DSM__COH_INV, q->page, 0);
    }
}

static void dir_free(struct dsm__coh_region *r, uint16_t index)
{
    r->nr_of[r->requests[index].from]--;
    r->requests[index].next = r->free_request;
    r->requests[index].begun = false;
    r->free_request = index;
}

/* A request of @node that waits behind others is void. */
static void dir_forget(struct dsm__coh_region *r, uint64_t page, uint16_t node)
{
    uint16_t *at = &r->pages[page].request;

    while (*at) {
        struct dsm__coh_request *q = &r->requests[*at];
        uint16_t index = *at;

        if (q->from == node && !q->begun) {
            *at = q->next;
            dir_free(r, index);
        } else {
            at = &q->next;
        }
    }
}

static void dir_act(struct dsm__coh_region *r, struct dsm__coh_request *q,
                    uint16_t actions)
{
    struct dsm__coh_page *p = &r->pages[q->page];
    uint64_t requester = q->from == r->home ? 0 : bit(q->from);

    if (actions & DSM__DIR_A_LOSE) {
        dir_lose(r, q->page);
    }
    if (actions & DSM__DIR_A_FILL) {
        copy_apply(r, q->page, DSM__COPY_FILL, r->self, 0);
        if (dsm__coh_copy(r, q->page) == DSM__COPY_S) {
            dir_forget(r, q->page, r->self); /* it is what it waited for */
        }
    }
    if ((actions & DSM__DIR_A_DROP) && q->write) {
        p->others &= ~bit(q->source);
    }
    if (actions & DSM__DIR_A_GIVEN) {
        p->others = (q->write ? 0 : p->others) | requester;
    }
    if (actions & DSM__DIR_A_GRANT) {
        say(r, q->from, DSM__COH_GRANT, q->page, 0);
    }
    if (actions & DSM__DIR_A_GONE) {
        say(r, q->from, DSM__COH_GONE, q->page, 0);
    }
    if (actions & DSM__DIR_A_INV) {
        dir_send_inv(r, q);
    }
    if (actions & DSM__DIR_A_FWD) {
        say(r, q->source, q->write ? DSM__COH_FWD_WRITE : DSM__COH_FWD_READ,
            q->page, q->from);
    }
    if (actions & DSM__DIR_A_RECALL) {
        say(r, q->source, DSM__COH_RECALL, q->page, 0);
    }
    if ((actions & DSM__DIR_A_CANCEL) && q->source == r->home) {
        p->flags &= ~DSM__COH_HELD_MASK;
    }
}

/* Follow the rules until the page's request, or none, waits for a message. */
static bool dir_event(struct dsm__coh_region *r, uint64_t page,
                      enum dsm__dir_event event)
{
    struct dsm__coh_page *p = &r->pages[page];
    struct dsm__coh_request *q = dir_active(r, page);
    const struct dsm__dir_rule *rule = &dsm__dir_rules[q->state][event];

    if (!rule->defined) {
        return false;
    }
    for (;;) {
        assert(rule->defined);
        DSM__COH_USED(dir, q->state, event);
        q->state = rule->next;
        dir_act(r, q, rule->actions);
        if (q->state == DSM__DIR_END) {
            uint16_t index = p->request;

            p->request = q->next;
            dir_free(r, index);
            q = dir_active(r, page);
            if (!q) {
                return true;
            }
            /* It waited, in RUN. */
        } else if (q->state != DSM__DIR_RUN) {
            return true;
        }
        event = dir_look(r, q);
        rule = &dsm__dir_rules[DSM__DIR_RUN][event];
    }
}

static const char *dir_request(struct dsm__coh_region *r, uint16_t from,
                               uint64_t page, bool write)
{
    struct dsm__coh_page *p = &r->pages[page];
    struct dsm__coh_request *q;
    uint16_t index, *end = &p->request;

    for (; *end; end = &r->requests[*end].next) {
        if (r->requests[*end].from == from) {
            return "it asks for a page twice";
        }
    }
    index = r->free_request;
    if (r->nr_of[from] == r->peer_limit || !index) {
        return "too many requests at a time";
    }
    q = &r->requests[index];
    r->free_request = q->next;
    r->nr_of[from]++;
    *q = (struct dsm__coh_request) {
        .page = page,
        .from = from,
        .write = write,
        .state = DSM__DIR_RUN,
    };
    *end = index;
    if (p->request == index) {
        /* The first look is a step like any other. */
        enum dsm__dir_event event = dir_look(r, q);

        dir_event(r, page, event);
    }
    return NULL;
}

static const char *dir_ack(struct dsm__coh_region *r, uint16_t from,
                           uint64_t page)
{
    struct dsm__coh_request *q = dir_active(r, page);

    if (!q || q->state != DSM__DIR_INV || !(q->acks & bit(from))) {
        return "ACK without INV";
    }
    q->acks &= ~bit(from);
    r->pages[page].others &= ~bit(from);
    dir_event(r, page, q->acks ? DSM__DIR_ACK : DSM__DIR_LAST_ACK);
    return NULL;
}

/* Of what the home itself gave it says DONE itself; see copy_apply(). */
static bool dir_is_own(struct dsm__coh_region *r, uint64_t page)
{
    struct dsm__coh_request *q = dir_active(r, page);

    return q && q->state == DSM__DIR_FWD && q->source == r->home;
}

static const char *dir_done(struct dsm__coh_region *r, uint16_t from,
                            uint64_t page)
{
    struct dsm__coh_request *q = dir_active(r, page);

    if (!q || q->state != DSM__DIR_FWD || q->from != from) {
        return "DONE without a request";
    }
    dir_event(r, page, DSM__DIR_DONE);
    return NULL;
}

static const char *dir_return(struct dsm__coh_region *r, uint16_t from,
                              uint64_t page)
{
    struct dsm__coh_request *q = dir_active(r, page);

    if (!q || q->state != DSM__DIR_REC || q->source != from) {
        return "RETURN without RECALL";
    }
    dir_event(r, page, DSM__DIR_RETURNED);
    return NULL;
}

/* Messages */

static void drain_self(struct dsm__coh_region *r);

/* Return: NULL, or what is wrong with it. */
static const char *handle(struct dsm__coh_region *r, uint16_t from,
                          const struct dsm__coh_msg *msg)
{
    static const uint8_t copy_events[DSM__NR_COH] = {
        [DSM__COH_FWD_READ] = DSM__COPY_FWD_READ,
        [DSM__COH_FWD_WRITE] = DSM__COPY_FWD_WRITE,
        [DSM__COH_INV] = DSM__COPY_INV,
        [DSM__COH_RECALL] = DSM__COPY_RECALL,
        [DSM__COH_GRANT] = DSM__COPY_GRANT,
        [DSM__COH_GONE] = DSM__COPY_GONE,
        [DSM__COH_DATA_S] = DSM__COPY_DATA_S,
        [DSM__COH_DATA_M] = DSM__COPY_DATA_M,
        [DSM__COH_DECLINE] = DSM__COPY_DECLINE,
    };

    switch ((enum dsm__coh_type)msg->type) {
    case DSM__COH_READ:
        return dir_request(r, from, msg->page, false);
    case DSM__COH_WRITE:
        return dir_request(r, from, msg->page, true);
    case DSM__COH_ACK:
        return dir_ack(r, from, msg->page);
    case DSM__COH_DONE:
        return dir_done(r, from, msg->page);
    case DSM__COH_RETURN:
        return dir_return(r, from, msg->page);
    default:
        if (!copy_event(r, msg->page, copy_events[msg->type], from,
                        msg->node)) {
            return "a message that the state of the page does not allow";
        }
        return NULL;
    }
}

static void drain_self(struct dsm__coh_region *r)
{
    struct dsm__coh_msg msg;
    const char *why;
    uint16_t from;

    while (r->nr_self > 0) {
        msg = r->self_messages[0];
        from = r->self_from[0];
        r->nr_self--;
        for (unsigned int i = 0; i < r->nr_self; i++) {
            r->self_messages[i] = r->self_messages[i + 1];
            r->self_from[i] = r->self_from[i + 1];
        }
        why = handle(r, from, &msg);
        assert(!why);
        (void)why;
    }
}

enum dsm__coh_data dsm__coh_data(const struct dsm__coh_region *r,
                                 uint16_t from,
                                 const struct dsm__coh_msg *msg)
{
    enum dsm__copy copy = dsm__coh_copy(r, msg->page);
    const struct dsm__coh_request *q;

    if (msg->type == DSM__COH_RETURN) {
        if (!is_home(r)) {
            return DSM__COH_DATA_ERROR;
        }
        q = &r->requests[r->pages[msg->page].request];
        return r->pages[msg->page].request && q->state == DSM__DIR_REC &&
                       q->source == from
                   ? DSM__COH_DATA_TAKE
                   : DSM__COH_DATA_ERROR;
    }
    if (r->dead || (r->refused & bit(from))) {
        return DSM__COH_DATA_SKIP;
    }
    if ((msg->type == DSM__COH_DATA_S && copy == DSM__COPY_IS) ||
        (msg->type == DSM__COH_DATA_M && copy == DSM__COPY_IM) ||
        (msg->type == DSM__COH_DATA_S && from == r->home &&
         (copy == DSM__COPY_IP || copy == DSM__COPY_IPF))) {
        return DSM__COH_DATA_TAKE;
    }
    return DSM__COH_DATA_ERROR;
}

/* Who may say it to whom? */
static const char *check_message(const struct dsm__coh_region *r,
                                 uint16_t from,
                                 const struct dsm__coh_msg *msg)
{
    bool names_node = false, any = false, to_home = false;

    switch (msg->type) {
    case DSM__COH_READ:
    case DSM__COH_WRITE:
    case DSM__COH_ACK:
    case DSM__COH_DONE:
    case DSM__COH_RETURN:
        to_home = true;
        break;
    case DSM__COH_REFUSE:
    case DSM__COH_MET:
        to_home = names_node = true;
        break;
    case DSM__COH_FWD_READ:
    case DSM__COH_FWD_WRITE:
    case DSM__COH_LOST:
        names_node = true;
        break;
    case DSM__COH_DATA_S:
    case DSM__COH_DATA_M:
        any = true;
        break;
    case DSM__COH_INV:
    case DSM__COH_RECALL:
    case DSM__COH_GRANT:
    case DSM__COH_GONE:
    case DSM__COH_DECLINE:
        break;
    default:
        return "a message of an unknown type";
    }
    if (!any && r->home != (to_home ? r->self : from)) {
        return to_home ? "a message for the home of a region"
                       : "a message that only the home of a region sends";
    }
    if (names_node ? msg->node >= r->nr_nodes : msg->node != 0) {
        return "a message that names a node it cannot name";
    }
    if (names_node && (msg->node == from ? to_home : msg->node == r->self)) {
        return "a message that names a node it cannot name";
    }
    if (msg->page >= r->nr_pages) {
        return "a page behind the end of the region";
    }
    return NULL;
}

/* REFUSE: data of @node that is under way to @from will not be taken. */
static void dir_refused(struct dsm__coh_region *r, uint16_t from,
                        uint16_t node)
{
    r->broken[from] |= bit(node);
    for (uint32_t i = 1; i < r->nr_requests; i++) {
        struct dsm__coh_request *q = &r->requests[i];

        if (q->begun && q->state == DSM__DIR_FWD && q->from == from &&
            q->source == node) {
            dir_event(r, q->page, DSM__DIR_REFUSED);
            drain_self(r);
        }
    }
}

int dsm__coh_receive(struct dsm__coh_region *r, uint16_t from,
                     const struct dsm__coh_msg *msg, const char **ret_why)
{
    const char *why = check_message(r, from, msg);

    if (!why && r->dead) {
        return 0; /* what others still say about it means nothing */
    }
    if (!why && dsm__coh_has_data(msg->type)) {
        switch (dsm__coh_data(r, from, msg)) {
        case DSM__COH_DATA_SKIP:
            return 0;
        case DSM__COH_DATA_ERROR:
            why = "data that nobody asked for";
            break;
        case DSM__COH_DATA_TAKE:
            break;
        }
    }
    if (!why && msg->type == DSM__COH_DONE && dir_is_own(r, msg->page)) {
        why = "DONE for data of the home";
    }
    if (!why &&
        (msg->type == DSM__COH_REFUSE || msg->type == DSM__COH_MET)) {
        if (msg->node == r->home) {
            why = "a message that names a node it cannot name";
        } else if (msg->type == DSM__COH_MET) {
            r->broken[from] &= ~bit(msg->node);
        } else {
            dir_refused(r, from, msg->node);
        }
    } else if (!why && msg->type == DSM__COH_LOST) {
        if (msg->node == from) {
            why = "a message that names a node it cannot name";
        } else {
            r->refused |= bit(msg->node);
            say(r, r->home, DSM__COH_REFUSE, 0, msg->node);
        }
    } else if (!why) {
        why = handle(r, from, msg);
        drain_self(r);
    }
    if (why) {
        *ret_why = why;
        return -EPROTO;
    }
    return 0;
}

/* What happens here */

bool dsm__coh_fault(struct dsm__coh_region *r, uint64_t page, bool write)
{
    enum dsm__copy copy = dsm__coh_copy(r, page);
    enum dsm__copy_event event = write ? DSM__COPY_WRITE : DSM__COPY_READ;

    if (r->dead && copy == DSM__COPY_I) {
        set_copy(r, page, DSM__COPY_X);
    } else if (copy_waits(dsm__copy_rules[copy][event].next) &&
               !copy_waits(copy) && r->nr_waiting >= r->peer_limit) {
        return false;
    }
    copy_event(r, page, event, r->self, 0);
    drain_self(r);
    return true;
}

bool dsm__coh_ahead(struct dsm__coh_region *r, uint64_t page)
{
    if (is_home(r) || r->dead || dsm__coh_copy(r, page) != DSM__COPY_I) {
        return false;
    }
    return copy_event(r, page, DSM__COPY_AHEAD, r->self, 0);
}

enum dsm__coh_spare dsm__coh_spare(struct dsm__coh_region *r, uint64_t page,
                                   uint16_t to)
{
    struct dsm__coh_page *p = &r->pages[page];
    enum dsm__copy copy = dsm__coh_copy(r, page);

    if (p->request || (p->others & bit(to)) || (r->down & bit(to)) ||
        (copy != DSM__COPY_S && copy != DSM__COPY_M)) {
        return DSM__COH_KEEP;
    }
    set_copy(r, page, dsm__copy_rules[copy][DSM__COPY_FWD_READ].next);
    p->others |= bit(to);
    return copy == DSM__COPY_M ? DSM__COH_SEND_FIRST_PROTECT : DSM__COH_SEND;
}

void dsm__coh_release(struct dsm__coh_region *r, uint64_t page)
{
    if (copy_held(&r->pages[page])) {
        copy_release(r, page);
        drain_self(r);
    }
}

/* Who comes and goes */

void dsm__coh_met(struct dsm__coh_region *r, uint16_t node)
{
    if (!is_home(r) && node != r->home) {
        say(r, r->home, DSM__COH_MET, 0, node);
    }
}

static void dir_request_down(struct dsm__coh_region *r,
                             struct dsm__coh_request *q, uint16_t node)
{
    uint64_t page = q->page;

    q->had &= ~bit(node);
    switch ((enum dsm__dir)q->state) {
    case DSM__DIR_INV:
        if (q->acks & bit(node)) {
            dir_ack(r, node, page);
        }
        break;
    case DSM__DIR_FWD:
        if (q->from == node) {
            dir_event(r, page,
                      q->write && q->source != r->home ? DSM__DIR_NO_WRITER
                                                       : DSM__DIR_NO_READER);
        } else if (q->source == node && q->from == r->home) {
            dir_event(r, page, DSM__DIR_NO_SOURCE);
        }
        /* Another requester may have the data: it says DONE or REFUSE. */
        break;
    case DSM__DIR_REC:
        if (q->source == node) {
            dir_event(r, page, DSM__DIR_NO_SOURCE);
        }
        break;
    case DSM__DIR_RUN:
    case DSM__DIR_END:
    case DSM__NR_DIRS:
        break;
    }
}

static void home_down(struct dsm__coh_region *r)
{
    r->dead = true;
    for (uint64_t page = 0; page < r->nr_pages; page++) {
        r->pages[page].flags &= ~DSM__COH_HELD_MASK;
        /* Who has none learns of it when it asks. */
        if (dsm__coh_copy(r, page) != DSM__COPY_I) {
            copy_apply(r, page, DSM__COPY_HOME_DOWN, r->self, 0);
        }
    }
}

void dsm__coh_down(struct dsm__coh_region *r, uint16_t node)
{
    r->down |= bit(node);
    if (!is_home(r)) {
        if (node == r->home) {
            home_down(r);
        } else {
            r->refused |= bit(node);
            say(r, r->home, DSM__COH_REFUSE, 0, node);
        }
        return;
    }
    for (uint64_t page = 0; page < r->nr_pages; page++) {
        struct dsm__coh_page *p = &r->pages[page];

        if (p->request) {
            dir_forget(r, page, node);
        }
        if (p->others & bit(node)) {
            p->others &= ~bit(node);
            if (!p->request && !dsm__coh_copies(r, page)) {
                dir_lose(r, page);
            }
        }
    }
    for (uint32_t i = 1; i < r->nr_requests; i++) {
        if (r->requests[i].begun) {
            dir_request_down(r, &r->requests[i], node);
            drain_self(r);
        }
    }
    for (uint16_t to = 0; to < r->nr_nodes; to++) {
        if (to != r->self) {
            say(r, to, DSM__COH_LOST, 0, node);
        }
    }
}

uint32_t dsm__coh_requests(uint16_t nr_nodes, uint16_t peer_limit)
{
    uint32_t nr = (uint32_t)nr_nodes * peer_limit + 1;

    return nr <= UINT16_MAX ? nr : 0;
}

void dsm__coh_init(struct dsm__coh_region *r)
{
    r->down = 0;
    r->refused = 0;
    r->dead = false;
    r->nr_waiting = 0;
    r->nr_self = 0;
    r->free_request = 0;
    for (int i = 0; i < DSM_MAX_NODES; i++) {
        r->broken[i] = i == r->home ? 0 : ~(bit(r->home) | bit(i));
        r->nr_of[i] = 0;
    }
    for (int i = 0; i < DSM__NR_COPIES; i++) {
        r->nr_in[i] = 0;
    }
    r->nr_in[is_home(r) ? DSM__COPY_M : DSM__COPY_I] = r->nr_pages;
    if (is_home(r)) {
        r->nr_requests = dsm__coh_requests(r->nr_nodes, r->peer_limit);
        for (uint32_t i = r->nr_requests - 1; i > 0; i--) {
            r->requests[i] = (struct dsm__coh_request) {
                .next = r->free_request,
            };
            r->free_request = i;
        }
    }
}
