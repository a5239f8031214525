/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "chunks.h"

static uint64_t pack(uint32_t next, uint32_t end)
{
    return (uint64_t)next << 32 | end;
}

void chunks_share(struct chunk_range *ranges, uint32_t nr_workers,
                  uint32_t nr_chunks)
{
    for (uint32_t i = 0; i < nr_workers; i++) {
        uint32_t next = (uint64_t)nr_chunks * i / nr_workers;
        uint32_t end = (uint64_t)nr_chunks * (i + 1) / nr_workers;

        atomic_store_explicit(&ranges[i].range, pack(next, end),
                              memory_order_release);
    }
}

bool chunks_take(struct chunk_range *own, uint32_t *ret_chunk)
{
    uint64_t range = atomic_load_explicit(&own->range, memory_order_relaxed);

    for (;;) {
        uint32_t next = range >> 32, end = range;

        if (next >= end) {
            return false;
        }
        if (atomic_compare_exchange_weak_explicit(
                &own->range, &range, pack(next + 1, end), memory_order_relaxed,
                memory_order_relaxed)) {
            *ret_chunk = next;
            return true;
        }
    }
}

uint32_t chunks_steal(struct chunk_range *own, struct chunk_range *victim)
{
    uint64_t range = atomic_load_explicit(&victim->range, memory_order_relaxed);

    for (;;) {
        uint32_t next = range >> 32, end = range;
        uint32_t nr = next < end ? (end - next + 1) / 2 : 0;

        if (!nr) {
            return 0;
        }
        if (atomic_compare_exchange_weak_explicit(
                &victim->range, &range, pack(next, end - nr),
                memory_order_relaxed, memory_order_relaxed)) {
            atomic_store_explicit(&own->range, pack(end - nr, end),
                                  memory_order_relaxed);
            return nr;
        }
    }
}
