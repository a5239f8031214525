/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The page engine; pages.h says what it is.
 *
 * One round of the loop: wait; take faults, frames, calls and what time has
 * brought; then do the memory operations that came of it; then send. So a
 * peer never hears of what is not done yet, and neighbours go in one system
 * call. The order of the operations on one page is kept.
 *
 * At home the mapping begins without any page being watched, so that memory
 * which nobody shares is the kernel's own affair, with huge pages as it likes.
 * It is registered a chunk at a time, when the first page of one is about to
 * be shared. The kernel changes a mapping only when no fault is under way in
 * it, so each fault is all before or all after. Huge pages end there: what
 * exists of the chunk is mapped anew, page by page.
 *
 * Of a chunk that is watched only MINOR and WP faults are reported; the first
 * use of a page that does not exist is the kernel's still. Before such a page
 * is shared it has to exist (its alias is read), or its next fault would not
 * be seen; and it is protected before it is zapped, as the rules for M say: a
 * fault of the kernel's that is under way at that moment then finds the mark
 * of the protection and starts anew (a zap alone leaves nothing that it could
 * find). What is in S is protected already, and a zap leaves the mark.
 * test-pages, first-touch-race.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "pages.h"

#define NSEC_PER_MSEC UINT64_C(1000000)
#define NSEC_PER_SEC UINT64_C(1000000000)
#define PAGES_EVENTS 64
/* What may be queued to a peer before more is read for it ahead of use. */
#define PAGES_AHEAD_QUEUED (256 * 1024)
/*
 * Pages in a frame of those: as many as a frame takes. From 34 on the kernel
 * flushes all translations at once (x86's tlb_single_page_flush_ceiling) when
 * they are protected, which is quicker than one after the other.
 */
#define PAGES_AHEAD_RUN DSM__PAGE_RUN_MAX
#define PAGES_AHEAD_DEFAULT 128
/* A page that the home won for writing so recently is not given away ahead. */
#define PAGES_QUIET_US 1000
/*
 * Of the own region, what is registered at once: a huge page, or more where
 * that would make too many mappings (vm.max_map_count is 65530).
 */
#define PAGES_CHUNK_BYTES (2 * 1024 * 1024)
#define PAGES_MAX_CHUNKS 16384

static struct dsm__pregion *region_of(void *ctx)
{
    return ctx;
}

uint64_t dsm__pages_now(struct dsm__pages *pages)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    pages->now_ns = ts.tv_sec * NSEC_PER_SEC + ts.tv_nsec;
    pages->now_us = pages->now_ns / 1000;
    return pages->now_ns;
}

/* Memory */

static void region_failed(struct dsm__pregion *r, const char *what, int err)
{
    char reason[DSM_REASON_BYTES];

    snprintf(reason, sizeof(reason), "%s: %s", what, strerror(-err));
    if (r->params.failed) {
        r->params.failed(r->params.opaque, r->owner, reason);
    }
}

static int region_watch_chunk(struct dsm__pregion *r, uint64_t chunk)
{
    struct dsm__pages *p = r->pages;
    uint64_t start = chunk * r->chunk_bytes, left = r->bytes - start;
    size_t bytes = left < r->chunk_bytes ? left : r->chunk_bytes;
    uint8_t *at = r->memory + start;
    int ret;

    if (madvise(at, bytes, MADV_NOHUGEPAGE) < 0) {
        return -errno;
    }
    if (p->rights) {
        return dsm__uffd_register_wp(p->uffd, at, bytes);
    }
    ret = dsm__uffd_register(p->uffd, at, bytes, false);
    if (ret == 0) {
        ret = dsm__uffd_zap(at, bytes);
    }
    return ret < 0 ? ret
                   : dsm__uffd_map_present(p->uffd, at, bytes, p->page_bytes);
}

/* Of the own region; see above. */
static void region_watch(struct dsm__pregion *r, uint64_t first, uint64_t nr)
{
    uint64_t chunk_pages = r->chunk_bytes / r->pages->page_bytes;

    for (uint64_t c = first / chunk_pages; c <= (first + nr - 1) / chunk_pages;
         c++) {
        uint64_t *word = &r->watched[c / 64], bit = UINT64_C(1) << (c % 64);
        int ret;

        if (*word & bit) {
            continue;
        }
        *word |= bit;
        ret = region_watch_chunk(r, c);
        if (ret < 0) {
            region_failed(r, "cannot watch pages", ret);
        }
    }
}

/* Have the pages exist; see above. */
static void region_touch(struct dsm__pregion *r, uint64_t first, uint64_t nr)
{
    uint32_t page_bytes = r->pages->page_bytes;

    for (uint64_t i = first; i < first + nr; i++) {
        (void)*(volatile uint8_t *)(r->alias + i * page_bytes);
    }
}

static void batch_run(struct dsm__pages *p)
{
    struct dsm__pregion *r = p->batch.region;
    uint64_t first = p->batch.first, nr = p->batch.nr;
    size_t bytes = nr * p->page_bytes;
    uint8_t *at;
    int ret = 0;

    if (!r) {
        return;
    }
    p->batch.region = NULL;
    at = r->memory + first * p->page_bytes;
    if (r->watched) {
        region_watch(r, first, nr);
    }
    switch (p->batch.op) {
    case DSM__MEM_PROTECT:
        if (!p->rights) {
            region_touch(r, first, nr);
        }
        ret = dsm__uffd_protect(p->uffd, at, bytes);
        break;
    case DSM__MEM_ZAP:
        ret = dsm__uffd_zap(at, bytes);
        r->stats.invalidations += nr;
        if (r->params.invalidated) {
            r->params.invalidated(r->params.opaque, r->owner, first, nr);
        }
        break;
    case DSM__MEM_POISON:
        ret = dsm__uffd_zap(at, bytes);
        if (ret == 0) {
            ret = dsm__uffd_poison(p->uffd, at, bytes, p->page_bytes);
        }
        break;
    case DSM__MEM_MAP_RO:
        ret = dsm__uffd_map(p->uffd, at, bytes, p->page_bytes, false);
        break;
    case DSM__MEM_MAP_RW:
        ret = dsm__uffd_map(p->uffd, at, bytes, p->page_bytes, true);
        break;
    case DSM__MEM_ALLOW:
        ret = dsm__uffd_unprotect(p->uffd, at, bytes);
        break;
    case DSM__NR_MEM:
        break;
    }
    if (ret < 0) {
        static const char *const what[] = {
            "cannot protect pages", "cannot take pages away",
            "cannot poison pages", "cannot map pages", "cannot map pages",
            "cannot make pages writable",
        };

        region_failed(r, what[p->batch.op], ret);
    }
}

/* What was fetched ahead and is taken away, or was used. */
static void ahead_settle(struct dsm__pregion *r, uint64_t page, bool used)
{
    struct dsm__coh_page *e = &r->coh.pages[page];

    if (e->flags & DSM__COH_AHEAD_UNUSED) {
        e->flags &= ~DSM__COH_AHEAD_UNUSED;
        if (used) {
            r->stats.ahead_useful++;
        } else {
            r->stats.ahead_wasted++;
        }
    }
}

void dsm__pages_memory(struct dsm__pregion *r, uint64_t page, enum dsm__mem op)
{
    struct dsm__pages *p = r->pages;

    if (r->detached) {
        return;
    }
    if (p->batch.region == r && p->batch.op == op &&
        page == p->batch.first + p->batch.nr) {
        p->batch.nr++;
        return;
    }
    batch_run(p);
    p->batch = (struct dsm__mem_batch) { r, op, page, 1 };
}

void dsm__pages_memory_all(struct dsm__pregion *r, enum dsm__mem op)
{
    batch_run(r->pages);
    r->pages->batch = (struct dsm__mem_batch) { r, op, 0, r->nr_pages };
}

/*
 * Pages that travel: a node reads one and then writes to it, then another does.
 * Each time that takes two requests, of which the second one only says that
 * the first should have asked to write. So who needed both for a page twice
 * takes it for writing the next time. Such a copy is mapped readable, for its
 * first write is to be seen. If the page is given up before, others only read
 * what was taken from them, and this node begins to count anew.
 */

static bool travels(const struct dsm__coh_page *e)
{
    return (e->flags & DSM__COH_TRAVELS_MASK) >= 2 * DSM__COH_TRAVELS_ONE;
}

static void travels_learn(struct dsm__coh_page *e)
{
    if (!travels(e)) {
        e->flags += DSM__COH_TRAVELS_ONE;
    }
}

static void travels_given_up(struct dsm__pregion *r, struct dsm__coh_page *e)
{
    if (e->flags & DSM__COH_UNTRIED) {
        e->flags &= ~(DSM__COH_UNTRIED | DSM__COH_TRAVELS_MASK);
        r->stats.taken_unused++;
    }
}

static void on_memory(void *ctx, uint64_t page, enum dsm__mem op)
{
    struct dsm__pregion *r = region_of(ctx);
    struct dsm__coh_page *e = &r->coh.pages[page];

    if (op == DSM__MEM_MAP_RW && (e->flags & DSM__COH_UNTRIED)) {
        op = DSM__MEM_MAP_RO;
    } else if (op == DSM__MEM_PROTECT || op == DSM__MEM_ZAP ||
               op == DSM__MEM_POISON) {
        travels_given_up(r, e);
    }
    if (op == DSM__MEM_MAP_RO && (e->flags & DSM__COH_AHEAD_MARK)) {
        return; /* its first use is to be seen */
    }
    if (op == DSM__MEM_PROTECT) {
        if (dsm__coh_copy(&r->coh, page) != DSM__COPY_I) {
            r->stats.downgrades++;
        } else if (r->owner != r->pages->self) {
            return; /* it is zapped next; nothing of the kernel's can race */
        }
    }
    if (op == DSM__MEM_ZAP) {
        ahead_settle(r, page, false);
        e->flags &= ~DSM__COH_AHEAD_MARK;
    }
    dsm__pages_memory(r, page, op);
}

/* The protocol's other wishes */

static void on_send(void *ctx, uint16_t to, const struct dsm__coh_msg *msg)
{
    struct dsm__pregion *r = region_of(ctx);
    struct dsm__pages *p = r->pages;
    bool data = dsm__coh_has_data(msg->type);
    struct dsm__page_frame f = {
        .type = msg->type,
        .region = r->owner,
        .node = msg->node,
        .page = msg->page,
        .count = data ? 1 : 0,
    };

    r->stats.pages_out += data;
    dsm__plink_send(&p->links[to], &f,
                    data ? r->alias + msg->page * p->page_bytes : NULL);
}

static bool on_held(void *ctx, uint64_t page)
{
    struct dsm__pregion *r = region_of(ctx);

    return r->pages->now_us - r->coh.pages[page].stamp < r->pages->hold_us;
}

void dsm__pages_hold(struct dsm__pregion *r, uint64_t page, uint32_t until_us)
{
    struct dsm__pages *p = r->pages;

    if (p->held_nr == p->held_room) {
        uint32_t room = p->held_room ? 2 * p->held_room : 64;
        struct dsm__held *held = malloc(room * sizeof(*held));

        if (!held) {
            region_failed(r, "cannot hold a page", -ENOMEM);
            return;
        }
        for (uint32_t i = 0; i < p->held_nr; i++) {
            held[i] = p->held[(p->held_first + i) % p->held_room];
        }
        free(p->held);
        p->held = held;
        p->held_room = room;
        p->held_first = 0;
    }
    p->held[(p->held_first + p->held_nr++) % p->held_room] = (struct dsm__held) {
        .region = r,
        .page = page,
        .until_us = until_us,
    };
}

static void on_hold(void *ctx, uint64_t page)
{
    struct dsm__pregion *r = region_of(ctx);

    r->stats.holds++;
    dsm__pages_hold(r, page, r->coh.pages[page].stamp + r->pages->hold_us);
}

static void histogram_add(uint64_t *buckets, uint64_t ns)
{
    int b = ns ? 63 - __builtin_clzll(ns) : 0;

    buckets[b < DSM_HISTOGRAM_BUCKETS ? b : DSM_HISTOGRAM_BUCKETS - 1]++;
}

static void on_won(void *ctx, uint64_t page)
{
    struct dsm__pregion *r = region_of(ctx);
    struct dsm__coh_page *e = &r->coh.pages[page];
    uint64_t ns;

    dsm__pages_now(r->pages);
    ns = UINT64_C(1000) * (r->pages->now_us - e->stamp);
    if (dsm__coh_copy(&r->coh, page) == DSM__COPY_S ||
        (e->flags & DSM__COH_UNTRIED)) {
        histogram_add(r->stats.read_ns, ns);
    } else if (r->pages->current == DSM__COH_GRANT) {
        r->stats.upgrades++;
        histogram_add(r->stats.upgrade_ns, ns);
    } else {
        histogram_add(r->stats.write_ns, ns);
    }
    e->stamp = r->pages->now_us;
}

static void on_lost(void *ctx, uint64_t page)
{
    struct dsm__pregion *r = region_of(ctx);

    r->stats.pages_lost++;
    if (r->params.lost) {
        r->params.lost(r->params.opaque, r->owner, page, 1);
    }
}

static void on_violation(void *ctx, uint16_t node, const char *why)
{
    struct dsm__pages *p = region_of(ctx)->pages;

    p->violation[node] = why;
    p->violators |= UINT64_C(1) << node;
}

static const struct dsm__coh_ops coh_ops = {
    .send = on_send,
    .memory = on_memory,
    .held = on_held,
    .hold = on_hold,
    .won = on_won,
    .lost = on_lost,
    .violation = on_violation,
};

/* Ahead of use: the reader's side */

static void ahead_send(struct dsm__pregion *r, uint64_t first, int64_t stride,
                       uint32_t count)
{
    struct dsm__page_frame f = {
        .type = DSM__PAGE_AHEAD,
        .region = r->owner,
        .page = first,
        .stride = stride,
        .count = count,
    };

    if (count) {
        r->stats.ahead_asked += count;
        dsm__plink_send(&r->pages->links[r->owner], &f, NULL);
    }
}

static void ahead_settle_range(struct dsm__pregion *r,
                               const struct dsm__range *range, bool used)
{
    for (uint32_t i = 0; i < range->count; i++) {
        ahead_settle(r, range->first + (uint64_t)(range->stride * (int64_t)i),
                     used);
    }
}

static void ahead_follow(struct dsm__pregion *r,
                         const struct dsm__ahead_news *news)
{
    const struct dsm__range *ask = &news->ask;
    uint64_t first = 0;
    uint32_t count = 0;

    ahead_settle_range(r, &news->used, true);
    for (int i = 0; i < DSM__AHEAD_BATCHES; i++) {
        ahead_settle_range(r, &news->wasted[i], false);
    }
    for (uint32_t i = 0; i < ask->count; i++) {
        uint64_t page = ask->first + (uint64_t)(ask->stride * (int64_t)i);

        if (r->coh.nr_in[DSM__COPY_IP] + r->coh.nr_in[DSM__COPY_IPF] <
                DSM__PAGES_AHEAD &&
            dsm__coh_ahead(&r->coh, page)) {
            r->coh.pages[page].flags |=
                DSM__COH_AHEAD_UNUSED | (i == 0 ? DSM__COH_AHEAD_MARK : 0);
            first = count++ ? first : page;
        } else {
            ahead_send(r, first, ask->stride, count);
            count = 0;
        }
    }
    ahead_send(r, first, ask->stride, count);
}

/* Ahead of use: the home's side */

static void spare_decline(struct dsm__plink *link, uint64_t page,
                          int64_t stride)
{
    struct dsm__page_frame f = {
        .type = DSM__COH_DECLINE,
        .region = link->pages->self,
        .page = page,
        .stride = stride,
        .count = 1,
    };

    dsm__plink_send(link, &f, NULL);
}

/* Can it be given, and if so, it is. */
static bool spare_take(struct dsm__pregion *r, uint64_t page, uint16_t to)
{
    bool fresh = dsm__coh_copy(&r->coh, page) == DSM__COPY_M &&
                 r->pages->now_us - r->coh.pages[page].stamp < PAGES_QUIET_US;

    switch (fresh ? DSM__COH_KEEP : dsm__coh_spare(&r->coh, page, to)) {
    case DSM__COH_KEEP:
        return false;
    case DSM__COH_SEND_FIRST_PROTECT:
        on_memory(r, page, DSM__MEM_PROTECT);
        break;
    case DSM__COH_SEND:
        break;
    }
    return true;
}

/* Serve one piece of what @link's peer asked for ahead of use. */
static void spare_serve(struct dsm__pregion *r, struct dsm__plink *link)
{
    struct dsm__page_frame *want = &link->ahead[link->ahead_first];
    struct dsm__page_frame f = {
        .type = DSM__COH_DATA_S,
        .region = r->owner,
        .page = want->page,
    };
    uint32_t done = 0;

    while (done < want->count && done < PAGES_AHEAD_RUN) {
        uint64_t page = want->page + (uint64_t)(want->stride * (int64_t)done);

        done++;
        if (!spare_take(r, page, link->peer)) {
            spare_decline(link, page, want->stride);
            break;
        }
        f.count++;
        if (want->stride != 1) {
            break;
        }
    }
    if (f.count) {
        r->stats.pages_out += f.count;
        dsm__plink_send(link, &f,
                        r->alias + f.page * r->pages->page_bytes);
    }
    want->page += (uint64_t)(want->stride * (int64_t)done);
    want->count -= done;
    link->ahead_pages -= done;
    if (want->count == 0) {
        link->ahead_first = (link->ahead_first + 1) % DSM__PAGES_AHEAD;
        link->ahead_nr--;
    }
}

/* Is there something to serve and room for it? Then there is no sleep. */
static bool spare_is_due(const struct dsm__pages *p)
{
    for (uint16_t i = 0; i < p->nr_nodes; i++) {
        const struct dsm__plink *link = &p->links[i];

        if (link->up && link->ahead_nr > 0 &&
            link->tx_bytes < PAGES_AHEAD_QUEUED) {
            return true;
        }
    }
    return false;
}

/* Only behind everything that somebody waits for. */
static void spare_serve_all(struct dsm__pages *p)
{
    struct dsm__pregion *r = p->regions[p->self];

    for (uint16_t i = 0; i < p->nr_nodes; i++) {
        struct dsm__plink *link = &p->links[i];

        while (link->up && link->ahead_nr > 0 &&
               link->tx_bytes < PAGES_AHEAD_QUEUED) {
            spare_serve(r, link);
        }
    }
}

/* Faults */

static bool copy_waits(enum dsm__copy copy)
{
    return copy == DSM__COPY_IS || copy == DSM__COPY_IM ||
           copy == DSM__COPY_SM || copy == DSM__COPY_IPF;
}

/* Return: false: not now. */
static bool region_fault(struct dsm__pregion *r, uint64_t page, bool write)
{
    enum dsm__copy before = dsm__coh_copy(&r->coh, page), after;
    struct dsm__coh_page *e = &r->coh.pages[page];
    struct dsm__ahead_news news;
    uint32_t stamp = e->stamp;
    bool touched = e->flags & DSM__COH_AHEAD_MARK;
    bool take = !write && before == DSM__COPY_I && travels(e);

    e->flags &= ~DSM__COH_AHEAD_MARK;
    if (!copy_waits(before) && !(before == DSM__COPY_S && !write) &&
        before != DSM__COPY_M) {
        e->stamp = r->pages->now_us; /* it begins to wait */
    }
    if (take) {
        e->flags |= DSM__COH_UNTRIED;
    } else if (write) {
        e->flags &= ~DSM__COH_UNTRIED;
    }
    if (!dsm__coh_fault(&r->coh, page, write || take)) {
        e->stamp = stamp;
        e->flags &= ~DSM__COH_UNTRIED;
        e->flags |= touched ? DSM__COH_AHEAD_MARK : 0;
        return false;
    }
    r->stats.taken += take;
    if (write && before == DSM__COPY_S) {
        travels_learn(e);
    }
    after = dsm__coh_copy(&r->coh, page);
    if (copy_waits(before) || before == after) {
        r->stats.local_faults++;
    } else if (write && before != DSM__COPY_IP) {
        r->stats.write_faults++;
        dsm__heat_add(&r->heat, page, true);
    } else {
        r->stats.read_faults++;
        dsm__heat_add(&r->heat, page, write);
    }
    if (touched) {
        dsm__ahead_touch(&r->ahead, page, &news);
        ahead_follow(r, &news);
    } else if (r->params.ahead && r->owner != r->pages->self &&
               before == DSM__COPY_I && !write &&
               (after == DSM__COPY_IS || after == DSM__COPY_IM)) {
        dsm__ahead_miss(&r->ahead, page, &news);
        ahead_follow(r, &news);
    }
    return true;
}

static struct dsm__pregion *find_region(struct dsm__pages *p,
                                        uintptr_t address)
{
    for (uint16_t i = 0; i < p->nr_nodes; i++) {
        struct dsm__pregion *r = p->regions[i];

        if (r && !r->detached && address >= (uintptr_t)r->memory &&
            address - (uintptr_t)r->memory < r->bytes) {
            return r;
        }
    }
    return NULL;
}

static void watch_faults(struct dsm__pages *p, bool paused)
{
    struct epoll_event ev = {
        .events = paused ? 0 : EPOLLIN,
        .data.ptr = &p->uffd,
    };

    if (p->faults_paused != paused) {
        p->faults_paused = paused;
        epoll_ctl(p->epoll_fd, EPOLL_CTL_MOD, p->uffd, &ev);
    }
}

/* Those that find too much under way wait here, and all others behind. */
static void take_faults(struct dsm__pages *p)
{
    while (p->fault_nr > 0) {
        struct dsm__fault *f = &p->faults[p->fault_first];
        struct dsm__pregion *r = find_region(p, f->address);
        uint64_t page =
            r ? (f->address - (uintptr_t)r->memory) / p->page_bytes : 0;

        if (r && !(p->rights ? dsm__prights_fault(r, page)
                             : region_fault(r, page, f->write))) {
            watch_faults(p, true);
            return;
        }
        p->fault_first++;
        p->fault_nr--;
    }
    watch_faults(p, false);
}

static void read_faults(struct dsm__pages *p)
{
    int nr;

    if (p->fault_nr == 0) {
        nr = dsm__uffd_read(p->uffd, p->faults);
        p->fault_first = 0;
        p->fault_nr = nr > 0 ? nr : 0;
    }
    take_faults(p);
}

/* Frames */

/* The page protocol and shared memory have frames of their own. */
static bool frame_is_known(const struct dsm__pages *p,
                           const struct dsm__page_frame *f,
                           const char **ret_why)
{
    if (p->rights != dsm__page_is_rights(f->type)) {
        *ret_why = p->rights ? "not a frame of a machine that shares memory"
                             : "not a frame of the page protocol";
        return false;
    }
    return true;
}

int dsm__pages_place(struct dsm__plink *link, const struct dsm__page_frame *f,
                     uint8_t **ret_at, const char **ret_why)
{
    struct dsm__pages *p = link->pages;
    struct dsm__pregion *r;
    bool skip = false;

    if (!frame_is_known(p, f, ret_why)) {
        return -EPROTO;
    }
    r = f->region < p->nr_nodes ? p->regions[f->region] : NULL;
    if (!r || f->page >= r->nr_pages || f->count > r->nr_pages - f->page) {
        *ret_why = "pages that this node does not know";
        return -EPROTO;
    }
    if (f->count > 1 && link->peer != r->owner) {
        *ret_why = "more pages than were asked for";
        return -EPROTO;
    }
    for (uint32_t i = 0; i < f->count; i++) {
        struct dsm__coh_msg msg = { .type = f->type, .page = f->page + i };

        switch (dsm__coh_data(&r->coh, link->peer, &msg)) {
        case DSM__COH_DATA_TAKE:
            break;
        case DSM__COH_DATA_SKIP:
            skip = true;
            break;
        case DSM__COH_DATA_ERROR:
            *ret_why = "data that nobody asked for";
            return -EPROTO;
        }
    }
    *ret_at = skip ? NULL : r->alias + f->page * p->page_bytes;
    return 0;
}

/* Data of a source that is refused from now on stops coming in. */
static void stop_bodies(struct dsm__pages *p, uint16_t region, uint16_t from)
{
    struct dsm__plink *link = &p->links[from];

    if (link->up && link->body_left > 0 && link->body.region == region) {
        link->body_at = NULL;
    }
}

static int take_ahead(struct dsm__plink *link, struct dsm__pregion *r,
                      const struct dsm__page_frame *f, const char **ret_why)
{
    if (r->owner != link->pages->self) {
        *ret_why = "a message for the home of a region";
        return -EPROTO;
    }
    if (link->ahead_pages + f->count > DSM__PAGES_AHEAD) {
        *ret_why = "too many pages at a time";
        return -EPROTO;
    }
    link->ahead_pages += f->count;
    link->ahead[(link->ahead_first + link->ahead_nr++) % DSM__PAGES_AHEAD] = *f;
    return 0;
}

static int take_message(struct dsm__plink *link, struct dsm__pregion *r,
                        const struct dsm__page_frame *f, const char **ret_why)
{
    struct dsm__pages *p = link->pages;
    uint32_t count = f->count ? f->count : 1;
    int64_t stride = f->stride ? f->stride : 1;
    int ret = 0;

    p->current = f->type;
    for (uint32_t i = 0; i < count && ret == 0; i++) {
        struct dsm__coh_msg msg = {
            .type = f->type,
            .node = f->node,
            .page = f->page + (uint64_t)(stride * (int64_t)i),
        };

        if (f->type == DSM__COH_DECLINE && msg.page < r->coh.nr_pages) {
            r->coh.pages[msg.page].flags &=
                ~(DSM__COH_AHEAD_MARK | DSM__COH_AHEAD_UNUSED);
            r->stats.ahead_declined++;
        }
        ret = dsm__coh_receive(&r->coh, link->peer, &msg, ret_why);
        r->stats.pages_in += dsm__coh_has_data(f->type);
    }
    if (f->type == DSM__COH_LOST && ret == 0) {
        stop_bodies(p, f->region, f->node);
    }
    p->current = 0;
    return ret;
}

int dsm__pages_frame(struct dsm__plink *link, const struct dsm__page_frame *f,
                     const char **ret_why)
{
    struct dsm__pages *p = link->pages;
    struct dsm__page_frame pong = {
        .type = DSM__PAGE_PONG,
        .token = f->token,
    };
    struct dsm__pregion *r;
    uint64_t last;

    if (f->type == DSM__PAGE_PING) {
        dsm__plink_send(link, &pong, NULL);
        return 0;
    }
    if (f->type == DSM__PAGE_PONG) {
        return 0;
    }
    if (!frame_is_known(p, f, ret_why)) {
        return -EPROTO;
    }
    r = f->region < p->nr_nodes ? p->regions[f->region] : NULL;
    if (!r && f->region < p->nr_nodes && f->region == link->peer &&
        f->type == DSM__COH_LOST) {
        return 0; /* not attached here, so nothing is under way */
    }
    last = f->count ? f->page + (uint64_t)((f->stride ? f->stride : 1) *
                                           (int64_t)(f->count - 1))
                    : f->page;
    if (!r || f->page >= r->nr_pages || last >= r->nr_pages) {
        *ret_why = "pages that this node does not know";
        return -EPROTO;
    }
    if (p->rights) {
        return dsm__prights_frame(r, link->peer, f, ret_why);
    }
    return f->type == DSM__PAGE_AHEAD ? take_ahead(link, r, f, ret_why)
                                      : take_message(link, r, f, ret_why);
}

/* Losing a peer */

static void note(struct dsm__pages *p, uint16_t peer, bool broke_protocol,
                 const char *reason)
{
    uint64_t one = 1;

    pthread_mutex_lock(&p->notes_lock);
    p->noted |= UINT64_C(1) << peer;
    p->notes[peer].broke_protocol = broke_protocol;
    snprintf(p->notes[peer].reason, DSM_REASON_BYTES, "%s", reason);
    pthread_mutex_unlock(&p->notes_lock);
    (void)!write(p->note_fd, &one, sizeof(one));
}

bool dsm__pages_note(struct dsm__pages *p, uint16_t *ret_peer,
                     bool *ret_broke_protocol,
                     char ret_reason[DSM_REASON_BYTES])
{
    bool any;

    pthread_mutex_lock(&p->notes_lock);
    any = p->noted != 0;
    if (any) {
        *ret_peer = __builtin_ctzll(p->noted);
        p->noted &= p->noted - 1;
        *ret_broke_protocol = p->notes[*ret_peer].broke_protocol;
        memcpy(ret_reason, p->notes[*ret_peer].reason, DSM_REASON_BYTES);
    }
    pthread_mutex_unlock(&p->notes_lock);
    return any;
}

static void forget_peer(struct dsm__pages *p, uint16_t peer)
{
    if (p->lost_peers & (UINT64_C(1) << peer)) {
        return;
    }
    p->lost_peers |= UINT64_C(1) << peer;
    for (uint16_t i = 0; i < p->nr_nodes; i++) {
        struct dsm__pregion *r = p->regions[i];

        if (!r) {
            continue;
        }
        if (p->rights) {
            dsm__prights_down(r, peer);
            continue;
        }
        if (peer == r->owner) {
            r->stats.pages_lost = r->coh.nr_pages;
        }
        dsm__coh_down(&r->coh, peer);
        if (peer == r->owner && r->params.lost) {
            r->params.lost(r->params.opaque, r->owner, 0, r->coh.nr_pages);
        }
    }
}

void dsm__pages_lose_link(struct dsm__plink *link, bool broke_protocol,
                          const char *format, ...)
{
    struct dsm__pages *p = link->pages;
    char reason[DSM_REASON_BYTES];
    va_list ap;

    va_start(ap, format);
    vsnprintf(reason, sizeof(reason), format, ap);
    va_end(ap);
    dsm__plink_close(link);
    forget_peer(p, link->peer);
    note(p, link->peer, broke_protocol, reason);
}

static void expel_violators(struct dsm__pages *p)
{
    while (p->violators) {
        uint16_t node = __builtin_ctzll(p->violators);

        p->violators &= p->violators - 1;
        if (p->links[node].up) {
            dsm__pages_lose_link(&p->links[node], true, "%s",
                                 p->violation[node]);
        }
    }
}

/* Time */

static void release_held(struct dsm__pages *p)
{
    while (p->held_nr > 0) {
        struct dsm__held h = p->held[p->held_first];

        if ((int32_t)(p->now_us - h.until_us) < 0) {
            return;
        }
        p->held_first = (p->held_first + 1) % p->held_room;
        p->held_nr--;
        if (p->rights) {
            dsm__rights_release(&h.region->rights, h.page);
        } else {
            dsm__coh_release(&h.region->coh, h.page);
        }
    }
}

static void check_silence(struct dsm__pages *p)
{
    /* Who did not run did not hear either: begin to count anew. */
    bool slept = p->now_ns - p->check_ns > p->heartbeat_ns;

    if (p->now_ns < p->check_ns) {
        return;
    }
    for (uint16_t i = 0; i < p->nr_nodes; i++) {
        struct dsm__plink *link = &p->links[i];
        struct dsm__page_frame ping = {
            .type = DSM__PAGE_PING,
            .token = p->now_ns,
        };

        if (!link->up) {
            continue;
        }
        if (slept && p->now_ns - link->last_rx_ns > p->heartbeat_ns) {
            link->last_rx_ns = p->now_ns - p->heartbeat_ns;
        }
        if (p->now_ns - link->last_rx_ns >= p->timeout_ns) {
            dsm__pages_lose_link(link, false,
                                 "page channel silent for %" PRIu64 " ms",
                                 p->timeout_ns / NSEC_PER_MSEC);
        } else if (p->now_ns - link->last_rx_ns >= p->heartbeat_ns &&
                   !link->ping_sent) {
            link->ping_sent = true;
            dsm__plink_send(link, &ping, NULL);
        }
    }
    p->check_ns = p->now_ns + p->heartbeat_ns / 2;
}

static uint64_t next_timeout(struct dsm__pages *p, uint64_t timeout_ns)
{
    uint64_t until;

    if (spare_is_due(p)) {
        return 0;
    }
    if (p->spin_us && p->now_ns - p->busy_ns < p->spin_us * UINT64_C(1000)) {
        return 0;
    }
    if (p->held_nr > 0) {
        int32_t left = p->held[p->held_first].until_us - p->now_us;

        until = left > 0 ? left * UINT64_C(1000) : 0;
        timeout_ns = until < timeout_ns ? until : timeout_ns;
    }
    until = p->check_ns > p->now_ns ? p->check_ns - p->now_ns : 0;
    return until < timeout_ns ? until : timeout_ns;
}

/* Calls of other threads */

static void take_calls(struct dsm__pages *p)
{
    struct dsm__call *calls, *next;
    uint64_t count;

    (void)!read(p->kick_fd, &count, sizeof(count));
    pthread_mutex_lock(&p->calls_lock);
    calls = p->calls;
    p->calls = NULL;
    dsm__prights_take_waiters(p);
    pthread_mutex_unlock(&p->calls_lock);
    for (; calls; calls = next) {
        next = calls->next;
        calls->fn(p, calls->arg);
        batch_run(p); /* what a caller hears of is done */
        pthread_mutex_lock(&p->calls_lock);
        calls->done = true; /* from here on it may be gone */
        pthread_cond_broadcast(&p->calls_done);
        pthread_mutex_unlock(&p->calls_lock);
    }
}

void dsm__pages_run(struct dsm__pages *p,
                    void (*fn)(struct dsm__pages *pages, void *arg), void *arg)
{
    struct dsm__call call = { .fn = fn, .arg = arg };
    struct dsm__call **end;
    uint64_t one = 1;

    if (!p->threaded) {
        fn(p, arg);
        batch_run(p);
        return;
    }
    pthread_mutex_lock(&p->calls_lock);
    for (end = &p->calls; *end; end = &(*end)->next) {
    }
    *end = &call;
    (void)!write(p->kick_fd, &one, sizeof(one));
    while (!call.done) {
        pthread_cond_wait(&p->calls_done, &p->calls_lock);
    }
    pthread_mutex_unlock(&p->calls_lock);
}

/* The loop */

static int wait_for_events(struct dsm__pages *p, uint64_t timeout_ns,
                           struct epoll_event events[PAGES_EVENTS])
{
    struct timespec ts;
    int nr;

    timeout_ns = next_timeout(p, timeout_ns);
    ts.tv_sec = timeout_ns / NSEC_PER_SEC;
    ts.tv_nsec = timeout_ns % NSEC_PER_SEC;
    nr = syscall(SYS_epoll_pwait2, p->epoll_fd, events, PAGES_EVENTS, &ts,
                 NULL, 0);
    dsm__pages_now(p);
    if (nr > 0) {
        p->busy_ns = p->now_ns;
    }
    return nr;
}

void dsm__pages_step(struct dsm__pages *p, uint64_t timeout_ns)
{
    struct epoll_event events[PAGES_EVENTS];
    int nr = wait_for_events(p, timeout_ns, events);
    bool calls = false;

    for (int i = 0; i < nr; i++) {
        void *source = events[i].data.ptr;
        struct dsm__plink *link = source;

        if (source == &p->uffd) {
            read_faults(p);
        } else if (source == &p->kick_fd) {
            calls = true;
        } else {
            if (events[i].events & EPOLLOUT) {
                link->tx_full = false;
            }
            if (link->up && (events[i].events & ~EPOLLOUT)) {
                dsm__plink_receive(link);
            }
        }
    }
    if (calls) {
        take_calls(p);
    }
    release_held(p);
    check_silence(p);
    if (p->fault_nr > 0) {
        take_faults(p);
    }
    do {
        expel_violators(p);
        if (p->waiters) {
            dsm__prights_serve_waiters(p);
        }
        if (p->regions[p->self]) {
            spare_serve_all(p);
        }
        batch_run(p);
        for (uint16_t i = 0; i < p->nr_nodes; i++) {
            dsm__plink_flush(&p->links[i]);
        }
    } while (p->violators);
}

static void *pages_thread(void *arg)
{
    struct dsm__pages *p = arg;

    pthread_setname_np(pthread_self(), "dsm-pages");
    while (!p->stop) {
        dsm__pages_step(p, NSEC_PER_SEC);
    }
    return NULL;
}

/* Regions */

struct attach_call {
    struct dsm__pregion *region;
    int ret;
};

static void attach_here(struct dsm__pages *p, void *arg)
{
    struct attach_call *call = arg;
    struct dsm__pregion *r = call->region;

    if (p->regions[r->owner]) {
        call->ret = -EALREADY;
        return;
    }
    if (p->lost_peers & (UINT64_C(1) << r->owner)) {
        call->ret = -EHOSTDOWN;
        return;
    }
    batch_run(p);
    for (uint16_t i = 0; i < p->nr_nodes; i++) {
        struct dsm__pregion *old = p->regions[i];

        if (old && old->memory < r->memory + r->bytes &&
            r->memory < old->memory + old->bytes) {
            old->detached = true; /* it was unmapped, or this would not fit */
        }
    }
    call->ret = p->rights ? dsm__prights_register(r)
                          : dsm__uffd_register(p->uffd, r->memory, r->bytes,
                                               r->owner != p->self);
    if (call->ret == 0 && r->watched) {
        call->ret = dsm__uffd_unregister(p->uffd, r->memory, r->bytes);
    }
    if (call->ret < 0) {
        return;
    }
    p->regions[r->owner] = r;
    if (p->rights) {
        return;
    }
    for (uint16_t i = 0; i < p->nr_nodes; i++) {
        if (p->links[i].up) {
            dsm__coh_met(&r->coh, i);
        } else if (p->lost_peers & (UINT64_C(1) << i)) {
            dsm__coh_down(&r->coh, i);
        }
    }
}

void *dsm__pages_map_table(size_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return at == MAP_FAILED ? NULL : at;
}

static void region_free(struct dsm__pregion *r)
{
    if (r->coh.pages) {
        munmap(r->coh.pages, r->table_bytes);
    }
    if (r->alias) {
        munmap(r->alias, r->bytes);
    }
    dsm__prights_free(r);
    free(r->coh.requests);
    free(r->watched);
    free(r);
}

static int region_init_watched(struct dsm__pregion *r)
{
    for (r->chunk_bytes = PAGES_CHUNK_BYTES;
         r->bytes / r->chunk_bytes >= PAGES_MAX_CHUNKS; r->chunk_bytes *= 2) {
    }
    r->watched = calloc(r->bytes / r->chunk_bytes / 64 + 1,
                        sizeof(*r->watched));
    return r->watched ? 0 : -ENOMEM;
}

static struct dsm__pregion *region_new(struct dsm__pages *p, uint16_t owner,
                                       int fd, uint64_t bytes,
                                       const struct dsm_region_params *params,
                                       int *ret_err)
{
    struct dsm__pregion *r = calloc(1, sizeof(*r));
    void *alias;

    *ret_err = -ENOMEM;
    if (!r) {
        return NULL;
    }
    r->pages = p;
    r->owner = owner;
    r->params = *params;
    if (!r->params.ahead_max_pages) {
        r->params.ahead_max_pages = PAGES_AHEAD_DEFAULT;
    }
    r->memory = params->memory;
    r->bytes = bytes;
    r->nr_pages = bytes / p->page_bytes;
    if (owner == p->self && region_init_watched(r) < 0) {
        region_free(r);
        return NULL;
    }
    if (p->rights) {
        *ret_err = dsm__prights_init(r);
        if (*ret_err < 0) {
            region_free(r);
            return NULL;
        }
        dsm__heat_init(&r->heat, r->nr_pages);
        return r;
    }
    r->coh = (struct dsm__coh_region) {
        .self = p->self,
        .home = owner,
        .nr_nodes = p->nr_nodes,
        .peer_limit = DSM__PAGES_REQUESTS,
        .nr_pages = r->nr_pages,
        .ops = &coh_ops,
        .ctx = r,
    };
    r->table_bytes = r->coh.nr_pages * sizeof(*r->coh.pages);
    r->coh.pages = dsm__pages_map_table(r->table_bytes);
    if (owner == p->self) {
        r->coh.requests =
            calloc(dsm__coh_requests(p->nr_nodes, DSM__PAGES_REQUESTS),
                   sizeof(*r->coh.requests));
    }
    if (!r->coh.pages || (owner == p->self && !r->coh.requests)) {
        region_free(r);
        return NULL;
    }
    alias = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (alias == MAP_FAILED) {
        *ret_err = -errno;
        region_free(r);
        return NULL;
    }
    r->alias = alias;
    /*
     * A huge page would be mapped in one piece (what is not watched yet may
     * be); and a child that a fork makes has no protocol.
     */
    if ((!r->watched && madvise(r->memory, bytes, MADV_NOHUGEPAGE) < 0) ||
        madvise(r->memory, bytes, MADV_DONTFORK) < 0) {
        *ret_err = -errno;
        region_free(r);
        return NULL;
    }
    madvise(r->alias, bytes, MADV_NOHUGEPAGE);
    madvise(r->alias, bytes, MADV_DONTFORK);
    dsm__coh_init(&r->coh);
    dsm__heat_init(&r->heat, r->coh.nr_pages);
    dsm__ahead_init(&r->ahead, r->coh.nr_pages, r->params.ahead_max_pages);
    return r;
}

int dsm__pages_attach(struct dsm__pages *p, uint16_t owner, int fd,
                      uint64_t bytes, const struct dsm_region_params *params)
{
    struct attach_call call = { 0 };

    if (!params->memory || (uintptr_t)params->memory % p->page_bytes ||
        params->ahead_max_pages > DSM__PAGE_AHEAD_MAX) {
        return -EINVAL;
    }
    call.region = region_new(p, owner, fd, bytes, params, &call.ret);
    if (!call.region) {
        return call.ret;
    }
    dsm__pages_run(p, attach_here, &call);
    if (call.ret < 0) {
        region_free(call.region);
    }
    return call.ret;
}

struct detach_call {
    uint16_t owner;
    int ret;
};

/* What the peers were sent may still lie in the alias: it stays. */
static void detach_here(struct dsm__pages *p, void *arg)
{
    struct detach_call *call = arg;
    struct dsm__pregion *r = p->regions[call->owner];

    if (!r || r->detached) {
        call->ret = -ENXIO;
    } else if (!(p->lost_peers & (UINT64_C(1) << call->owner))) {
        call->ret = -EBUSY;
    } else {
        batch_run(p);
        call->ret = dsm__uffd_unregister(p->uffd, r->memory, r->bytes);
        r->detached = true;
    }
}

int dsm__pages_detach(struct dsm__pages *p, uint16_t owner)
{
    struct detach_call call = { .owner = owner };

    dsm__pages_run(p, detach_here, &call);
    return call.ret;
}

struct stats_call {
    uint16_t owner;
    struct dsm_region_stats *stats;
    int ret;
};

static void stats_here(struct dsm__pages *p, void *arg)
{
    struct stats_call *call = arg;
    struct dsm__pregion *r = p->regions[call->owner];
    const uint64_t *in;

    if (!r) {
        call->ret = -ENXIO;
        return;
    }
    in = r->coh.nr_in;
    *call->stats = r->stats;
    call->stats->pages_none = in[DSM__COPY_I];
    call->stats->pages_shared = in[DSM__COPY_S];
    call->stats->pages_modified = in[DSM__COPY_M];
    call->stats->pages_waiting = in[DSM__COPY_IS] + in[DSM__COPY_IM] +
                                 in[DSM__COPY_SM] + in[DSM__COPY_IP] +
                                 in[DSM__COPY_IPF];
}

int dsm__pages_stats(struct dsm__pages *p, uint16_t owner,
                     struct dsm_region_stats *ret_stats)
{
    struct stats_call call = { .owner = owner, .stats = ret_stats };

    dsm__pages_run(p, stats_here, &call);
    return call.ret;
}

struct heat_call {
    uint16_t owner;
    struct dsm_region_heat *heat;
    int ret;
};

static void heat_here(struct dsm__pages *p, void *arg)
{
    struct heat_call *call = arg;
    struct dsm__pregion *r = p->regions[call->owner];

    if (r) {
        dsm__heat_read(&r->heat, call->heat);
    } else {
        call->ret = -ENXIO;
    }
}

int dsm__pages_heat(struct dsm__pages *p, uint16_t owner,
                    struct dsm_region_heat *ret_heat)
{
    struct heat_call call = { .owner = owner, .heat = ret_heat };

    dsm__pages_run(p, heat_here, &call);
    return call.ret;
}

/* Peers come and go */

struct connect_call {
    uint16_t peer;
    int ret;
    struct dsm__conn conn;
    const uint8_t *first;
    size_t first_bytes;
};

static void connect_here(struct dsm__pages *p, void *arg)
{
    struct connect_call *call = arg;
    struct dsm__plink *link = &p->links[call->peer];

    if (link->up || (p->lost_peers & (UINT64_C(1) << call->peer))) {
        call->ret = -EEXIST;
        dsm__conn_close(&call->conn);
        return;
    }
    link->conn = call->conn;
    link->last_rx_ns = dsm__pages_now(p);
    call->ret = dsm__plink_open(link, call->first, call->first_bytes);
    if (call->ret < 0) {
        return;
    }
    for (uint16_t i = 0; i < p->nr_nodes; i++) {
        if (p->regions[i] && !p->rights) {
            dsm__coh_met(&p->regions[i]->coh, call->peer);
        }
    }
    dsm__plink_begin(link);
}

int dsm__pages_connect(struct dsm__pages *p, uint16_t peer,
                       const struct dsm__conn *conn, const uint8_t *first,
                       size_t first_bytes)
{
    struct connect_call call = {
        .peer = peer,
        .conn = *conn,
        .first = first,
        .first_bytes = first_bytes,
    };

    dsm__pages_run(p, connect_here, &call);
    return call.ret;
}

static void lose_here(struct dsm__pages *p, void *arg)
{
    uint16_t peer = *(uint16_t *)arg;

    dsm__plink_close(&p->links[peer]);
    forget_peer(p, peer);
}

void dsm__pages_lose(struct dsm__pages *p, uint16_t peer)
{
    dsm__pages_run(p, lose_here, &peer);
}

/* Beginning and end */

int dsm_pages_available(const char **ret_why)
{
    const char *why;
    int fd = dsm__uffd_open(&why);

    if (fd < 0) {
        if (ret_why) {
            *ret_why = why;
        }
        return fd;
    }
    close(fd);
    return 0;
}

static int pages_init_loop(struct dsm__pages *p)
{
    struct epoll_event ev = { .events = EPOLLIN };
    const char *why;

    p->uffd = dsm__uffd_open(&why);
    if (p->uffd < 0) {
        return p->uffd;
    }
    p->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    p->kick_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    p->note_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (p->epoll_fd < 0 || p->kick_fd < 0 || p->note_fd < 0) {
        return -errno;
    }
    ev.data.ptr = &p->uffd;
    if (epoll_ctl(p->epoll_fd, EPOLL_CTL_ADD, p->uffd, &ev) < 0) {
        return -errno;
    }
    ev.data.ptr = &p->kick_fd;
    return epoll_ctl(p->epoll_fd, EPOLL_CTL_ADD, p->kick_fd, &ev) < 0 ? -errno
                                                                      : 0;
}

static int pages_start_thread(struct dsm__pages *p)
{
    sigset_t all, old;
    int ret;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    p->threaded = true;
    ret = pthread_create(&p->thread, NULL, pages_thread, p);
    p->threaded = ret == 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return -ret;
}

int dsm__pages_create(const struct dsm__pages_config *config,
                      struct dsm__pages **ret_pages)
{
    struct dsm__pages *p = calloc(1, sizeof(*p));
    int ret = 0;

    if (!p) {
        return -ENOMEM;
    }
    p->self = config->self;
    p->nr_nodes = config->nr_nodes;
    p->page_bytes = config->page_bytes;
    p->rights = config->rights;
    p->hold_us = config->hold_us;
    p->spin_us = config->spin_us;
    p->heartbeat_ns = config->heartbeat_ms * NSEC_PER_MSEC;
    p->timeout_ns = config->peer_timeout_ms * NSEC_PER_MSEC;
    p->uffd = p->epoll_fd = p->kick_fd = p->note_fd = -1;
    for (uint16_t i = 0; i < p->nr_nodes; i++) {
        if (dsm__plink_init(&p->links[i], p, i) < 0) {
            ret = -ENOMEM;
        }
    }
    pthread_mutex_init(&p->calls_lock, NULL);
    pthread_mutex_init(&p->notes_lock, NULL);
    pthread_cond_init(&p->calls_done, NULL);
    p->check_ns = dsm__pages_now(p) + p->heartbeat_ns / 2;
    if (ret == 0) {
        ret = pages_init_loop(p);
    }
    if (ret == 0 && !config->no_thread) {
        ret = pages_start_thread(p);
    }
    if (ret < 0) {
        dsm__pages_destroy(p);
        return ret;
    }
    *ret_pages = p;
    return 0;
}

static void stop_here(struct dsm__pages *p, void *arg)
{
    p->stop = true;
}

static void close_fd(int fd)
{
    if (fd >= 0) {
        close(fd);
    }
}

void dsm__pages_destroy(struct dsm__pages *p)
{
    if (!p) {
        return;
    }
    if (p->threaded) {
        dsm__pages_run(p, stop_here, NULL);
        pthread_join(p->thread, NULL);
    }
    for (uint16_t i = 0; i < p->nr_nodes; i++) {
        dsm__plink_close(&p->links[i]);
    }
    close_fd(p->uffd); /* whoever waits, waits no more */
    for (uint16_t i = 0; i < p->nr_nodes; i++) {
        if (p->regions[i]) {
            region_free(p->regions[i]);
        }
    }
    close_fd(p->epoll_fd);
    close_fd(p->kick_fd);
    close_fd(p->note_fd);
    free(p->held);
    pthread_mutex_destroy(&p->calls_lock);
    pthread_mutex_destroy(&p->notes_lock);
    pthread_cond_destroy(&p->calls_done);
    free(p);
}
