/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Work stealing over numbered chunks. Each worker owns a range [next, end) in
 * one 64-bit word; it takes chunks from the front, thieves take the upper half
 * from the back, all by compare-and-swap on that word.
 *
 *   Q1 A chunk is in one range, or taken. Every change of a word moves chunks
 *      out of it, but for the thief's own store of what it has just stolen,
 *      which nobody else can interfere with: its range is empty, and thieves
 *      leave empty ranges alone.
 *   Q2 A word that has the same value again stands for the same chunks, so a
 *      compare-and-swap that succeeds late is right all the same.
 *   Q3 Who finds all ranges empty may leave: what a thief has in its hands is
 *      done by the thief.
 */
#ifndef WORDCOUNT_CHUNKS_H
#define WORDCOUNT_CHUNKS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct chunk_range {
    _Atomic uint64_t range; /* next << 32 | end */
    uint64_t reserved[15];  /* a cache line of its own */
};
_Static_assert(sizeof(struct chunk_range) == 128, "shared layout");

/** chunks_share() - split [0, nr_chunks) among the workers. */
void chunks_share(struct chunk_range *ranges, uint32_t nr_workers,
                  uint32_t nr_chunks);

/** chunks_take() - the next chunk of one's own range. */
bool chunks_take(struct chunk_range *own, uint32_t *ret_chunk);

/**
 * chunks_steal() - the upper half of a victim's range becomes one's own,
 * which must be empty. Return: how many chunks.
 */
uint32_t chunks_steal(struct chunk_range *own, struct chunk_range *victim);

#endif /* WORDCOUNT_CHUNKS_H */
