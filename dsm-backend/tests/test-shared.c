/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Processes that share memory and execute what others write.
 *
 * "Code" is the first word of a page; who executes it keeps a copy of the word
 * in place of a translation, and drops the copy when he is told to. What he
 * executes may not be older than what was said to be written before he began.
 *
 * test-shared [ROUNDS]
 */
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "machine.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define BLOCK 512 /* pages that are given at a time */
#define CODE_PAGES 4
#define PAGES 1024
#define RUN_MANY 200 /* more than may be asked for at a time */
#define TURNS 20

/* Words of the board behind those of said(). */
enum { RUNNING = 8000, DONE, TOLD, STOPPED };

/* Translations that each node makes. */
static int rounds = 500;

/* What this node has made of pages: its translations. */
struct made {
    _Atomic bool noted;   /* looked at by who takes the right away */
    _Atomic bool dropped; /* and set by him */
    bool have;
    uint64_t copy;
};

static struct made made[MACHINE_MAX][PAGES];

static _Atomic uint64_t *word(struct machine *m, int owner, int page, int i)
{
    return (_Atomic uint64_t *)(m->memory[owner] + (size_t)page * PAGE) + i;
}

/* On the board: the last value that was said to be in a page. */
static _Atomic uint64_t *said(struct machine *m, int owner, int page)
{
    return &m->board->words[owner * PAGES + page];
}

static void drop(struct machine *m, int owner, uint64_t page)
{
    if (atomic_exchange(&made[owner][page].noted, false)) {
        made[owner][page].dropped = true;
    }
}

static bool is_executed(struct machine *m, int owner, uint64_t page)
{
    return made[owner][page].noted;
}

/* Return: whether it had to be translated. */
static bool run_page(struct machine *m, int owner, int page)
{
    struct made *t = &made[owner][page];
    uint64_t before = *said(m, owner, page);
    bool translate = !t->have || t->dropped;
    int ret;

    if (translate) {
        t->dropped = false;
        t->noted = true;
        ret = dsm_region_execute(m->node, owner, page);
        CHECK(ret == 0, "%s", strerror(-ret));
        t->copy = *word(m, owner, page, 0);
        t->have = true;
    }
    CHECK(t->copy >= before, "node %d executes %llu of page %d of region %d, "
          "%llu was written before", m->self, (unsigned long long)t->copy,
          page, owner, (unsigned long long)before);
    return translate;
}

static void write_page(struct machine *m, int owner, int page)
{
    uint64_t value = atomic_fetch_add(word(m, owner, page, 0), 1) + 1, old;

    /* What the own processor notices by itself. */
    drop(m, owner, page);
    old = *said(m, owner, page);
    while (old < value &&
           !atomic_compare_exchange_weak(said(m, owner, page), &old, value)) {
    }
}

static uint64_t writer_seed;

/* Executors and writers of the same pages, everywhere. */
static void *writer(void *opaque)
{
    struct machine *m = opaque;
    uint64_t seed = writer_seed;

    while (m->board->words[DONE] < (uint64_t)m->nr) {
        seed = seed * 6364136223846793005 + 1442695040888963407;
        write_page(m, (int)(seed >> 33) % m->nr,
                   (int)(seed >> 40) % CODE_PAGES * 32);
    }
    return NULL;
}

static void rewritten(struct machine *m)
{
    pthread_t thread;

    writer_seed = machine_random(m);
    CHECK(pthread_create(&thread, NULL, writer, m) == 0, "thread");
    for (int i = 0; i < rounds;) {
        uint64_t r = machine_random(m);

        if (run_page(m, (int)(r >> 33) % m->nr,
                     (int)(r >> 40) % CODE_PAGES * 32) &&
            i++ % (rounds / 8) == 0) {
            /* Huge pages come and go under protected ones. */
            madvise(m->memory[m->self], m->region_bytes, MADV_COLLAPSE);
        }
    }
    m->board->words[DONE]++;
    pthread_join(thread, NULL);
    /* However the threads met, here they take turns. */
    for (int i = 0; i < TURNS; i++) {
        machine_barrier(m);
        if (m->self == i % m->nr) {
            write_page(m, 0, 0);
        }
        machine_barrier(m);
        if (m->self == (i + 1) % m->nr) {
            run_page(m, 0, 0);
        }
    }
    machine_barrier(m);
    for (int p = 0; p < CODE_PAGES; p++) {
        for (int i = 0; i < m->nr; i++) {
            run_page(m, i, p * 32);
        }
    }
    /* It was not for nothing. */
    for (int i = 0; i < m->nr; i++) {
        m->board->words[TOLD] += machine_stats(m, i).invalidations;
        m->board->words[STOPPED] += machine_stats(m, i).downgrades;
    }
    machine_barrier(m);
    CHECK(m->board->words[TOLD] >= TURNS / 2 &&
              m->board->words[STOPPED] >= TURNS / 2,
          "%llu times told to drop, %llu to stop writing",
          (unsigned long long)m->board->words[TOLD],
          (unsigned long long)m->board->words[STOPPED]);
}

/* Memory that nobody executes costs a question for each block. */
static void ordinary(struct machine *m)
{
    machine_barrier(m);
    for (int i = 0; i < m->nr; i++) {
        for (int p = 0; p < PAGES; p++) {
            atomic_fetch_add(word(m, i, p, 1), 1);
        }
    }
    machine_barrier(m);
    for (int i = 0; i < m->nr; i++) {
        struct dsm_region_stats st = machine_stats(m, i);

        for (int p = 0; p < PAGES; p++) {
            CHECK(*word(m, i, p, 1) == (uint64_t)m->nr, "page %d", p);
        }
        CHECK(st.write_faults == (uint64_t)(i == m->self ? 0 : PAGES / BLOCK),
              "%llu faults", (unsigned long long)st.write_faults);
        CHECK(st.downgrades == 0 && st.read_faults == 0, "somebody was asked");
    }
    machine_barrier(m);
}

/* What the home executes is not given away with its neighbours. */
static void spared(struct machine *m)
{
    struct dsm_region_stats st;

    if (m->self == 0) {
        run_page(m, 0, 1);
        CHECK(machine_stats(m, 0).read_faults == 0, "it asked somebody");
    }
    machine_barrier(m);
    if (m->self == 1) {
        write_page(m, 0, 0);
        write_page(m, 0, 2);
        write_page(m, 0, 3);
        CHECK(machine_stats(m, 0).write_faults == 2, "neighbours");
    }
    machine_barrier(m);
    if (m->self == 0) {
        CHECK(!made[0][1].dropped, "a neighbour was dropped");
    }
    machine_barrier(m);
    if (m->self == 1) {
        write_page(m, 0, 1);
        CHECK(machine_stats(m, 0).write_faults == 3, "it was given");
    }
    machine_barrier(m);
    if (m->self == 0) {
        CHECK(made[0][1].dropped, "it was not dropped");
        run_page(m, 0, 1);
        st = machine_stats(m, 0);
        CHECK(st.read_faults == 1 && st.write_faults == 0, "the home asks");
    }
    machine_barrier(m);
    /* The home's own write to what another executes. */
    if (m->self == 1) {
        run_page(m, 0, 1);
    }
    machine_barrier(m);
    if (m->self == 0) {
        write_page(m, 0, 1);
        CHECK(machine_stats(m, 0).write_faults == 1, "the home wrote");
    }
    machine_barrier(m);
    if (m->self == 1) {
        CHECK(made[0][1].dropped, "it was not dropped");
    }
}

/* More that wait than may ask at a time. */
static void *run_many(void *opaque)
{
    struct machine *m = opaque;
    static _Atomic int next;
    int page;

    while ((page = next++) < RUN_MANY) {
        CHECK(dsm_region_execute(m->node, !m->self, page) == 0, "execute");
    }
    return NULL;
}

static void many(struct machine *m)
{
    pthread_t thread[100];

    for (int i = 0; i < 100; i++) {
        CHECK(pthread_create(&thread[i], NULL, run_many, m) == 0, "thread");
    }
    for (int i = 0; i < 100; i++) {
        pthread_join(thread[i], NULL);
    }
    CHECK(machine_stats(m, !m->self).read_faults == RUN_MANY, "questions");
    machine_barrier(m);
}

static void limits(struct machine *m)
{
    if (m->self == 0) {
        CHECK(dsm_region_execute(m->node, 0, PAGES) == -EINVAL,
              "behind the end");
        CHECK(dsm_region_execute(m->node, 2, 0) == -ENXIO, "no such region");
    }
    machine_barrier(m);
}

/* The parent kills node 1 while all of them do both. */
static void survive(struct machine *m)
{
    uint64_t end_ns;
    bool told = false;

    m->board->words[RUNNING]++;
    end_ns = machine_now_ns() + MACHINE_PATIENCE_S * UINT64_C(1000000000);
    for (int more = 1000; more > 0; more -= told) {
        uint64_t r = machine_random(m);
        int owner = (int)(r >> 33) % m->nr;
        int page = (int)(r >> 40) % CODE_PAGES;

        /* Of what it was the home of nobody keeps the code coherent. */
        if (r >> 50 & 1) {
            atomic_fetch_add(word(m, owner, page, 0), 1);
        } else if (owner != 1) {
            CHECK(dsm_region_execute(m->node, owner, page) == 0, "execute");
        }
        told = m->state[1] == DSM_PEER_DOWN;
        CHECK(machine_now_ns() < end_ns, "it hangs");
    }
}

static void test_survive(void)
{
    struct machine m = {
        .name = "survive", .nr = 3, .shared = true, .region_bytes = PAGES * PAGE,
        .run = survive,
    };

    machine_start(&m);
    while (m.board->words[RUNNING] < 3) {
        sched_yield();
    }
    machine_kill(&m, 1);
    machine_finish(&m);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int nr;
        void (*run)(struct machine *m);
    } tests[] = {
        { "ordinary", 3, ordinary },
        { "spared", 2, spared },
        { "rewritten", 2, rewritten },
        { "rewritten", 3, rewritten },
        { "many", 2, many },
        { "limits", 2, limits },
    };

    machine_need();
    if (argc > 1) {
        rounds = atoi(argv[1]);
    }
    for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
        struct machine m = {
            .name = tests[i].name,
            .nr = tests[i].nr,
            .shared = true,
            .region_bytes = PAGES * PAGE,
            .run = tests[i].run,
            .on_invalidated = drop,
            .on_executed = is_executed,
        };

        machine_run(&m);
    }
    for (int i = 0; i < 10; i++) {
        test_survive();
    }
    return 0;
}
