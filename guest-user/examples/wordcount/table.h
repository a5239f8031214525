/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A table of words and counts in memory that threads on several nodes, of
 * different ISAs, share. Open addressing, no locks.
 *
 * A slot's key is 0 or says where its word stands in the arena; it is written
 * once, so a slot never changes its word:
 *
 *   T1 Who finds a slot empty writes the word into the arena first and then
 *      the key by a compare-and-swap with release. Who reads the key with
 *      acquire therefore reads the whole word.
 *   T2 Who loses that race compares with the winner's word: the same word ends
 *      in one slot, because all probe in the same order and none is removed.
 *   T3 Counts are added relaxed; nobody reads them before all have said, with
 *      release, that they are done.
 *
 * Addresses differ between processes, so everything is an offset. The layout
 * is the same on every ISA: fixed widths, no padding, no pointers.
 */
#ifndef WORDCOUNT_TABLE_H
#define WORDCOUNT_TABLE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct word_slot {
    _Atomic uint64_t key; /* 0, or hash << 32 | place in the arena / 4 */
    _Atomic uint64_t count;
};

struct word_table {
    uint64_t nr_slots;          /* a power of two */
    uint64_t slots, arena;      /* offsets from the table's start */
    uint64_t arena_bytes;
    uint64_t reserved[12];      /* what follows has a cache line of its own */
    _Atomic uint64_t arena_used;
    uint64_t reserved2[15];
};
_Static_assert(sizeof(struct word_slot) == 16, "shared layout");
_Static_assert(sizeof(struct word_table) == 256, "shared layout");

/* A piece of the arena that one thread fills. Zeroes: none yet. */
struct word_writer {
    uint64_t at, end;
    uint64_t nr_new; /* words that this thread was the first to see */
};

/** table_bytes() - how much memory a table takes. */
size_t table_bytes(uint64_t nr_slots, uint64_t arena_bytes);

/** table_init() - in zeroed memory of table_bytes(). */
void table_init(struct word_table *table, uint64_t nr_slots,
                uint64_t arena_bytes);

/** word_hash() - continue the hash of a word by a letter; start with 0. */
static inline uint32_t word_hash(uint32_t hash, unsigned char letter)
{
    return (hash ^ letter) * 0x01000193u + 0x9e3779b9u;
}

/**
 * table_add() - count one occurrence of a word.
 * Return: 0; -ENOSPC no slot is left; -ENOMEM no room for the word is left.
 */
int table_add(struct word_table *table, struct word_writer *writer,
              const char *word, uint32_t len, uint32_t hash);

/**
 * table_word() - the word of a slot, len bytes without a NUL, or NULL. To be
 * called when nobody adds any more.
 */
const char *table_word(const struct word_table *table, uint64_t slot,
                       uint32_t *ret_len, uint64_t *ret_count);

#endif /* WORDCOUNT_TABLE_H */
