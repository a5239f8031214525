/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The hottest pages; src/heat.c alone, against counters of every page. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "heat.h"

#define PAGES 50000

struct truth {
    struct dsm__heat heat;
    uint64_t faults[PAGES], writes[PAGES], total;
};

static void add(struct truth *t, uint64_t page, bool write)
{
    dsm__heat_add(&t->heat, page, write);
    t->faults[page]++;
    t->writes[page] += write;
    t->total++;
}

static const struct dsm_hot_page *find(const struct dsm_region_heat *h,
                                       uint64_t page)
{
    for (uint32_t i = 0; i < h->nr_pages; i++) {
        if (h->page[i].page_idx == page) {
            return &h->page[i];
        }
    }
    return NULL;
}

/* What heat.h promises, H1 to H3, and the ranges. */
static void check(const struct truth *t)
{
    struct dsm_region_heat h;
    uint64_t sum = 0;

    dsm__heat_read(&t->heat, &h);
    assert_int_equal(h.faults, t->total);
    assert_true(h.nr_pages <= DSM_HEAT_PAGES);
    for (uint32_t i = 0; i < h.nr_pages; i++) {
        const struct dsm_hot_page *p = &h.page[i];

        assert_true(p->page_idx < PAGES);
        assert_ptr_equal(find(&h, p->page_idx), p); /* no page twice */
        assert_true(p->faults > 0);
        assert_true(p->faults <= t->faults[p->page_idx]);
        assert_true(t->faults[p->page_idx] <= p->faults + p->missed);
        assert_true(p->writes <= p->faults);
        assert_true(p->writes <= t->writes[p->page_idx]);
        sum += p->faults + p->missed;
    }
    assert_int_equal(sum, t->total);
    for (uint64_t page = 0; page < PAGES; page++) {
        if (t->faults[page] > t->total / DSM_HEAT_PAGES) {
            assert_non_null(find(&h, page));
        }
    }
    assert_true(h.nr_ranges >= 1 && h.nr_ranges <= DSM_HEAT_RANGES);
    sum = 0;
    for (uint32_t i = 0; i < h.nr_ranges; i++) {
        uint64_t in_range = 0;

        for (uint64_t p = i * h.range_pages;
             p < (i + 1) * h.range_pages && p < PAGES; p++) {
            in_range += t->faults[p];
        }
        assert_int_equal(h.range[i], in_range);
        sum += h.range[i];
    }
    assert_int_equal(sum, t->total);
}

static struct truth *truth_new(void)
{
    struct truth *t = calloc(1, sizeof(*t));

    assert_non_null(t);
    dsm__heat_init(&t->heat, PAGES);
    check(t);
    return t;
}

static void test_few(void **state)
{
    struct truth *t = truth_new();
    struct dsm_region_heat h;

    for (int i = 0; i < 1000; i++) {
        add(t, 7, false);
        add(t, 49999, true);
    }
    check(t);
    dsm__heat_read(&t->heat, &h);
    assert_int_equal(h.nr_pages, 2);
    assert_int_equal(find(&h, 7)->faults, 1000);
    assert_int_equal(find(&h, 7)->missed, 0);
    assert_int_equal(find(&h, 7)->writes, 0);
    assert_int_equal(find(&h, 49999)->writes, 1000);
    free(t);
}

/* Few pages that are hot among many that are used once, then others. */
static void test_phases(void **state)
{
    struct truth *t = truth_new();
    uint64_t once = 0;

    for (int phase = 0; phase < 4; phase++) {
        uint64_t before = t->total;

        for (int i = 0; i < 3000; i++) {
            add(t, 1000 + 100 * phase + i % 10, i & 1);
            add(t, 2000 + once++ % 40000, false);
        }
        check(t);
        /* The hot of this phase have come to stay, whatever was before. */
        for (int i = 0; i < 10; i++) {
            struct dsm_region_heat h;

            dsm__heat_read(&t->heat, &h);
            assert_non_null(find(&h, 1000 + 100 * phase + i));
        }
        assert_int_equal(t->total, before + 6000);
    }
    free(t);
}

/* H4: whoever compares two readings can tell that a page was away. */
static void test_comes_back(void **state)
{
    struct truth *t = truth_new();
    struct dsm_region_heat a, b;
    uint64_t page = 100;

    add(t, 5, true);
    dsm__heat_read(&t->heat, &a);
    do { /* until 5 has lost its place */
        add(t, page++, false);
        dsm__heat_read(&t->heat, &b);
    } while (find(&b, 5));
    add(t, 5, false);
    dsm__heat_read(&t->heat, &b);
    assert_true(find(&b, 5)->missed > find(&a, 5)->missed);
    assert_int_equal(find(&b, 5)->faults, 1);
    assert_int_equal(find(&b, 5)->writes, 0);
    check(t);
    free(t);
}

static void test_random(void **state)
{
    const char *given = getenv("DSM_TEST_SEED");
    unsigned int seed = given ? (unsigned int)strtoul(given, NULL, 0)
                              : (unsigned int)time(NULL);

    print_message("DSM_TEST_SEED=%u\n", seed);
    for (int round = 0; round < 20; round++) {
        struct truth *t = truth_new();
        uint64_t spread = 1 + rand_r(&seed) % PAGES;

        for (int i = 0; i < 20000; i++) {
            /* low pages more often than high ones */
            uint64_t page = (uint64_t)rand_r(&seed) % spread;

            page = (uint64_t)rand_r(&seed) % (page + 1);
            add(t, page, rand_r(&seed) & 1);
        }
        check(t);
        free(t);
    }
}

static void test_sizes(void **state)
{
    static const struct {
        uint64_t pages, range_pages;
        uint32_t ranges;
    } sizes[] = {
        { 1, 1, 1 },
        { 127, 1, 127 },
        { DSM_HEAT_RANGES, 1, DSM_HEAT_RANGES },
        { DSM_HEAT_RANGES + 1, 2, DSM_HEAT_RANGES / 2 + 1 },
        { 262144, 262144 / DSM_HEAT_RANGES, DSM_HEAT_RANGES },
        { 262145, 2 * 262144 / DSM_HEAT_RANGES, DSM_HEAT_RANGES / 2 + 1 },
        { UINT64_C(1) << 40, (UINT64_C(1) << 40) / DSM_HEAT_RANGES,
          DSM_HEAT_RANGES },
    };

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct dsm__heat heat;
        struct dsm_region_heat h;

        dsm__heat_init(&heat, sizes[i].pages);
        dsm__heat_add(&heat, 0, false);
        dsm__heat_add(&heat, sizes[i].pages - 1, false);
        dsm__heat_read(&heat, &h);
        assert_int_equal(h.range_pages, sizes[i].range_pages);
        assert_int_equal(h.nr_ranges, sizes[i].ranges);
        assert_int_equal(h.range[0] + h.range[h.nr_ranges - 1],
                         h.nr_ranges == 1 ? 4 : 2);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_few),        cmocka_unit_test(test_phases),
        cmocka_unit_test(test_comes_back), cmocka_unit_test(test_random),
        cmocka_unit_test(test_sizes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
