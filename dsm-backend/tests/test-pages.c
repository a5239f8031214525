/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Coherent memory between processes: the real kernel, the real sockets. */
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "machine.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

static _Atomic uint64_t *word(struct machine *m, int owner, int page, int i)
{
    return (_Atomic uint64_t *)(m->memory[owner] + (size_t)page * PAGE) + i;
}

/* One page after the other goes round: read, write, read by all. */
static void run_round(struct machine *m)
{
    for (int owner = 0; owner < m->nr; owner++) {
        for (int page = 0; page < 4; page++) {
            for (int writer = 0; writer < m->nr; writer++) {
                uint64_t value = 1 + writer + 10 * page + 100 * owner;

                machine_barrier(m);
                if (m->self == writer) {
                    *word(m, owner, page, 7) = value;
                }
                machine_barrier(m);
                CHECK(*word(m, owner, page, 7) == value, "%llu",
                      (unsigned long long)*word(m, owner, page, 7));
            }
        }
    }
    machine_barrier(m);
    for (int owner = 0; owner < m->nr; owner++) {
        struct dsm_region_stats st = machine_stats(m, owner);

        CHECK(st.pages_none + st.pages_shared + st.pages_modified ==
                  m->region_bytes / PAGE,
              "of region %d node %d: %llu none, %llu shared, %llu modified",
              owner, m->self, (unsigned long long)st.pages_none,
              (unsigned long long)st.pages_shared,
              (unsigned long long)st.pages_modified);
        CHECK(st.invalidations == m->invalidated[owner], "hook");
        CHECK(st.pages_waiting == 0 && st.pages_lost == 0, "quiet");
        /* Each page was written by all and then read by all. */
        CHECK(st.pages_shared >= 4, "shared");
    }
    machine_barrier(m);
}

/*
 * Random readers and writers of words that one node each writes. The board
 * says what has been written for sure, and what may have been begun.
 */
#define RANDOM_PAGES 6
#define RANDOM_STEPS 20000

static void run_random(struct machine *m)
{
    _Atomic uint64_t *done = m->board->words, *begun = done + 4096;
    uint64_t mine = 0;

    for (int i = 0; i < RANDOM_STEPS; i++) {
        int owner = machine_random(m) % m->nr;
        int page = machine_random(m) % RANDOM_PAGES;
        int writer = machine_random(m) % m->nr;
        int at = (owner * RANDOM_PAGES + page) * m->nr + writer;

        if (machine_random(m) % 3 == 0) {
            at = (owner * RANDOM_PAGES + page) * m->nr + m->self;
            begun[at] = done[at] + 1;
            *word(m, owner, page, m->self) = done[at] + 1;
            done[at] = done[at] + 1;
        } else {
            uint64_t low = done[at];
            uint64_t seen = *word(m, owner, page, writer);
            uint64_t high = begun[at];

            CHECK(seen >= low && seen <= high,
                  "node %d sees %llu of %llu..%llu in page %d of %d", m->self,
                  (unsigned long long)seen, (unsigned long long)low,
                  (unsigned long long)high, page, owner);
        }
        if (machine_random(m) % 5 == 0) {
            atomic_fetch_add(word(m, owner, page, 100), 1);
            mine++;
        }
    }
    atomic_fetch_add(&m->board->words[8192], mine);
    machine_barrier(m);
    mine = 0;
    for (int owner = 0; owner < m->nr; owner++) {
        for (int page = 0; page < RANDOM_PAGES; page++) {
            mine += *word(m, owner, page, 100);
        }
    }
    CHECK(mine == m->board->words[8192], "%llu of %llu increments are left",
          (unsigned long long)mine,
          (unsigned long long)m->board->words[8192]);
    machine_barrier(m);
}

/* A write to what is readable here takes no data; a page nobody has does. */
static void run_grant(struct machine *m)
{
    struct dsm_region_heat heat;
    struct dsm_region_stats st;

    if (m->self == 1) {
        (void)*word(m, 0, 0, 0);
        *word(m, 0, 0, 0) = 5;
        st = machine_stats(m, 0);
        CHECK(st.pages_in == 1 && st.upgrades == 1 && st.read_faults == 1 &&
                  st.write_faults == 1,
              "in %llu upgrades %llu", (unsigned long long)st.pages_in,
              (unsigned long long)st.upgrades);
        *word(m, 0, 1, 0) = 5;
        st = machine_stats(m, 0);
        CHECK(st.pages_in == 2 && st.upgrades == 1 && st.pages_modified == 2,
              "in %llu", (unsigned long long)st.pages_in);
        CHECK(dsm_region_heat(m->node, 0, &heat) == 0, "heat");
        CHECK(heat.faults == 3 && heat.nr_pages == 2 &&
                  heat.page[0].page_idx == 0 && heat.page[0].faults == 2 &&
                  heat.page[0].writes == 1 && heat.page[1].page_idx == 1 &&
                  heat.page[1].faults == 1 && heat.page[1].writes == 1,
              "%llu faults of %u pages", (unsigned long long)heat.faults,
              heat.nr_pages);
        CHECK(dsm_region_heat(m->node, (uint16_t)m->nr, &heat) == -ENXIO,
              "no such region");
    }
    machine_barrier(m);
}

/* One after the other: the page of node 0 that all of them use. */
static void in_turn(struct machine *m, uint64_t *count, bool write)
{
    for (int turn = 0; turn < m->nr; turn++, *count += write) {
        if (m->self == turn) {
            uint64_t is = *word(m, 0, 7, 0);

            CHECK(is == *count, "%llu, not %llu", (unsigned long long)is,
                  (unsigned long long)*count);
            if (write) {
                *word(m, 0, 7, 0) = is + 1;
            }
        }
        machine_barrier(m);
    }
}

/* Who had to ask twice, twice, takes the page at once, as long as it writes. */
static void run_travel(struct machine *m)
{
    struct dsm_region_stats st;
    uint64_t count = 0, faults;

    for (int i = 0; i < 10; i++) {
        in_turn(m, &count, true);
    }
    st = machine_stats(m, 0);
    /* The home had the page to itself when it began. */
    CHECK(st.taken == (m->self == 0 ? 7 : 8) && st.taken_unused == 0 &&
              st.read_faults == (m->self == 0 ? 9 : 10) &&
              st.write_faults == 2,
          "taken %llu unused %llu reads %llu writes %llu",
          (unsigned long long)st.taken, (unsigned long long)st.taken_unused,
          (unsigned long long)st.read_faults,
          (unsigned long long)st.write_faults);
    machine_barrier(m);
    in_turn(m, &count, false);
    in_turn(m, &count, false);
    st = machine_stats(m, 0);
    CHECK(st.taken_unused == 1, "unused %llu",
          (unsigned long long)st.taken_unused);
    faults = st.read_faults;
    machine_barrier(m);
    in_turn(m, &count, false);
    st = machine_stats(m, 0);
    CHECK(st.read_faults == faults && st.taken_unused == 1, "reads %llu",
          (unsigned long long)(st.read_faults - faults));
    machine_barrier(m);
}

/* Threads that wait for the same page wait together. */
static struct machine *the_machine;

static void *read_one(void *arg)
{
    return (void *)(uintptr_t)*word(the_machine, 0, 3, 0);
}

static void run_coalesce(struct machine *m)
{
    pthread_t thread[8];
    void *value;

    if (m->self == 0) {
        *word(m, 0, 3, 0) = 77;
    }
    machine_barrier(m);
    if (m->self == 1) {
        the_machine = m;
        for (int i = 0; i < 8; i++) {
            CHECK(pthread_create(&thread[i], NULL, read_one, NULL) == 0,
                  "thread %d", i);
        }
        for (int i = 0; i < 8; i++) {
            pthread_join(thread[i], &value);
            CHECK((uintptr_t)value == 77, "%p", value);
        }
        CHECK(machine_stats(m, 0).pages_in == 1, "one answer for all");
    }
    machine_barrier(m);
}

/* The kernel's own accesses wait like others. */
static void run_kernel(struct machine *m)
{
    char buf[3 * PAGE];
    int fd[2];

    if (m->self == 0) {
        memset(m->memory[0], 'a', 3 * PAGE);
    }
    machine_barrier(m);
    if (m->self == 1) {
        CHECK(pipe(fd) == 0, "%s", strerror(errno));
        CHECK(write(fd[1], m->memory[0] + 100, 2 * PAGE) == 2 * PAGE, "%s",
              strerror(errno));
        CHECK(read(fd[0], buf, 2 * PAGE) == 2 * PAGE, "%s", strerror(errno));
        for (int i = 0; i < 2 * PAGE; i++) {
            CHECK(buf[i] == 'a', "byte %d is %d", i, buf[i]);
        }
        memset(buf, 'b', sizeof(buf));
        CHECK(write(fd[1], buf, 2 * PAGE) == 2 * PAGE, "%s", strerror(errno));
        CHECK(read(fd[0], m->memory[0] + PAGE / 2, 2 * PAGE) == 2 * PAGE, "%s",
              strerror(errno));
    }
    machine_barrier(m);
    if (m->self == 0) {
        CHECK(m->memory[0][PAGE / 2 - 1] == 'a' &&
                  m->memory[0][PAGE / 2] == 'b' &&
                  m->memory[0][PAGE / 2 + 2 * PAGE - 1] == 'b' &&
                  m->memory[0][PAGE / 2 + 2 * PAGE] == 'a',
              "what read(2) wrote");
    }
    machine_barrier(m);
}

/*
 * Pages that nobody has ever touched are written by their home while another
 * node takes them: nothing may be lost in the kernel's first fault.
 */
#define RACE_PAGES 2000

static void run_first_touch_race(struct machine *m)
{
    for (int page = 0; page < RACE_PAGES; page++) {
        atomic_fetch_add(word(m, 0, page, 0), 1);
        atomic_fetch_add(word(m, 0, page, 1 + m->self), 1);
        if (page % 64 == 0) {
            machine_barrier(m);
        }
    }
    machine_barrier(m);
    for (int page = 0; page < RACE_PAGES; page++) {
        CHECK(*word(m, 0, page, 0) == (uint64_t)m->nr, "page %d: %llu", page,
              (unsigned long long)*word(m, 0, page, 0));
    }
    machine_barrier(m);
}

/* Bytes of this process's memory from @start on that huge pages map. */
static size_t huge_bytes(const uint8_t *start, size_t bytes)
{
    FILE *f = fopen("/proc/self/smaps", "r");
    unsigned long from, to, kib;
    bool within = false;
    size_t found = 0;
    char line[256];

    CHECK(f, "%s", strerror(errno));
    while (fgets(line, sizeof(line), f)) {
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2) {
            within = from >= (uintptr_t)start && to <= (uintptr_t)start + bytes;
        } else if (within &&
                   sscanf(line, "ShmemPmdMapped: %lu kB", &kib) == 1) {
            found += kib * 1024;
        }
    }
    fclose(f);
    return found;
}

/* Return: bytes that have huge pages now; 0 where the host has none. */
static size_t make_huge(uint8_t *start, size_t bytes)
{
    size_t done = 0;

    for (size_t at = 0; at + HUGE_PAGE <= bytes; at += HUGE_PAGE) {
        if (madvise(start + at, HUGE_PAGE, MADV_COLLAPSE) == 0) {
            done += HUGE_PAGE;
        }
    }
    return done;
}

/*
 * What the home has as huge pages is shared while it writes there; what is
 * not shared stays as it is.
 */
static void run_huge(struct machine *m)
{
    int pages = m->region_bytes / PAGE, half = pages / 2;
    size_t huge = 0, left;

    if (m->self == 0) {
        for (int page = 0; page < pages; page++) {
            *word(m, 0, page, 100) = page;
        }
        huge = make_huge(m->memory[0], m->region_bytes);
        left = huge_bytes(m->memory[0], m->region_bytes);
        CHECK(left == huge, "%zu of %zu bytes are huge", left, huge);
        printf("%zu MiB are huge\n", huge >> 20);
    }
    machine_barrier(m);
    for (int round = 0; round < 3; round++) {
        for (int page = 0; page < half; page += 1 + machine_random(m) % 8) {
            atomic_fetch_add(word(m, 0, page, 0), 1);
            atomic_fetch_add(word(m, 0, page, 1 + m->self), 1);
            CHECK(*word(m, 0, page, 100) == (uint64_t)page, "page %d: %llu",
                  page, (unsigned long long)*word(m, 0, page, 100));
        }
    }
    machine_barrier(m);
    for (int page = 0; page < half; page++) {
        uint64_t sum = 0;

        for (int node = 0; node < m->nr; node++) {
            sum += *word(m, 0, page, 1 + node);
        }
        CHECK(*word(m, 0, page, 0) == sum, "page %d: %llu, not %llu", page,
              (unsigned long long)*word(m, 0, page, 0),
              (unsigned long long)sum);
    }
    if (m->self == 0 && huge) {
        left = huge_bytes(m->memory[0], m->region_bytes);
        CHECK(left == huge / 2, "%zu of %zu bytes are huge", left, huge);
    }
    machine_barrier(m);
}

/* All write one page, as they like and in turn: all get on. */
static void run_pingpong(struct machine *m)
{
    struct dsm_region_stats st;

    for (int i = 0; i < 20000; i++) {
        atomic_fetch_add(word(m, 0, 0, m->self), 1);
    }
    /* And strictly in turn. */
    for (uint64_t i = 0; i < 200; i++) {
        while (*word(m, 0, 0, 100) != i * m->nr + m->self) {
            sched_yield();
        }
        *word(m, 0, 0, 100) += 1;
    }
    machine_barrier(m);
    for (int i = 0; i < m->nr; i++) {
        CHECK(*word(m, 0, 0, i) == 20000, "node %d", i);
    }
    st = machine_stats(m, 0);
    printf("node %d: %llu write faults, %llu holds\n", m->self,
           (unsigned long long)st.write_faults, (unsigned long long)st.holds);
    machine_barrier(m);
}

/* All of a region in order, and every fifth page of it, by those who do not
 * own it; what is fetched ahead is what is there. */
static void run_ahead(struct machine *m)
{
    struct dsm_region_stats st;
    int pages = m->region_bytes / PAGE;

    if (m->self == 0) {
        for (int page = 0; page < pages; page++) {
            *word(m, 0, page, 9) = page + 1;
            *word(m, 0, page, 10) = 0;
        }
    }
    machine_barrier(m);
    for (int round = 1; round <= 3; round++) {
        /* What was just won for writing is not given away ahead of use. */
        struct timespec quiet = { .tv_nsec = 5000000 };

        nanosleep(&quiet, NULL);
        if (m->self > 0) {
            int step = round == 2 ? 5 : 1;

            for (int page = 0; page < pages; page += step) {
                CHECK(*word(m, 0, page, 9) == (uint64_t)(page + round),
                      "page %d in round %d: %llu", page, round,
                      (unsigned long long)*word(m, 0, page, 9));
            }
        }
        machine_barrier(m);
        if (m->self == 0) {
            for (int page = 0; page < pages; page++) {
                atomic_fetch_add(word(m, 0, page, 9), 1);
            }
        }
        machine_barrier(m);
    }
    st = machine_stats(m, 0);
    if (m->self > 0) {
        CHECK(st.ahead_asked > 0 && st.ahead_useful > 0, "ahead: asked %llu",
              (unsigned long long)st.ahead_asked);
        CHECK(st.ahead_useful + st.ahead_wasted + st.ahead_declined <=
                  st.ahead_asked,
              "each is counted once");
        CHECK(st.read_faults < (uint64_t)pages, "%llu faults for %d pages",
              (unsigned long long)st.read_faults, 2 * pages + pages / 5);
        printf("node %d: asked %llu declined %llu useful %llu wasted %llu, "
               "%llu read faults\n", m->self,
               (unsigned long long)st.ahead_asked,
               (unsigned long long)st.ahead_declined,
               (unsigned long long)st.ahead_useful,
               (unsigned long long)st.ahead_wasted,
               (unsigned long long)st.read_faults);
    }
    machine_barrier(m);
}

/* Many threads that fault on many pages: more than may be under way. */
static void *read_many(void *arg)
{
    uintptr_t first = (uintptr_t)arg;

    for (int i = 0; i < 8; i++) {
        int page = first + 100 * i;

        CHECK(*word(the_machine, 0, page, 1) == (uint64_t)page, "page %d",
              page);
    }
    return NULL;
}

static void run_many(struct machine *m)
{
    pthread_t thread[100];

    if (m->self == 0) {
        for (int page = 0; page < 800; page++) {
            *word(m, 0, page, 1) = page;
        }
    }
    machine_barrier(m);
    if (m->self > 0) {
        the_machine = m;
        for (uintptr_t i = 0; i < 100; i++) {
            CHECK(pthread_create(&thread[i], NULL, read_many, (void *)i) == 0,
                  "thread");
        }
        for (int i = 0; i < 100; i++) {
            pthread_join(thread[i], NULL);
        }
    }
    machine_barrier(m);
}

static const struct {
    const char *name;
    void (*run)(struct machine *m);
    int nr;
    bool tcp, tls, ahead, spin;
    uint64_t pages;
} tests[] = {
    { "round", run_round, 2, .pages = 16 },
    { "round", run_round, 3, .tcp = true, .pages = 16 },
    { "round", run_round, 3, .tls = true, .pages = 16 },
    { "grant", run_grant, 2, .pages = 16 },
    { "travel", run_travel, 2, .pages = 16 },
    { "travel", run_travel, 4, .tcp = true, .ahead = true, .pages = 16 },
    { "coalesce", run_coalesce, 2, .pages = 16 },
    { "kernel", run_kernel, 2, .pages = 16 },
    { "many", run_many, 2, .pages = 1024 },
    { "many", run_many, 4, .ahead = true, .pages = 1024 },
    { "first-touch-race", run_first_touch_race, 2, .pages = 2048 },
    { "first-touch-race", run_first_touch_race, 3, .tcp = true, .pages = 2048 },
    { "huge", run_huge, 2, .pages = 8192 },
    { "huge", run_huge, 3, .tcp = true, .pages = 8192 },
    { "pingpong", run_pingpong, 2, .pages = 16 },
    { "pingpong", run_pingpong, 4, .tcp = true, .pages = 16 },
    { "pingpong", run_pingpong, 3, .tls = true, .pages = 16 },
    { "ahead", run_ahead, 2, .ahead = true, .pages = 2048 },
    { "ahead", run_ahead, 3, .tcp = true, .ahead = true, .pages = 512 },
    { "ahead", run_ahead, 2, .tcp = true, .ahead = true, .pages = 4096 },
    { "ahead", run_ahead, 2, .tls = true, .ahead = true, .pages = 4096 },
    { "random", run_random, 2, .pages = 16 },
    { "random", run_random, 2, .spin = true, .pages = 16 },
    { "random", run_random, 3, .pages = 16 },
    { "random", run_random, 3, .tcp = true, .pages = 16 },
    { "random", run_random, 5, .tcp = true, .ahead = true, .pages = 16 },
    { "random", run_random, 4, .tls = true, .ahead = true, .pages = 16 },
};

/* test-pages [NAME]: all, or those of one name. */
int main(int argc, char **argv)
{
    bool any = false;

    machine_need();
    for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
        static struct machine m;

        if (argc > 1 && strcmp(argv[1], tests[i].name) != 0) {
            continue;
        }
        any = true;
        memset(&m, 0, sizeof(m));
        m.name = tests[i].name;
        m.run = tests[i].run;
        m.nr = tests[i].nr;
        m.tcp = tests[i].tcp;
        m.tls = tests[i].tls;
        m.ahead = tests[i].ahead;
        m.config.spin_us = tests[i].spin ? 20 : 0;
        /* Nothing is to depend on what a heartbeat sets going. */
        m.config.heartbeat_ms = 1000000;
        m.config.peer_timeout_ms = 10000000;
        m.region_bytes = tests[i].pages * PAGE;
        machine_run(&m);
    }
    return any ? 0 : 2;
}
