/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Regions of which all nodes share the memory: what is left to say about a
 * page is who may write and who may execute it (rights.c).
 *
 * A mapping of another's region is protected as a whole when it is attached.
 * The home's own is not even registered with userfaultfd until another node
 * executes something of it, and then only the huge page around that: so the
 * home's memory stays as fast as memory can be.
 *
 * Who executes asks before he reads (dsm__pages_execute()). He notes what he is
 * about to read, then looks at his claim; the protocol thread changes the
 * claim, then has the embedder look at his notes (forbid_right()). So either
 * the reader sees that he must wait, or what he makes of the page is dropped.
 * test-shared, rewritten.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "pages.h"

/*
 * A right to execute is kept for so many hold times: a thread has to wake up,
 * translate the page and begin to execute it.
 */
#define HOLD_FACTOR 4

static void send_message(void *ctx, uint16_t to,
                         const struct dsm__rights_msg *msg)
{
    struct dsm__pregion *r = ctx;
    struct dsm__page_frame f = {
        .type = DSM__PAGE_RIGHTS + DSM__NR_RIGHTS * msg->type + msg->right,
        .region = r->owner,
        .page = msg->page,
        .before = msg->before,
        .after = msg->after,
    };

    dsm__plink_send(&r->pages->links[to], &f, NULL);
}

static void allow_right(void *ctx, uint64_t page, enum dsm__right right)
{
    struct dsm__pregion *r = ctx;

    if (right == DSM__RIGHT_WRITE) {
        dsm__pages_memory(r, page, DSM__MEM_ALLOW);
    } else {
        r->won[r->next_won].page = page;
        r->won[r->next_won].at_us = r->pages->now_us;
        r->won[r->next_won].valid = true;
        r->next_won = (r->next_won + 1) % DSM__PAGES_REQUESTS;
    }
}

static void forbid_right(void *ctx, uint64_t page, enum dsm__right right)
{
    struct dsm__pregion *r = ctx;

    if (right == DSM__RIGHT_WRITE) {
        r->stats.downgrades++;
        dsm__pages_memory(r, page, DSM__MEM_PROTECT);
    } else {
        r->stats.invalidations++;
        if (r->params.invalidated) {
            r->params.invalidated(r->params.opaque, r->owner, page, 1);
        }
    }
}

static bool is_executed(void *ctx, uint64_t page)
{
    struct dsm__pregion *r = ctx;

    return !r->params.executed ||
           r->params.executed(r->params.opaque, r->owner, page);
}

static bool hold_right(void *ctx, uint64_t page)
{
    struct dsm__pregion *r = ctx;
    struct dsm__pages *p = r->pages;
    uint32_t hold_us = HOLD_FACTOR * p->hold_us;

    for (int i = 0; i < DSM__PAGES_REQUESTS; i++) {
        if (r->won[i].valid && r->won[i].page == page &&
            p->now_us - r->won[i].at_us < hold_us) {
            r->stats.holds++;
            dsm__pages_hold(r, page, r->won[i].at_us + hold_us);
            return true;
        }
    }
    return false;
}

static const struct dsm__rights_ops rights_ops = {
    .send = send_message,
    .allow = allow_right,
    .forbid = forbid_right,
    .executed = is_executed,
    .hold = hold_right,
};

int dsm__prights_init(struct dsm__pregion *r)
{
    struct dsm__pages *p = r->pages;
    bool home = r->owner == p->self;

    r->rights = (struct dsm__rights) {
        .self = p->self,
        .home = r->owner,
        .nr_nodes = p->nr_nodes,
        .limit = DSM__PAGES_REQUESTS,
        .nr_pages = r->nr_pages,
        .ops = &rights_ops,
        .ctx = r,
    };
    r->rights.claims = dsm__pages_map_table(r->nr_pages);
    if (home) {
        r->rights.pages =
            dsm__pages_map_table(r->nr_pages * sizeof(*r->rights.pages));
    }
    return r->rights.claims && (!home || r->rights.pages) ? 0 : -ENOMEM;
}

void dsm__prights_free(struct dsm__pregion *r)
{
    if (r->rights.claims) {
        munmap(r->rights.claims, r->nr_pages);
    }
    if (r->rights.pages) {
        munmap(r->rights.pages, r->nr_pages * sizeof(*r->rights.pages));
    }
}

int dsm__prights_register(struct dsm__pregion *r)
{
    struct dsm__pages *p = r->pages;
    int ret;

    for (uint16_t i = 0; i < p->nr_nodes; i++) {
        if (p->lost_peers & (UINT64_C(1) << i)) {
            dsm__rights_down(&r->rights, i);
        }
    }
    ret = dsm__uffd_register_wp(p->uffd, r->memory, r->bytes);
    if (ret == 0 && r->owner != p->self) {
        ret = dsm__uffd_protect(p->uffd, r->memory, r->bytes);
    }
    return ret;
}

bool dsm__prights_fault(struct dsm__pregion *r, uint64_t page)
{
    enum dsm__claim before =
        dsm__rights_claim(&r->rights, page, DSM__RIGHT_WRITE);

    if (!dsm__rights_want(&r->rights, page, DSM__RIGHT_WRITE)) {
        return false;
    }
    if (before == DSM__CLAIM_NONE) {
        r->stats.write_faults++;
    } else {
        r->stats.local_faults++;
    }
    return true;
}

int dsm__prights_frame(struct dsm__pregion *r, uint16_t from,
                       const struct dsm__page_frame *f, const char **ret_why)
{
    unsigned int type = f->type - DSM__PAGE_RIGHTS;
    struct dsm__rights_msg msg = {
        .type = (uint8_t)(type / DSM__NR_RIGHTS),
        .right = (uint8_t)(type % DSM__NR_RIGHTS),
        .page = f->page,
        .before = f->before,
        .after = f->after,
    };

    return dsm__rights_receive(&r->rights, from, &msg, ret_why);
}

void dsm__prights_down(struct dsm__pregion *r, uint16_t peer)
{
    dsm__rights_down(&r->rights, peer);
    if (peer == r->owner && !r->detached) {
        dsm__pages_memory_all(r, DSM__MEM_ALLOW);
    }
}

/* Those who wait to execute */

int dsm__pages_execute(struct dsm__pages *p, uint16_t owner, uint64_t page)
{
    struct dsm__pregion *r = p->regions[owner];
    struct dsm__waiter w = { .region = r, .page = page };
    uint64_t one = 1;

    if (!r || !p->rights) {
        return -ENXIO;
    }
    if (page >= r->nr_pages) {
        return -EINVAL;
    }
    /* Behind the caller's note of what he will read; see above. */
    atomic_thread_fence(memory_order_seq_cst);
    if (dsm__rights_holds(&r->rights, page, DSM__RIGHT_EXEC)) {
        return 0;
    }
    pthread_mutex_lock(&p->calls_lock);
    w.next = p->new_waiters;
    p->new_waiters = &w;
    (void)!write(p->kick_fd, &one, sizeof(one));
    while (!w.done) {
        pthread_cond_wait(&p->calls_done, &p->calls_lock);
    }
    pthread_mutex_unlock(&p->calls_lock);
    return 0;
}

/* Context: calls_lock held. */
void dsm__prights_take_waiters(struct dsm__pages *p)
{
    struct dsm__waiter *w, *next;

    for (w = p->new_waiters; w; w = next) {
        next = w->next;
        w->next = p->waiters;
        p->waiters = w;
        w->region->stats.read_faults++;
    }
    p->new_waiters = NULL;
}

/* One that finds too much under way is looked at again in the next round. */
void dsm__prights_serve_waiters(struct dsm__pages *p)
{
    struct dsm__waiter **at = &p->waiters, *w, *done = NULL;

    while ((w = *at)) {
        struct dsm__rights *rights = &w->region->rights;

        if (!dsm__rights_holds(rights, w->page, DSM__RIGHT_EXEC)) {
            dsm__rights_want(rights, w->page, DSM__RIGHT_EXEC);
        }
        if (dsm__rights_holds(rights, w->page, DSM__RIGHT_EXEC)) {
            *at = w->next;
            w->next = done;
            done = w;
        } else {
            at = &w->next;
        }
    }
    if (!done) {
        return;
    }
    pthread_mutex_lock(&p->calls_lock);
    for (; done; done = w) {
        w = done->next;
        done->done = true; /* it is gone when the lock is */
    }
    pthread_cond_broadcast(&p->calls_done);
    pthread_mutex_unlock(&p->calls_lock);
}
