/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <string.h>

#include "ahead.h"

/* A larger distance between two misses says nothing. */
#define AHEAD_MAX_STRIDE 1024
/* Misses in a row at one distance, the first two of which set it. */
#define AHEAD_HITS 2
#define AHEAD_START_MAX 32

void dsm__ahead_init(struct dsm__ahead *a, uint64_t nr_pages,
                     uint32_t max_pages)
{
    *a = (struct dsm__ahead) {
        .nr_pages = nr_pages,
        .max_pages = max_pages < DSM__AHEAD_MIN ? DSM__AHEAD_MIN : max_pages,
        .start = 2 * DSM__AHEAD_MIN,
    };
}

static uint64_t distance(uint64_t a, uint64_t b)
{
    return a > b ? a - b : b - a;
}

/* Pages from @first on that are in the region, at most @count. */
static struct dsm__range clip(const struct dsm__ahead *a, uint64_t first,
                              int64_t stride, uint32_t count)
{
    struct dsm__range r = { .first = first, .stride = stride };
    uint64_t fit;

    if (first >= a->nr_pages) {
        return r;
    }
    fit = stride > 0 ? (a->nr_pages - 1 - first) / (uint64_t)stride + 1
                     : first / (uint64_t)-stride + 1;
    r.count = fit < count ? fit : count;
    return r;
}

static void ask(struct dsm__ahead *a, struct dsm__stream *s, uint64_t first,
                struct dsm__ahead_news *ret)
{
    if (s->nr_batches == DSM__AHEAD_BATCHES) {
        return;
    }
    ret->ask = clip(a, first, s->stride, s->window);
    if (ret->ask.count) {
        s->batch[s->nr_batches++] = ret->ask;
        s->next = first + (uint64_t)(s->stride * (int64_t)ret->ask.count);
    }
}

static void waste(struct dsm__ahead *a, struct dsm__stream *s,
                  struct dsm__ahead_news *ret)
{
    for (unsigned int i = 0; i < s->nr_batches; i++) {
        ret->wasted[i] = s->batch[i];
    }
    if (s->nr_batches && a->start > DSM__AHEAD_MIN) {
        a->start /= 2;
    }
    s->nr_batches = 0;
}

/* Is it where this stream has asked, or would ask next? */
static bool is_near(const struct dsm__stream *s, uint64_t page)
{
    int64_t d = (int64_t)(page - s->last);

    return s->hits >= AHEAD_HITS && d % s->stride == 0 && d / s->stride > 0 &&
           d / s->stride <= 4 * (int64_t)s->window;
}

static struct dsm__stream *find(struct dsm__ahead *a, uint64_t page)
{
    struct dsm__stream *best = NULL;

    for (int i = 0; i < DSM__AHEAD_STREAMS; i++) {
        struct dsm__stream *s = &a->streams[i];

        if (s->used && s->stride &&
            (page == s->last + (uint64_t)s->stride || is_near(s, page))) {
            return s;
        }
    }
    /* One of which nothing is known yet but where it was. */
    for (int i = 0; i < DSM__AHEAD_STREAMS; i++) {
        struct dsm__stream *s = &a->streams[i];

        if (s->used && s->hits < AHEAD_HITS && page != s->last &&
            distance(page, s->last) <= AHEAD_MAX_STRIDE &&
            (!best || distance(page, s->last) < distance(page, best->last))) {
            best = s;
        }
    }
    return best;
}

static struct dsm__stream *replace(struct dsm__ahead *a,
                                   struct dsm__ahead_news *ret)
{
    struct dsm__stream *oldest = &a->streams[0];

    for (int i = 1; i < DSM__AHEAD_STREAMS; i++) {
        if (a->streams[i].used < oldest->used) {
            oldest = &a->streams[i];
        }
    }
    waste(a, oldest, ret);
    memset(oldest, 0, sizeof(*oldest));
    return oldest;
}

void dsm__ahead_miss(struct dsm__ahead *a, uint64_t page,
                     struct dsm__ahead_news *ret)
{
    struct dsm__stream *s = find(a, page);

    memset(ret, 0, sizeof(*ret));
    if (!s) {
        s = replace(a, ret);
        s->last = page;
        s->used = ++a->events;
        return;
    }
    s->used = ++a->events;
    if (s->hits >= AHEAD_HITS) {
        /* It was declined, or nobody asked in time: begin anew from here. */
        waste(a, s, ret);
        s->last = page;
        ask(a, s, page + (uint64_t)s->stride, ret);
        return;
    }
    if (s->stride && page == s->last + (uint64_t)s->stride) {
        s->hits++;
    } else {
        s->stride = (int64_t)(page - s->last);
        s->hits = 1;
    }
    s->last = page;
    if (s->hits >= AHEAD_HITS) {
        s->window = a->start < a->max_pages ? a->start : a->max_pages;
        ask(a, s, page + (uint64_t)s->stride, ret);
    }
}

void dsm__ahead_touch(struct dsm__ahead *a, uint64_t page,
                      struct dsm__ahead_news *ret)
{
    memset(ret, 0, sizeof(*ret));
    for (int i = 0; i < DSM__AHEAD_STREAMS; i++) {
        struct dsm__stream *s = &a->streams[i];

        for (unsigned int k = 0; k < s->nr_batches; k++) {
            if (s->batch[k].first != page) {
                continue;
            }
            ret->used = s->batch[k];
            s->nr_batches--;
            for (unsigned int j = k; j < s->nr_batches; j++) {
                s->batch[j] = s->batch[j + 1];
            }
            s->last = page;
            s->used = ++a->events;
            s->window = 2 * s->window < a->max_pages ? 2 * s->window
                                                     : a->max_pages;
            if (a->start < AHEAD_START_MAX) {
                a->start *= 2;
            }
            ask(a, s, s->next, ret);
            return;
        }
    }
}
