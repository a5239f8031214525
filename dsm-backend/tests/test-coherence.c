/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * All interleavings of a small machine under the page protocol: every state
 * that can be reached is reached, by breadth, and checked.
 *
 * A world is some nodes with one region (node 0 is its home), links that keep
 * the order of their messages, one thread a node that reads and writes as it
 * likes, links that break, copies that are kept for a while. What is checked:
 *
 *  - where a node can write, no other can access;
 *  - what can be read is what was written last;
 *  - what a message carries does not change while it is under way;
 *  - without new faults everything comes to rest, and then no thread waits;
 *  - nobody is taken for a breaker of the protocol;
 *  - a page is lost only after a link was.
 *
 * After "deep" every rule of both tables was used, or the test fails: a rule
 * that cannot be reached is a mistake, too.
 *
 * Usage: test-coherence [deep | NODES PAGES CUTS WITH]
 * WITH: 1 copies are kept for a while, 2 pages are asked for ahead of use,
 * 4 faults are seen when they are over already; or a sum of these.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coherence.h"

/* Rules that were used, over all runs; the code under test says which. */
static bool used_copy[DSM__NR_COPIES][DSM__NR_COPY_EVENTS];
static bool used_dir[DSM__NR_DIRS][DSM__NR_DIR_EVENTS];
#define DSM__COH_USED(table, state, event) (used_##table[state][event] = true)
#include "coherence.c"

#define MAX_N 3
#define MAX_P 2
#define PEER_LIMIT 2
#define MAX_REQUESTS (MAX_N * PEER_LIMIT + 1)
#define MAX_CHANNEL 24
#define MAX_BYTES 1024
#define HOME 0
#define AHEAD_REQUEST 30 /* stands for the range that the wire has */

enum access { NONE, RO, RW, SIGBUS };
enum thread { IDLE, WAITS_READ, WAITS_WRITE };

struct flight {
    struct dsm__coh_msg msg;
    bool current;
};

struct channel {
    struct flight flight[MAX_CHANNEL];
    int nr;
};

struct world {
    struct dsm__coh_region region[MAX_N];
    struct dsm__coh_page pages[MAX_N][MAX_P];
    struct dsm__coh_request requests[MAX_REQUESTS];
    struct channel channel[MAX_N][MAX_N];
    uint8_t access[MAX_N][MAX_P];
    bool current[MAX_N][MAX_P]; /* the alias has what was written last */
    bool kept[MAX_N][MAX_P];    /* too recent to be given away */
    uint8_t thread[MAX_N], thread_page[MAX_N];
    bool cut[MAX_N][MAX_N];  /* the link is broken */
    bool down[MAX_N][MAX_N]; /* and this end has noticed */
    int cuts;
};

static int nr_nodes, nr_pages, max_cuts;
static bool with_hold, with_ahead, with_late;
static struct world w;
static const char *what = "the beginning";

static const char *const msg_names[] = {
    "?", "READ", "WRITE", "FWD_READ", "FWD_WRITE", "INV", "RECALL", "GRANT",
    "GONE", "ACK", "DONE", "DATA_S", "DATA_M", "RETURN", "DECLINE", "LOST",
    "REFUSE", [DSM__COH_MET] = "MET",
};

static void dump(void)
{
    for (int n = 0; n < nr_nodes; n++) {
        printf("node %d: thread %d page %d, down %llx refused %llx%s\n", n,
               w.thread[n], w.thread_page[n],
               (unsigned long long)w.region[n].down,
               (unsigned long long)w.region[n].refused,
               w.region[n].dead ? " dead" : "");
        for (int p = 0; p < nr_pages; p++) {
            printf("  page %d: %s access %d current %d kept %d others %llx "
                   "flags %x\n", p,
                   dsm__copy_names[dsm__coh_copy(&w.region[n], p)],
                   w.access[n][p], w.current[n][p], w.kept[n][p],
                   (unsigned long long)w.pages[n][p].others,
                   w.pages[n][p].flags);
        }
        for (int to = 0; to < nr_nodes; to++) {
            for (int i = 0; i < w.channel[n][to].nr; i++) {
                struct flight *f = &w.channel[n][to].flight[i];

                printf("  to %d: %s page %llu node %u current %d\n", to,
                       f->msg.type == AHEAD_REQUEST ? "AHEAD"
                                                    : msg_names[f->msg.type],
                       (unsigned long long)f->msg.page, f->msg.node,
                       f->current);
            }
        }
    }
    for (int p = 0; p < nr_pages; p++) {
        for (int i = w.pages[HOME][p].request; i; i = w.requests[i].next) {
            printf("page %d: request of %d %s in %s, source %d acks %llx had "
                   "%llx\n", p, w.requests[i].from,
                   w.requests[i].write ? "write" : "read",
                   dsm__dir_names[w.requests[i].state], w.requests[i].source,
                   (unsigned long long)w.requests[i].acks,
                   (unsigned long long)w.requests[i].had);
        }
    }
}

static void require(bool good, const char *claim)
{
    if (!good) {
        printf("%d nodes, %d pages, %d cuts: after %s: not so: %s\n", nr_nodes,
               nr_pages, max_cuts, what, claim);
        dump();
        exit(1);
    }
}

static bool reaches_home(int node)
{
    return !w.cut[HOME][node];
}

/* The alias of a page is about to change. */
static void check_alias_free(int node, int page)
{
    for (int to = 0; to < nr_nodes; to++) {
        const struct channel *c = &w.channel[node][to];

        for (int i = 0; i < c->nr && !w.cut[node][to]; i++) {
            require(c->flight[i].msg.page != (uint64_t)page ||
                      !dsm__coh_has_data(c->flight[i].msg.type) ||
                      (w.region[to].refused & (1 << node)) ||
                      !reaches_home(to) || !reaches_home(node),
                  "what is under way does not change");
        }
    }
}

/* The world as the protocol sees it */

static int node_of(void *ctx)
{
    return (struct dsm__coh_region *)ctx - w.region;
}

static void put(int from, int to, struct dsm__coh_msg msg)
{
    struct channel *c = &w.channel[from][to];

    if (w.cut[from][to]) {
        return;
    }
    require(c->nr < MAX_CHANNEL, "a link holds what there is to say");
    c->flight[c->nr++] = (struct flight) {
        .msg = msg,
        .current = dsm__coh_has_data(msg.type) && w.current[from][msg.page],
    };
}

static void op_send(void *ctx, uint16_t to, const struct dsm__coh_msg *msg)
{
    put(node_of(ctx), to, *msg);
}

static void op_memory(void *ctx, uint64_t page, enum dsm__mem op)
{
    int node = node_of(ctx);
    uint8_t *access = &w.access[node][page];

    switch (op) {
    case DSM__MEM_PROTECT:
        *access = *access == RW ? RO : *access;
        return;
    case DSM__MEM_ZAP:
        *access = NONE;
        return;
    case DSM__MEM_POISON:
        *access = SIGBUS;
        break;
    case DSM__MEM_MAP_RO:
        *access = RO;
        break;
    case DSM__MEM_MAP_RW:
    case DSM__MEM_ALLOW:
        *access = RW;
        break;
    case DSM__NR_MEM:
        break;
    }
    if (w.thread[node] && w.thread_page[node] == page) {
        w.thread[node] = IDLE;
        w.thread_page[node] = 0;
    }
}

static bool op_held(void *ctx, uint64_t page)
{
    return w.kept[node_of(ctx)][page];
}

static void op_hold(void *ctx, uint64_t page)
{
}

static void op_won(void *ctx, uint64_t page)
{
    w.kept[node_of(ctx)][page] = with_hold;
}

static void op_lost(void *ctx, uint64_t page)
{
    require(w.cuts > 0, "a page is lost only after a link was");
}

static void op_violation(void *ctx, uint16_t node, const char *why)
{
    require(false, why);
}

static const struct dsm__coh_ops ops = {
    .send = op_send,
    .memory = op_memory,
    .held = op_held,
    .hold = op_hold,
    .won = op_won,
    .lost = op_lost,
    .violation = op_violation,
};

static void begin(void)
{
    memset(&w, 0, sizeof(w));
    for (int n = 0; n < nr_nodes; n++) {
        w.region[n] = (struct dsm__coh_region) {
            .self = n,
            .home = HOME,
            .nr_nodes = nr_nodes,
            .peer_limit = PEER_LIMIT,
            .nr_pages = nr_pages,
            .pages = w.pages[n],
            .requests = w.requests,
            .ops = &ops,
            .ctx = &w.region[n],
        };
        dsm__coh_init(&w.region[n]);
    }
    /* That they have met each other is under way to the home. */
    for (int n = 0; n < nr_nodes; n++) {
        for (int k = 0; k < nr_nodes; k++) {
            if (k != n) {
                dsm__coh_met(&w.region[n], k);
            }
        }
    }
    for (int p = 0; p < nr_pages; p++) {
        w.access[HOME][p] = RW;
        w.current[HOME][p] = true;
    }
}

/*
 * A world as bytes, the same bytes for the same world: the places in the pool
 * of requests do not count.
 */
static uint8_t *at;
static bool storing;

static void byte(void *value, size_t bytes)
{
    if (storing) {
        memcpy(at, value, bytes);
    } else {
        memcpy(value, at, bytes);
    }
    at += bytes;
}
#define BYTES(x) byte(&(x), sizeof(x))

static void small(uint64_t *value)
{
    uint8_t b = *value;

    BYTES(b);
    *value = b;
}

static void pack_request(struct dsm__coh_request *q)
{
    small(&q->acks);
    small(&q->had);
    BYTES(q->from);
    BYTES(q->source);
    BYTES(q->state);
    BYTES(q->write);
    BYTES(q->begun);
}

static void pack_requests(int page)
{
    struct dsm__coh_region *r = &w.region[HOME];
    uint16_t *link = &w.pages[HOME][page].request;
    uint8_t nr = 0;

    if (storing) {
        for (int i = *link; i; i = w.requests[i].next) {
            nr++;
        }
        BYTES(nr);
        for (int i = *link; i; i = w.requests[i].next) {
            pack_request(&w.requests[i]);
        }
        return;
    }
    BYTES(nr);
    while (nr--) {
        uint16_t index = r->free_request;

        r->free_request = w.requests[index].next;
        pack_request(&w.requests[index]);
        w.requests[index].page = page;
        w.requests[index].next = 0;
        r->nr_of[w.requests[index].from]++;
        *link = index;
        link = &w.requests[index].next;
    }
}

static void pack_channel(struct channel *c)
{
    uint8_t nr = c->nr;

    BYTES(nr);
    c->nr = nr;
    for (int i = 0; i < nr; i++) {
        uint8_t node = c->flight[i].msg.node;

        BYTES(c->flight[i].msg.type);
        BYTES(node);
        c->flight[i].msg.node = node;
        small(&c->flight[i].msg.page);
        BYTES(c->flight[i].current);
    }
}

static void pack_world(void)
{
    for (int n = 0; n < nr_nodes; n++) {
        struct dsm__coh_region *r = &w.region[n];

        small(&r->down);
        small(&r->refused);
        BYTES(r->dead);
        BYTES(w.thread[n]);
        BYTES(w.thread_page[n]);
        for (int k = 0; k < nr_nodes; k++) {
            small(&r->broken[k]);
            BYTES(w.cut[n][k]);
            BYTES(w.down[n][k]);
            pack_channel(&w.channel[n][k]);
        }
        for (int p = 0; p < nr_pages; p++) {
            struct dsm__coh_page *page = &w.pages[n][p];
            uint8_t node = page->request;

            small(&page->others);
            BYTES(page->copy);
            BYTES(page->flags);
            BYTES(w.access[n][p]);
            BYTES(w.current[n][p]);
            BYTES(w.kept[n][p]);
            if (n == HOME) {
                pack_requests(p);
            } else {
                node = page->flags & DSM__COH_HELD_MASK ? node : 0;
                BYTES(node);
                page->request = node;
            }
        }
        BYTES(r->nr_waiting);
    }
    BYTES(w.cuts);
}

static size_t store(uint8_t *buf)
{
    at = buf;
    storing = true;
    pack_world();
    return at - buf;
}

static void load(uint8_t *buf)
{
    begin();
    at = buf;
    storing = false;
    pack_world();
}

/* What can happen. Numbers from 0; false: there is no such number. */

static void access_page(int n, int p, bool write)
{
    if (w.access[n][p] == SIGBUS) {
        return;
    }
    if (w.access[n][p] == RW || (w.access[n][p] == RO && !write)) {
        if (write && reaches_home(n)) {
            check_alias_free(n, p);
            for (int k = 0; k < nr_nodes; k++) {
                w.current[k][p] = k == n;
                for (int to = 0; to < nr_nodes; to++) {
                    for (int i = 0; i < w.channel[k][to].nr; i++) {
                        struct flight *f = &w.channel[k][to].flight[i];

                        f->current &= f->msg.page != (uint64_t)p;
                    }
                }
            }
        }
        return;
    }
    w.thread[n] = write ? WAITS_WRITE : WAITS_READ;
    w.thread_page[n] = p;
    require(dsm__coh_fault(&w.region[n], p, write), "there is room for a fault");
}

static void receive(int from, int to)
{
    struct channel *c = &w.channel[from][to];
    struct flight f = c->flight[0];
    const char *why = NULL;
    int page = f.msg.page;

    memmove(c->flight, c->flight + 1, --c->nr * sizeof(c->flight[0]));
    if (f.msg.type == AHEAD_REQUEST) {
        enum dsm__coh_spare spare = w.kept[to][page]
                                        ? DSM__COH_KEEP
                                        : dsm__coh_spare(&w.region[to], page,
                                                         from);

        if (spare == DSM__COH_SEND_FIRST_PROTECT) {
            op_memory(&w.region[to], page, DSM__MEM_PROTECT);
        }
        put(to, from, (struct dsm__coh_msg) {
            .type = spare == DSM__COH_KEEP ? DSM__COH_DECLINE : DSM__COH_DATA_S,
            .page = page,
        });
        return;
    }
    if (dsm__coh_has_data(f.msg.type) &&
        dsm__coh_data(&w.region[to], from, &f.msg) == DSM__COH_DATA_TAKE) {
        check_alias_free(to, page);
        require(w.access[to][page] != RO && w.access[to][page] != RW,
              "data does not come where it can be seen");
        w.current[to][page] = f.current;
    }
    if (dsm__coh_receive(&w.region[to], from, &f.msg, &why) < 0) {
        require(false, why);
    }
}

static void break_link(int a, int b)
{
    w.cut[a][b] = w.cut[b][a] = true;
    w.cuts++;
}

static void notice(int n, int peer)
{
    w.down[n][peer] = true;
    w.channel[peer][n].nr = 0;
    dsm__coh_down(&w.region[n], peer);
}

static void expire(int n, int p)
{
    w.kept[n][p] = false;
    dsm__coh_release(&w.region[n], p);
}

#define TRY(condition, ...)                          \
    do {                                             \
        if (condition) {                             \
            if (number-- == 0) {                     \
                snprintf(text, sizeof(text), __VA_ARGS__); \
                what = text;                         \
                goto found;                          \
            }                                        \
        }                                            \
    } while (0)

/* What happens by itself, sooner or later. */
static bool step_progress(int number)
{
    static char text[100];
    int n, k, p, kind;

    for (n = 0; n < nr_nodes; n++) {
        for (k = 0; k < nr_nodes; k++) {
            kind = 0;
            TRY(w.channel[k][n].nr > 0, "node %d hearing %d", n, k);
            kind = 1;
            TRY(w.cut[k][n] && !w.down[n][k], "node %d losing %d", n, k);
        }
        kind = 2;
        k = 0;
        for (p = 0; p < nr_pages; p++) {
            TRY(w.kept[n][p], "node %d no longer keeping page %d", n, p);
        }
    }
    return false;
found:
    switch (kind) {
    case 0:
        receive(k, n);
        break;
    case 1:
        notice(n, k);
        break;
    case 2:
        expire(n, p);
        break;
    }
    return true;
}

/* What threads, breaking links and guesses do. */
static bool step_choice(int number)
{
    static char text[100];
    int n, k, p, kind;
    bool write;

    for (n = 0; n < nr_nodes; n++) {
        k = 0;
        for (p = 0; p < nr_pages; p++) {
            kind = 0;
            for (int i = 0; i < 2; i++) {
                write = i;
                TRY(w.thread[n] == IDLE, "node %d %s page %d", n,
                    write ? "writing" : "reading", p);
            }
            for (int i = 0; i < 2; i++) {
                kind = 3;
                write = i;
                TRY(with_late && dsm__coh_copy(&w.region[n], p) != DSM__COPY_I,
                    "node %d seeing late a fault to %s page %d", n,
                    write ? "write" : "read", p);
            }
            kind = 1;
            TRY(with_ahead && n != HOME &&
                    dsm__coh_copy(&w.region[n], p) == DSM__COPY_I &&
                    !w.region[n].dead && !w.down[n][HOME],
                "node %d asking ahead for page %d", n, p);
        }
        kind = 2;
        for (k = 0; k < n; k++) {
            TRY(w.cuts < max_cuts && !w.cut[n][k], "link %d-%d breaking", n, k);
        }
    }
    return false;
found:
    switch (kind) {
    case 0:
        access_page(n, p, write);
        break;
    case 1:
        require(dsm__coh_ahead(&w.region[n], p), "it can be asked for");
        put(n, HOME, (struct dsm__coh_msg) { .type = AHEAD_REQUEST, .page = p });
        break;
    case 2:
        break_link(n, k);
        break;
    case 3:
        dsm__coh_fault(&w.region[n], p, write);
        break;
    }
    return true;
}

static void check_world(void)
{
    for (int p = 0; p < nr_pages; p++) {
        uint64_t copies = dsm__coh_copies(&w.region[HOME], p);
        int i = w.pages[HOME][p].request;

        if (i && w.requests[i].state == DSM__DIR_FWD) {
            copies |= 1 << w.requests[i].from; /* it may have it, or not yet */
        }
        if (i && w.requests[i].state == DSM__DIR_REC) {
            copies |= 1 << w.requests[i].source; /* it may still have it */
        }
        for (int n = 0; n < nr_nodes; n++) {
            enum dsm__copy copy = dsm__coh_copy(&w.region[n], p);
            bool can = w.access[n][p] == RO || w.access[n][p] == RW;

            if (!reaches_home(n)) {
                continue;
            }
            require(!can || w.current[n][p], "what is read was written last");
            require(!can || copy == DSM__COPY_S || copy == DSM__COPY_SM ||
                      copy == DSM__COPY_M,
                  "what is accessible is a copy");
            require(w.access[n][p] != RW || copy == DSM__COPY_M,
                  "what is writable is in M");
            /* Of a page that is lost a copy may be on its way out. */
            require(!can || (copies & (1 << n)) ||
                        (w.pages[HOME][p].flags & DSM__COH_PAGE_LOST),
                    "the home knows all copies");
            for (int k = 0; k < nr_nodes; k++) {
                require(k == n || w.access[n][p] != RW || !reaches_home(k) ||
                          (w.access[k][p] != RO && w.access[k][p] != RW),
                      "who can write is alone");
            }
        }
    }
}

/* From any world, without anything new, all threads are answered. */
static void check_rest(void)
{
    int steps = 0;

    while (step_progress(0)) {
        require(++steps < 1000, "everything comes to rest");
        check_world();
    }
    for (int n = 0; n < nr_nodes; n++) {
        require(w.thread[n] == IDLE, "at rest no thread waits");
        require(w.region[n].nr_waiting == 0, "at rest no copy is waited for");
    }
    require(w.region[HOME].nr_of[0] + w.region[HOME].nr_of[1] +
              w.region[HOME].nr_of[2] == 0,
          "at rest no request is open");
}

/* All worlds seen, as two hashes; and those whose turn has not come. */

struct seen {
    uint64_t a, b;
};
static struct seen *seen;
static uint64_t seen_slots, nr_seen;

static uint64_t hash(const uint8_t *buf, size_t bytes, uint64_t seed)
{
    uint64_t h = seed;

    for (size_t i = 0; i < bytes; i++) {
        h = (h ^ buf[i]) * UINT64_C(0x9e3779b97f4a7c15);
        h ^= h >> 29;
    }
    return h | 1;
}

static bool add_seen(struct seen s)
{
    uint64_t i;

    if (2 * nr_seen >= seen_slots) {
        struct seen *old = seen;
        uint64_t old_slots = seen_slots;

        seen_slots = seen_slots ? 2 * seen_slots : 1 << 16;
        seen = calloc(seen_slots, sizeof(*seen));
        nr_seen = 0;
        for (i = 0; i < old_slots; i++) {
            if (old[i].a) {
                add_seen(old[i]);
            }
        }
        free(old);
    }
    for (i = s.a & (seen_slots - 1); seen[i].a; i = (i + 1) & (seen_slots - 1)) {
        if (seen[i].a == s.a && seen[i].b == s.b) {
            return false;
        }
    }
    seen[i] = s;
    nr_seen++;
    return true;
}

struct waiting {
    uint8_t *bytes;
    uint16_t nr;
};
static struct waiting *queue;
static uint64_t queue_first, queue_end, queue_room;

static void add_world(void)
{
    uint8_t buf[MAX_BYTES];
    size_t nr = store(buf);

    if (!add_seen((struct seen) { hash(buf, nr, 1), hash(buf, nr, 77) })) {
        return;
    }
    if (queue_end == queue_room) {
        queue_room = queue_room ? 2 * queue_room : 4096;
        queue = realloc(queue, queue_room * sizeof(*queue));
    }
    queue[queue_end].bytes = malloc(nr);
    memcpy(queue[queue_end].bytes, buf, nr);
    queue[queue_end++].nr = nr;
}

enum { HOLD = 1, AHEAD = 2, LATE = 4 };

static void explore(int nodes, int pages, int cuts, int with)
{
    uint64_t steps = 0;

    nr_nodes = nodes;
    nr_pages = pages;
    max_cuts = cuts;
    with_hold = with & HOLD;
    with_ahead = with & AHEAD;
    with_late = with & LATE;
    nr_seen = seen_slots = 0;
    queue_first = queue_end = 0;
    begin();
    add_world();
    for (; queue_first < queue_end; queue_first++) {
        uint8_t *bytes = queue[queue_first].bytes;

        for (int kind = 0; kind < 2; kind++) {
            for (int i = 0;; i++) {
                load(bytes);
                if (!(kind ? step_choice(i) : step_progress(i))) {
                    break;
                }
                check_world();
                add_world();
                steps++;
            }
        }
        load(bytes);
        check_rest();
        free(bytes);
    }
    printf("%d nodes, %d pages, %d cuts%s%s%s: %llu states, %llu steps\n",
           nodes, pages, cuts, with_hold ? ", hold" : "",
           with_ahead ? ", ahead" : "", with_late ? ", late faults" : "",
           (unsigned long long)nr_seen, (unsigned long long)steps);
    fflush(stdout);
    free(seen);
    seen = NULL;
}

static int unused_rules(void)
{
    int unused = 0;

    for (int s = 0; s < DSM__NR_COPIES; s++) {
        for (int e = 0; e < DSM__NR_COPY_EVENTS; e++) {
            if (dsm__copy_rules[s][e].defined && !used_copy[s][e]) {
                printf("a copy in %s never met %s\n", dsm__copy_names[s],
                       dsm__copy_event_names[e]);
                unused++;
            }
        }
    }
    for (int s = 0; s < DSM__NR_DIRS; s++) {
        for (int e = 0; e < DSM__NR_DIR_EVENTS; e++) {
            if (dsm__dir_rules[s][e].defined && !used_dir[s][e]) {
                printf("a request in %s never met %s\n", dsm__dir_names[s],
                       dsm__dir_event_names[e]);
                unused++;
            }
        }
    }
    return unused;
}

int main(int argc, char **argv)
{
    if (argc == 5) {
        explore(atoi(argv[1]), atoi(argv[2]), atoi(argv[3]), atoi(argv[4]));
        return 0;
    }
    explore(2, 1, 1, HOLD | AHEAD | LATE);
    explore(2, 2, 1, HOLD);
    explore(3, 1, 0, HOLD | AHEAD);
    explore(3, 1, 1, 0);
    if (argc == 2 && strcmp(argv[1], "deep") == 0) {
        explore(3, 1, 2, 0);
        explore(3, 1, 1, HOLD | AHEAD);
        explore(3, 2, 0, 0);
        return unused_rules() ? 1 : 0;
    }
    return 0;
}
