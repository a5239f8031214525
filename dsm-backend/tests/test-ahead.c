/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which pages are asked for ahead of use; src/ahead.c alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ahead.h"

#define PAGES 100000

/* A reader with what it has, and marks. */
struct reader {
    struct dsm__ahead a;
    uint8_t have[PAGES]; /* 1 there, 2 there and a mark */
    uint64_t asked, used, wasted, misses;
    uint32_t largest;
};

static void follow(struct reader *r, const struct dsm__ahead_news *news)
{
    assert_true(news->ask.count <= r->a.max_pages);
    for (uint32_t i = 0; i < news->ask.count; i++) {
        int64_t page = (int64_t)news->ask.first + news->ask.stride * (int64_t)i;

        assert_true(page >= 0 && page < PAGES);
        r->have[page] = i == 0 ? 2 : 1;
    }
    r->asked += news->ask.count;
    r->used += news->used.count;
    for (int i = 0; i < DSM__AHEAD_BATCHES; i++) {
        r->wasted += news->wasted[i].count;
    }
    if (news->ask.count > r->largest) {
        r->largest = news->ask.count;
    }
    assert_true(r->used + r->wasted <= r->asked);
}

static void read_page(struct reader *r, uint64_t page)
{
    struct dsm__ahead_news news;

    if (r->have[page] == 1) {
        return;
    }
    if (r->have[page] == 2) {
        dsm__ahead_touch(&r->a, page, &news);
    } else {
        r->misses++;
        dsm__ahead_miss(&r->a, page, &news);
    }
    r->have[page] = 1;
    follow(r, &news);
}

static struct reader *reader_new(uint32_t max)
{
    struct reader *r = calloc(1, sizeof(*r));

    assert_non_null(r);
    dsm__ahead_init(&r->a, PAGES, max);
    return r;
}

static void test_stream(void **state)
{
    static const int64_t strides[] = { 1, 2, 7, 100, -1, -3 };

    for (size_t k = 0; k < sizeof(strides) / sizeof(strides[0]); k++) {
        struct reader *r = reader_new(128);
        int64_t page = strides[k] > 0 ? 0 : PAGES - 1;

        for (int i = 0; i < 900; i++, page += strides[k]) {
            read_page(r, page);
        }
        /* Three to see that it is one; then all comes ahead. */
        assert_int_equal(r->misses, 3);
        assert_int_equal(r->largest, 128);
        assert_int_equal(r->wasted, 0);
        assert_true(r->asked >= 897 && r->asked <= 897 + 3 * 128);
        free(r);
    }
}

/* Several at a time, each read in turn. */
static void test_streams(void **state)
{
    struct reader *r = reader_new(64);

    for (int i = 0; i < 500; i++) {
        for (int s = 0; s < 4; s++) {
            read_page(r, s * 20000 + i * (s + 1));
        }
    }
    assert_int_equal(r->misses, 4 * 3);
    assert_int_equal(r->wasted, 0);
    free(r);
}

/* No stream, nothing asked for, or little. */
static void test_random(void **state)
{
    struct reader *r = reader_new(128);
    uint64_t x = 1;

    for (int i = 0; i < 5000; i++) {
        x = x * UINT64_C(6364136223846793005) + 1442695040888963407;
        read_page(r, (x >> 33) % PAGES);
    }
    assert_true(r->asked < 100);
    free(r);
}

/* Streams that stop soon: what they waste makes the next ones careful. */
static void test_waste(void **state)
{
    struct reader *r = reader_new(128);
    uint64_t first = 0;

    for (int s = 0; s < 60; s++) {
        for (int i = 0; i < 3; i++) {
            read_page(r, s * 1500 + i);
        }
        first = s == 0 ? r->asked : first;
    }
    assert_int_equal(first, 2 * DSM__AHEAD_MIN);
    assert_int_equal(r->a.start, DSM__AHEAD_MIN);
    assert_true(r->asked <= 60 * DSM__AHEAD_MIN + 64);
    assert_int_equal(r->used, 0);
    assert_true(r->wasted >= r->asked - DSM__AHEAD_STREAMS * 8);
    free(r);
}

/* Nothing outside the region is ever asked for: see follow(). */
static void test_ends(void **state)
{
    struct reader *r = reader_new(256);

    for (int i = 20; i > 0; i--) {
        read_page(r, PAGES - i);
    }
    for (int i = 20; i >= 0; i--) {
        read_page(r, i);
    }
    assert_int_equal(r->misses, 6);
    free(r);
}

/* What the home declines is missed later; the stream goes on from there. */
static void test_declined(void **state)
{
    struct reader *r = reader_new(32);

    for (int i = 0; i < 200; i++) {
        if (i % 50 == 49) {
            memset(r->have, 0, sizeof(r->have));
        }
        read_page(r, i);
    }
    assert_true(r->misses <= 3 + 4);
    free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stream), cmocka_unit_test(test_streams),
        cmocka_unit_test(test_random), cmocka_unit_test(test_waste),
        cmocka_unit_test(test_ends),   cmocka_unit_test(test_declined),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
