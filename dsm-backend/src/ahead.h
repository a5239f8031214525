/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Xfetch: which pages to ask for ahead of use. Pure: faults in, ranges out.
 *
 * Reads that miss and follow each other at a constant distance are a stream.
 * For a stream pages are asked for in batches. The first page of a batch is
 * left unmapped when it comes (its mark), so that its first use is seen: then
 * the batch counts as used, and the next one, larger, is asked for while this
 * one is read. A stream that nothing is heard of any more gives its place to
 * a new one; what it was given and did not use was wasted, and streams begin
 * with less.
 */
#ifndef DSM_SRC_AHEAD_H
#define DSM_SRC_AHEAD_H

#include <stdbool.h>
#include <stdint.h>

#define DSM__AHEAD_STREAMS 8
#define DSM__AHEAD_BATCHES 3
#define DSM__AHEAD_MIN 4 /* pages in a batch */

struct dsm__range {
    uint64_t first;
    int64_t stride;
    uint32_t count; /* 0: none */
};

struct dsm__stream {
    uint64_t last; /* page that missed, or mark that was touched, last */
    int64_t stride; /* 0: not known yet */
    uint32_t hits;  /* misses at this stride */
    uint32_t window;
    uint64_t next;  /* first page not asked for yet */
    uint64_t used;  /* when it was heard of last, a count of events */
    struct dsm__range batch[DSM__AHEAD_BATCHES]; /* not touched, oldest first */
    unsigned int nr_batches;
};

struct dsm__ahead {
    uint64_t nr_pages;
    uint32_t max_pages; /* in a batch */
    uint32_t start;     /* first window of a new stream */
    uint64_t events;
    struct dsm__stream streams[DSM__AHEAD_STREAMS];
};

/* What follows from an event. */
struct dsm__ahead_news {
    struct dsm__range ask; /* ask for these, the first one is the mark */
    struct dsm__range used; /* these were used */
    struct dsm__range wasted[DSM__AHEAD_BATCHES]; /* these were not */
};

void dsm__ahead_init(struct dsm__ahead *a, uint64_t nr_pages,
                     uint32_t max_pages);
/** dsm__ahead_miss() - a read of @page had to wait. */
void dsm__ahead_miss(struct dsm__ahead *a, uint64_t page,
                     struct dsm__ahead_news *ret);
/** dsm__ahead_touch() - a mark was touched. */
void dsm__ahead_touch(struct dsm__ahead *a, uint64_t page,
                      struct dsm__ahead_news *ret);

#endif
