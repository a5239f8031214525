/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The shared structures of wordcount, alone and under contention. */
#include "chunks.h"
#include "table.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void test_share(void **state)
{
    struct chunk_range ranges[4] = { 0 };
    uint32_t chunk, want = 0;

    /* In order, without a gap, the sizes differing by one at most. */
    chunks_share(ranges, 4, 10);
    for (int i = 0; i < 4; i++) {
        uint32_t nr = 0;

        while (chunks_take(&ranges[i], &chunk)) {
            assert_int_equal(chunk, want++);
            nr++;
        }
        assert_in_range(nr, 2, 3);
    }
    assert_int_equal(want, 10);
    chunks_share(ranges, 4, 0);
    assert_false(chunks_take(&ranges[0], &chunk));
    assert_int_equal(chunks_steal(&ranges[0], &ranges[1]), 0);
}

static void test_steal(void **state)
{
    struct chunk_range ranges[2] = { 0 };
    uint32_t chunk;

    chunks_share(ranges, 1, 7);
    /* The upper half, rounded up: 3..6; the victim keeps 0..2. */
    assert_int_equal(chunks_steal(&ranges[1], &ranges[0]), 4);
    for (uint32_t want = 3; want < 7; want++) {
        assert_true(chunks_take(&ranges[1], &chunk));
        assert_int_equal(chunk, want);
    }
    assert_false(chunks_take(&ranges[1], &chunk));
    for (uint32_t want = 0; want < 2; want++) {
        assert_true(chunks_take(&ranges[0], &chunk));
        assert_int_equal(chunk, want);
    }
    /* A single chunk can be stolen, too. */
    assert_int_equal(chunks_steal(&ranges[1], &ranges[0]), 1);
    assert_false(chunks_take(&ranges[0], &chunk));
    assert_true(chunks_take(&ranges[1], &chunk));
    assert_int_equal(chunk, 2);
}

#define NR_THREADS 4
#define NR_CHUNKS 200000

static struct chunk_range ranges[NR_THREADS];
static _Atomic uint8_t times[NR_CHUNKS];
static _Atomic uint32_t nr_stolen;

static void *steal_all(void *arg)
{
    unsigned self = (uintptr_t)arg;
    uint32_t chunk;
    bool more = true;

    while (more) {
        while (chunks_take(&ranges[self], &chunk)) {
            atomic_fetch_add(&times[chunk], 1);
        }
        more = false;
        for (unsigned i = 1; i < NR_THREADS && !more; i++) {
            uint32_t nr = chunks_steal(&ranges[self],
                                       &ranges[(self + i) % NR_THREADS]);

            nr_stolen += nr;
            more = nr != 0;
        }
    }
    return NULL;
}

static void test_each_chunk_once(void **state)
{
    pthread_t threads[NR_THREADS];

    /* All of it belongs to the first: the others live by stealing. */
    chunks_share(ranges, 1, NR_CHUNKS);
    for (uintptr_t i = 0; i < NR_THREADS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, steal_all,
                                        (void *)i), 0);
    }
    for (int i = 0; i < NR_THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    for (int i = 0; i < NR_CHUNKS; i++) {
        assert_int_equal(times[i], 1);
    }
}

static uint32_t hash_of(const char *word)
{
    uint32_t hash = 0;

    while (*word) {
        hash = word_hash(hash, *word++);
    }
    return hash;
}

static uint64_t count_of(const struct word_table *t, const char *word)
{
    for (uint64_t i = 0; i < t->nr_slots; i++) {
        uint64_t count;
        uint32_t len;
        const char *text = table_word(t, i, &len, &count);

        if (text && len == strlen(word) && !memcmp(text, word, len)) {
            return count;
        }
    }
    return 0;
}

static void test_table(void **state)
{
    struct word_table *t = calloc(1, table_bytes(4, 1 << 16));
    struct word_writer w = { 0 };
    const char *const words[] = { "a", "ab", "b", "abc" };

    table_init(t, 4, 1 << 16);
    for (int n = 1; n <= 3; n++) {
        for (int i = 0; i < 4; i++) {
            assert_int_equal(table_add(t, &w, words[i], strlen(words[i]),
                                       hash_of(words[i])), 0);
            assert_int_equal(count_of(t, words[i]), n);
        }
    }
    assert_int_equal(w.nr_new, 4);
    assert_int_equal(table_add(t, &w, "x", 1, hash_of("x")), -ENOSPC);
    assert_int_equal(table_add(t, &w, "ab", 2, hash_of("ab")), 0);
    free(t);
}

static void test_equal_hashes(void **state)
{
    struct word_table *t = calloc(1, table_bytes(8, 1 << 16));
    struct word_writer w = { 0 };

    /* Different words under one hash must stay apart. */
    table_init(t, 8, 1 << 16);
    assert_int_equal(table_add(t, &w, "one", 3, 77), 0);
    assert_int_equal(table_add(t, &w, "two", 3, 77), 0);
    assert_int_equal(table_add(t, &w, "on", 2, 77), 0);
    assert_int_equal(table_add(t, &w, "two", 3, 77), 0);
    assert_int_equal(count_of(t, "one"), 1);
    assert_int_equal(count_of(t, "two"), 2);
    assert_int_equal(count_of(t, "on"), 1);
    free(t);
}

static void test_arena_full(void **state)
{
    enum { ARENA = 40000 };
    struct word_table *t = calloc(1, table_bytes(1 << 16, ARENA));
    struct word_writer w = { 0 }, other = { 0 };
    char word[16];
    int rc = 0, n;

    table_init(t, 1 << 16, ARENA);
    for (n = 0; !rc; n++) {
        snprintf(word, sizeof(word), "w%d", n);
        rc = table_add(t, &w, word, strlen(word), hash_of(word));
    }
    assert_int_equal(rc, -ENOMEM);
    assert_in_range(n, 1000, ARENA / 8);
    /* Nobody else finds room either; words that are there still count. */
    assert_int_equal(table_add(t, &other, "new", 3, hash_of("new")), -ENOMEM);
    assert_int_equal(table_add(t, &other, "w0", 2, hash_of("w0")), 0);
    assert_int_equal(count_of(t, "w0"), 2);
    free(t);
}

static struct word_table *shared;

static void *add_all(void *arg)
{
    struct word_writer w = { 0 };
    char word[16];

    for (int n = 0; n < 20000; n++) {
        /* All threads meet at the same new words, and at an old one. */
        snprintf(word, sizeof(word), "w%d", n);
        assert_int_equal(table_add(shared, &w, word, strlen(word),
                                   hash_of(word)), 0);
        assert_int_equal(table_add(shared, &w, "hot", 3, hash_of("hot")), 0);
    }
    return (void *)(uintptr_t)w.nr_new;
}

static void test_one_slot_for_a_word(void **state)
{
    pthread_t threads[NR_THREADS];
    uint64_t nr = 0, nr_new = 0;

    shared = calloc(1, table_bytes(1 << 15, 1 << 22));
    table_init(shared, 1 << 15, 1 << 22);
    for (int i = 0; i < NR_THREADS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, add_all, NULL), 0);
    }
    for (int i = 0; i < NR_THREADS; i++) {
        void *ret;

        pthread_join(threads[i], &ret);
        nr_new += (uintptr_t)ret;
    }
    for (uint64_t i = 0; i < shared->nr_slots; i++) {
        uint64_t count;
        uint32_t len;
        const char *text = table_word(shared, i, &len, &count);

        if (text) {
            assert_int_equal(count, len == 3 && !memcmp(text, "hot", 3)
                                        ? 20000 * NR_THREADS
                                        : NR_THREADS);
            nr++;
        }
    }
    assert_int_equal(nr, 20001);
    assert_int_equal(nr_new, 20001);
    free(shared);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_share),
        cmocka_unit_test(test_steal),
        cmocka_unit_test(test_each_chunk_once),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_equal_hashes),
        cmocka_unit_test(test_arena_full),
        cmocka_unit_test(test_one_slot_for_a_word),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
