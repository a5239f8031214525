/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * All states that small machines with shared memory can reach: src/rights.c
 * itself, every order of accesses and deliveries, what is put off, and a node
 * that is lost at any moment. In every state who writes and who executes are
 * not two nodes; from every state, without new accesses, the machine comes to
 * rest, and then nobody waits and the home knows who holds what.
 *
 *   test-rights [deep]
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void note_used(const char *table, int state, int event);
#define DSM__RIGHTS_USED(table, state, event) note_used(#table, state, event)
#include "../src/rights.c"

#define NODES 3
#define PAGES 2
#define QUEUE 12

struct packed {
    uint8_t type, right, page, before, after;
};

/* All of a machine, to be compared byte by byte. */
struct state {
    uint8_t claims[NODES][PAGES];
    struct {
        uint8_t has[DSM__NR_RIGHTS], asks[DSM__NR_RIGHTS];
        uint8_t awaited, by, right, turn;
    } dir[PAGES];
    uint8_t asked[NODES], asks_of[NODES], down[NODES], home_down[NODES];
    uint8_t held[NODES];  /* pages of which a STOP was put off */
    uint8_t executed;     /* pages that the home has executed */
    uint8_t dead;         /* a node; NODES: none */
    uint8_t queued[NODES][NODES];
    struct packed queue[NODES][NODES][QUEUE];
};

static int nr_nodes, nr_pages;
static bool may_die;
static struct state now;
static struct dsm__rights node[NODES];
static struct dsm__rights_page dir[PAGES];
static bool put_off; /* whether hold() says yes in this step */
static bool used_claim[DSM__NR_CLAIMS][DSM__NR_CLAIM_EVENTS];
static bool used_turn[DSM__NR_TURNS][DSM__NR_TURN_EVENTS];

#define REQUIRE(condition)                                                  \
    do {                                                                    \
        if (!(condition)) {                                                 \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__,      \
                    #condition);                                            \
            show();                                                         \
            exit(1);                                                        \
        }                                                                   \
    } while (0)

static void show(void)
{
    for (int p = 0; p < nr_pages; p++) {
        fprintf(stderr, "page %d: write %#x exec %#x turn %s of %u for %s\n", p,
                (unsigned int)dir_has(&node[0], p, DSM__RIGHT_WRITE),
                (unsigned int)dir_has(&node[0], p, DSM__RIGHT_EXEC),
                dsm__turn_names[dir[p].turn], dir[p].by,
                dir[p].right ? "exec" : "write");
        for (int n = 0; n < nr_nodes; n++) {
            fprintf(stderr, "  node %d: write %s exec %s\n", n,
                    dsm__claim_names[dsm__rights_claim(&node[n], p, 0)],
                    dsm__claim_names[dsm__rights_claim(&node[n], p, 1)]);
        }
    }
}

static void note_used(const char *table, int state, int event)
{
    if (table[0] == 'c') {
        used_claim[state][event] = true;
    } else {
        used_turn[state][event] = true;
    }
}

static int self_of(void *ctx)
{
    return (int)((struct dsm__rights *)ctx - node);
}

static void on_send(void *ctx, uint16_t to, const struct dsm__rights_msg *msg)
{
    int from = self_of(ctx);
    uint8_t *nr = &now.queued[from][to];

    REQUIRE(to != from);
    if (node[from].down & bit(to)) {
        return;
    }
    REQUIRE(*nr < QUEUE);
    now.queue[from][to][(*nr)++] = (struct packed) {
        msg->type, msg->right, (uint8_t)msg->page, (uint8_t)msg->before,
        (uint8_t)msg->after,
    };
}

static void on_allow(void *ctx, uint64_t page, enum dsm__right right)
{
}

static void on_forbid(void *ctx, uint64_t page, enum dsm__right right)
{
    if (self_of(ctx) == 0 && right == DSM__RIGHT_EXEC) {
        now.executed &= (uint8_t)~(1u << page);
    }
}

static bool on_executed(void *ctx, uint64_t page)
{
    return now.executed >> page & 1;
}

static bool on_hold(void *ctx, uint64_t page)
{
    if (put_off) {
        now.held[self_of(ctx)] |= (uint8_t)(1u << page);
    }
    return put_off;
}

static const struct dsm__rights_ops ops = {
    .send = on_send,
    .allow = on_allow,
    .forbid = on_forbid,
    .executed = on_executed,
    .hold = on_hold,
};

static void load(const struct state *s)
{
    now = *s;
    for (int p = 0; p < nr_pages; p++) {
        dir[p] = (struct dsm__rights_page) {
            .has = { s->dir[p].has[0], s->dir[p].has[1] },
            .asks = { s->dir[p].asks[0], s->dir[p].asks[1] },
            .awaited = s->dir[p].awaited,
            .by = s->dir[p].by,
            .right = s->dir[p].right,
            .turn = s->dir[p].turn,
        };
    }
    for (int n = 0; n < nr_nodes; n++) {
        node[n] = (struct dsm__rights) {
            .self = (uint16_t)n,
            .nr_nodes = (uint16_t)nr_nodes,
            .limit = 3,
            .nr_pages = (uint64_t)nr_pages,
            .ops = &ops,
            .ctx = &node[n],
            .claims = (_Atomic uint8_t *)now.claims[n],
            .pages = n == 0 ? dir : NULL,
            .asked = s->asked[n],
            .down = s->down[n],
        };
        node[n].home_down = s->home_down[n];
        node[0].asks_of[n] = s->asks_of[n];
    }
    for (int n = 0; n < nr_nodes; n++) {
        node[0].asks_of[n] = s->asks_of[n];
    }
}

static void save(struct state *s)
{
    for (int p = 0; p < nr_pages; p++) {
        for (int i = 0; i < DSM__NR_RIGHTS; i++) {
            now.dir[p].has[i] = (uint8_t)dir[p].has[i];
            now.dir[p].asks[i] = (uint8_t)dir[p].asks[i];
        }
        now.dir[p].awaited = (uint8_t)dir[p].awaited;
        now.dir[p].by = (uint8_t)dir[p].by;
        now.dir[p].right = dir[p].right;
        now.dir[p].turn = dir[p].turn;
    }
    for (int n = 0; n < nr_nodes; n++) {
        now.asked[n] = (uint8_t)node[n].asked;
        now.down[n] = (uint8_t)node[n].down;
        now.home_down[n] = node[n].home_down;
        now.asks_of[n] = (uint8_t)node[0].asks_of[n];
    }
    *s = now;
}

static void check(void)
{
    for (int p = 0; p < nr_pages; p++) {
        for (int a = 0; a < nr_nodes; a++) {
            for (int b = 0; b < nr_nodes; b++) {
                REQUIRE(a == b || a == now.dead || b == now.dead ||
                        now.dead == 0 ||
                        !dsm__rights_holds(&node[a], p, DSM__RIGHT_WRITE) ||
                        !dsm__rights_holds(&node[b], p, DSM__RIGHT_EXEC));
            }
        }
    }
}

/* Nothing is under way. */
static void check_rest(void)
{
    for (int n = 0; n < nr_nodes && now.dead != 0; n++) {
        if (n == now.dead) {
            continue;
        }
        for (int p = 0; p < nr_pages; p++) {
            for (int i = 0; i < DSM__NR_RIGHTS; i++) {
                enum dsm__claim claim = dsm__rights_claim(&node[n], p, i);

                REQUIRE(claim == DSM__CLAIM_NONE || claim == DSM__CLAIM_HELD);
                REQUIRE(!(dir_has(&node[0], p, i) & bit(n)) ==
                        (claim == DSM__CLAIM_NONE));
            }
        }
        REQUIRE(node[n].asked == 0);
        REQUIRE(node[0].asks_of[n] == 0);
    }
    for (int p = 0; p < nr_pages && now.dead != 0; p++) {
        REQUIRE(dir[p].turn == DSM__TURN_REST && !dir[p].awaited);
        REQUIRE(!dir[p].asks[0] && !dir[p].asks[1]);
    }
}

/* Steps. Return: false: this one cannot be taken. */

static bool deliver(int from, int to)
{
    struct packed m = now.queue[from][to][0];
    struct dsm__rights_msg msg = {
        .type = m.type, .right = m.right, .page = m.page,
        .before = m.before, .after = m.after,
    };
    const char *why = "";

    if (!now.queued[from][to]) {
        return false;
    }
    now.queued[from][to]--;
    memmove(&now.queue[from][to][0], &now.queue[from][to][1],
            (QUEUE - 1) * sizeof(m));
    memset(&now.queue[from][to][QUEUE - 1], 0, sizeof(m));
    if (to != now.dead && !(node[to].down & bit(from))) {
        REQUIRE(dsm__rights_receive(&node[to], from, &msg, &why) == 0);
    }
    return true;
}

static bool want(int n, int p, int right)
{
    return n != now.dead &&
           dsm__rights_claim(&node[n], p, right) == DSM__CLAIM_NONE &&
           dsm__rights_want(&node[n], p, right);
}

static bool release(int n, int p)
{
    if (n == now.dead || !(now.held[n] >> p & 1)) {
        return false;
    }
    now.held[n] &= (uint8_t)~(1u << p);
    dsm__rights_release(&node[n], p);
    return true;
}

/* The home executes what it may execute. */
static bool execute(int p)
{
    if ((now.executed >> p & 1) || now.dead == 0 ||
        !dsm__rights_holds(&node[0], p, DSM__RIGHT_EXEC)) {
        return false;
    }
    now.executed |= (uint8_t)(1u << p);
    return true;
}

static bool die(int n)
{
    if (!may_die || now.dead != nr_nodes) {
        return false;
    }
    now.dead = (uint8_t)n;
    return true;
}

/* Node @n learns of it, with or without what was still on the way. */
static bool learn(int n)
{
    int dead = now.dead;

    if (dead == nr_nodes || n == dead || (n != 0 && dead != 0) ||
        (node[n].down & bit((uint16_t)dead))) {
        return false;
    }
    now.queued[dead][n] = now.queued[n][dead] = 0;
    memset(now.queue[dead][n], 0, sizeof(now.queue[dead][n]));
    memset(now.queue[n][dead], 0, sizeof(now.queue[n][dead]));
    dsm__rights_down(&node[n], (uint16_t)dead);
    return true;
}

/* Step @i of all. Return: -1: there are no more; 0: it cannot be; 1. */
static int step(int i, bool accesses)
{
    put_off = false;
    for (int hold = 0; hold < 2; hold++) {
        for (int a = 0; a < nr_nodes; a++) {
            for (int b = 0; b < nr_nodes; b++) {
                if (i-- == 0) {
                    put_off = hold;
                    return deliver(a, b);
                }
            }
        }
    }
    for (int n = 0; n < nr_nodes; n++) {
        if (i-- == 0) {
            return learn(n);
        }
        for (int p = 0; p < nr_pages; p++) {
            if (i-- == 0) {
                return release(n, p);
            }
        }
    }
    for (int n = 0; n < nr_nodes && accesses; n++) {
        if (i-- == 0) {
            return die(n);
        }
        for (int p = 0; p < nr_pages; p++) {
            for (int right = 0; right < 2 * DSM__NR_RIGHTS; right++) {
                if (i-- == 0) {
                    put_off = right / DSM__NR_RIGHTS;
                    return want(n, p, right % DSM__NR_RIGHTS);
                }
            }
        }
    }
    for (int p = 0; p < nr_pages && accesses; p++) {
        if (i-- == 0) {
            return execute(p);
        }
    }
    return -1;
}

/* The states that were seen. */

static struct state *seen;
static size_t nr_seen, room;
static uint32_t *table; /* index + 1 */
static size_t table_size;

static uint64_t hash(const struct state *s)
{
    const uint8_t *at = (const uint8_t *)s;
    uint64_t h = UINT64_C(1469598103934665603);

    for (size_t i = 0; i < sizeof(*s); i++) {
        h = (h ^ at[i]) * UINT64_C(1099511628211);
    }
    return h ^ h >> 29;
}

static void *must(void *at)
{
    if (!at) {
        fprintf(stderr, "no memory\n");
        exit(1);
    }
    return at;
}

static void remember(const struct state *s);

static void grow(void)
{
    size_t n = nr_seen;

    room = room ? 2 * room : 1024;
    seen = must(realloc(seen, room * sizeof(*seen)));
    table_size = 4 * room;
    free(table);
    table = must(calloc(table_size, sizeof(*table)));
    nr_seen = 0;
    for (size_t i = 0; i < n; i++) {
        remember(&seen[i]);
    }
}

static void remember(const struct state *s)
{
    size_t at;

    if (nr_seen == room) {
        grow();
    }
    for (at = hash(s) % table_size; table[at]; at = (at + 1) % table_size) {
        if (memcmp(&seen[table[at] - 1], s, sizeof(*s)) == 0) {
            return;
        }
    }
    memmove(&seen[nr_seen], s, sizeof(*s));
    nr_seen++;
    table[at] = (uint32_t)nr_seen;
}

/* Without new accesses, and nothing is put off: it ends, and how. */
static void come_to_rest(const struct state *from)
{
    int moved, steps = 0;

    load(from);
    do {
        moved = 0;
        for (int i = 0, done; (done = step(i, false)) >= 0; i++) {
            moved += done;
        }
        REQUIRE(++steps < 1000);
    } while (moved);
    check();
    check_rest();
}

/* Whatever a broken node says in whatever state is taken or refused. */
static void say_anything(const struct state *from)
{
    struct dsm__rights_msg msg;
    const char *why;

    for (int i = 0; i < nr_nodes * nr_nodes * DSM__NR_RIGHTS_TYPES *
                            DSM__NR_RIGHTS * nr_pages; i++) {
        int left = i, to, by;

        to = left % nr_nodes;
        left /= nr_nodes;
        by = left % nr_nodes;
        left /= nr_nodes;
        msg.type = (uint8_t)(left % DSM__NR_RIGHTS_TYPES);
        left /= DSM__NR_RIGHTS_TYPES;
        msg.right = (uint8_t)(left % DSM__NR_RIGHTS);
        msg.page = (uint64_t)(left / DSM__NR_RIGHTS);
        msg.before = (uint32_t)i & 1;
        msg.after = (uint32_t)i >> 1 & 1;
        load(from);
        if (to == by || to == now.dead || (node[to].down & bit((uint16_t)by))) {
            continue;
        }
        why = NULL;
        put_off = false;
        REQUIRE(dsm__rights_receive(&node[to], (uint16_t)by, &msg, &why) == 0 ||
                why);
    }
}

static void explore(int nodes, int pages, bool deaths)
{
    struct state from = { 0 }, to;

    nr_nodes = nodes;
    nr_pages = pages;
    may_die = deaths;
    nr_seen = 0;
    if (table) {
        memset(table, 0, table_size * sizeof(*table));
    }
    from.dead = (uint8_t)nodes;
    remember(&from);
    for (size_t s = 0; s < nr_seen; s++) {
        from = seen[s];
        for (int i = 0;; i++) {
            int done;

            load(&from);
            done = step(i, true);
            if (done < 0) {
                break;
            }
            if (done) {
                check();
                save(&to);
                remember(&to);
            }
        }
        come_to_rest(&from);
        if (s % 8 == 0) {
            say_anything(&from);
        }
    }
    printf("%d nodes, %d pages%s: %zu states\n", nodes, pages,
           deaths ? ", one may be lost" : "", nr_seen);
    fflush(stdout);
}

static void check_used(void)
{
    for (int s = 0; s < DSM__NR_CLAIMS; s++) {
        for (int e = 0; e < DSM__NR_CLAIM_EVENTS; e++) {
            if (dsm__claim_rules[s][e].defined && !used_claim[s][e] &&
                e != DSM__CLAIM_WANT) {
                fprintf(stderr, "claim %s, %s never happened\n",
                        dsm__claim_names[s], dsm__claim_event_names[e]);
                exit(1);
            }
        }
    }
    for (int s = 0; s < DSM__NR_TURNS; s++) {
        for (int e = 0; e < DSM__NR_TURN_EVENTS; e++) {
            if (dsm__turn_rules[s][e].defined && !used_turn[s][e]) {
                fprintf(stderr, "turn %s, %s never happened\n",
                        dsm__turn_names[s], dsm__turn_event_names[e]);
                exit(1);
            }
        }
    }
}

int main(int argc, char **argv)
{
    bool deep = argc > 1 && strcmp(argv[1], "deep") == 0;

    explore(2, 1, true);
    explore(3, 1, true);
    explore(2, 2, deep);
    check_used();
    free(seen);
    free(table);
    return 0;
}
