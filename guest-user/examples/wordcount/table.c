/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "table.h"

#include <errno.h>
#include <string.h>

/* One visit to the shared counter serves many words. */
#define WRITER_BYTES 16384u

/* In the arena, on a border of 4: the length, then the letters. */
struct word {
    uint32_t len;
    char text[];
};

size_t table_bytes(uint64_t nr_slots, uint64_t arena_bytes)
{
    return sizeof(struct word_table) + nr_slots * sizeof(struct word_slot) +
           arena_bytes;
}

void table_init(struct word_table *t, uint64_t nr_slots, uint64_t arena_bytes)
{
    t->nr_slots = nr_slots;
    t->slots = sizeof(*t);
    t->arena = t->slots + nr_slots * sizeof(struct word_slot);
    t->arena_bytes = arena_bytes;
    /* Place 0 stays unused: a key is never 0. */
    atomic_store_explicit(&t->arena_used, 4, memory_order_relaxed);
}

static struct word_slot *slot_at(const struct word_table *t, uint64_t index)
{
    return (struct word_slot *)((uintptr_t)t + t->slots) + index;
}

static struct word *word_at(const struct word_table *t, uint64_t place)
{
    return (struct word *)((uintptr_t)t + t->arena + place);
}

/* Room for size bytes in the arena. Return: its place, or 0. */
static uint64_t take_room(struct word_table *t, struct word_writer *w,
                          uint64_t size)
{
    if (w->end - w->at < size) {
        uint64_t piece = size > WRITER_BYTES / 4 ? size : WRITER_BYTES;
        uint64_t left = t->arena_bytes -
                        atomic_load_explicit(&t->arena_used,
                                             memory_order_relaxed);
        uint64_t at;

        /* Not beyond the end by more than one request a thread can make. */
        if ((int64_t)left < (int64_t)piece) {
            return 0;
        }
        at = atomic_fetch_add_explicit(&t->arena_used, piece,
                                       memory_order_relaxed);
        if (at > t->arena_bytes || t->arena_bytes - at < piece) {
            return 0;
        }
        if (piece == size) {
            return at; /* a giant: not from the thread's own piece */
        }
        w->at = at;
        w->end = at + piece;
    }
    w->at += size;
    return w->at - size;
}

int table_add(struct word_table *t, struct word_writer *w, const char *text,
              uint32_t len, uint32_t hash)
{
    const uint64_t mask = t->nr_slots - 1;
    const uint64_t size = (sizeof(struct word) + len + 3) & ~(uint64_t)3;
    /* The low bits choose the slot, so mix the high ones in. */
    uint64_t at = (hash ^ hash >> 15) & mask;
    uint64_t mine = 0; /* place of our copy, once there is one */

    for (uint64_t probes = 0; probes <= mask; probes++, at = (at + 1) & mask) {
        struct word_slot *slot = slot_at(t, at);
        uint64_t key = atomic_load_explicit(&slot->key, memory_order_acquire);

        if (!key) {
            if (!mine) {
                struct word *word;

                mine = take_room(t, w, size);
                if (!mine) {
                    return -ENOMEM;
                }
                word = word_at(t, mine);
                word->len = len;
                memcpy(word->text, text, len);
            }
            /* T1; on failure key is the winner's, read with acquire. */
            if (atomic_compare_exchange_strong_explicit(
                    &slot->key, &key, (uint64_t)hash << 32 | mine / 4,
                    memory_order_release, memory_order_acquire)) {
                w->nr_new++;
                atomic_fetch_add_explicit(&slot->count, 1,
                                          memory_order_relaxed);
                return 0;
            }
        }
        if (key >> 32 == hash) {
            const struct word *word = word_at(t, (key & UINT32_MAX) * 4);

            if (word->len == len && !memcmp(word->text, text, len)) {
                if (mine && w->at == mine + size) {
                    w->at = mine; /* T2: our copy is not needed */
                }
                atomic_fetch_add_explicit(&slot->count, 1,
                                          memory_order_relaxed);
                return 0;
            }
        }
    }
    return -ENOSPC;
}

const char *table_word(const struct word_table *t, uint64_t index,
                       uint32_t *ret_len, uint64_t *ret_count)
{
    struct word_slot *slot = slot_at(t, index);
    uint64_t key = atomic_load_explicit(&slot->key, memory_order_acquire);
    const struct word *word;

    if (!key) {
        return NULL;
    }
    word = word_at(t, (key & UINT32_MAX) * 4);
    *ret_len = word->len;
    *ret_count = atomic_load_explicit(&slot->count, memory_order_relaxed);
    return word->text;
}
