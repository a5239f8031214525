/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Atomic operations of several ISAs on the same words: nothing may be lost.
 *
 *   atomics [--nodes LIST] [--threads N] [--count N] [--broken] [--local CMD]...
 *
 * N threads on each node (default 4) share --count operations of each case
 * (default 10^7) on words that share a line, a page, or nothing. Ends with
 * "N passed, N failed". --broken makes the increments of add64 not atomic:
 * to see that the test notices.
 */
#define _GNU_SOURCE
#include <chimera/team.h>

#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define NR_WORDS 8
#define MAX_THREADS 256
#define PAGE_BYTES 4096

static const struct {
    const char *name;
    size_t stride; /* bytes between two words */
} places[] = {
    { "same-line", 8 }, /* 8 words of 8 bytes: one line of 64 */
    { "same-page", 256 },
    { "other-pages", PAGE_BYTES },
};

enum op { ADD64, ADD32, ADD8, CAS, XCHG, BITS, LOCK, NR_OPS };

static const char *const op_names[NR_OPS] = { "add64", "add32", "add8", "cas",
                                              "xchg",  "bits",  "lock" };

/* Same layout on every ISA. */
struct shared {
    uint32_t nr_threads; /* in all */
    uint32_t threads_per_member;
    uint64_t count; /* operations of a case, of all threads */
    struct chimera_barrier barrier;
    uint64_t broken;
    uint64_t reserved[12];
    uint64_t wrong[MAX_THREADS]; /* contradictions that a thread saw itself */
    uint64_t token[MAX_THREADS]; /* what it holds at the end of XCHG */
    uint64_t done[MAX_THREADS];
    uint64_t reserved2[128];
    unsigned char words[NR_WORDS * PAGE_BYTES];
    /* Guarded by the words as locks; no atomics. */
    uint64_t plain[NR_WORDS][16];
};
_Static_assert(offsetof(struct shared, words) % 128 == 0, "lines");

static struct chimera_team team;
static struct shared *shared;
static unsigned nr_passed, nr_failed;

static void *word_at(unsigned place, unsigned i)
{
    return shared->words + (i % NR_WORDS) * places[place].stride;
}

static double now_s(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec + ts.tv_nsec / 1e9;
}

/* What one thread does of a case. Return: contradictions seen on the way. */
static uint64_t run_case(enum op op, unsigned place, unsigned self,
                         uint64_t count)
{
    uint64_t wrong = 0, mine = 1ull << (self % 64);
    uint64_t token = NR_WORDS + self;

    for (uint64_t i = 0; i < count; i++) {
        unsigned w = i + self;
        void *p = word_at(place, w);
        uint64_t old;

        switch (op) {
        case ADD64:
            if (shared->broken) {
                old = *(volatile uint64_t *)p;
                if (i % 100 == 0) {
                    sched_yield(); /* the others' chance */
                }
                *(volatile uint64_t *)p = old + 1;
                break;
            }
            atomic_fetch_add_explicit((_Atomic uint64_t *)p, 1,
                                      memory_order_relaxed);
            break;
        case ADD32:
            /* Both halves of a word. */
            atomic_fetch_add_explicit((_Atomic uint32_t *)p +
                                          (w / NR_WORDS & 1),
                                      1, memory_order_relaxed);
            break;
        case ADD8:
            /* A byte per operation, all bytes in turn. */
            atomic_fetch_add_explicit((_Atomic uint8_t *)p +
                                          (w / NR_WORDS & 7),
                                      1, memory_order_relaxed);
            break;
        case CAS:
            old = atomic_load_explicit((_Atomic uint64_t *)p,
                                       memory_order_relaxed);
            while (!atomic_compare_exchange_weak_explicit(
                (_Atomic uint64_t *)p, &old, old + 1, memory_order_relaxed,
                memory_order_relaxed)) {
                continue;
            }
            break;
        case XCHG:
            /* Tokens wander; each is in one place at any time. */
            token = atomic_exchange_explicit((_Atomic uint64_t *)p, token,
                                             memory_order_relaxed);
            break;
        case BITS:
            /* Nobody else touches our bit: its old value is known. */
            old = atomic_fetch_or_explicit((_Atomic uint64_t *)p, mine,
                                           memory_order_relaxed);
            wrong += (old & mine) != 0;
            old = atomic_fetch_and_explicit((_Atomic uint64_t *)p, ~mine,
                                            memory_order_relaxed);
            wrong += (old & mine) == 0;
            old = atomic_fetch_xor_explicit((_Atomic uint64_t *)p, mine,
                                            memory_order_relaxed);
            wrong += (old & mine) != 0;
            old = atomic_fetch_xor_explicit((_Atomic uint64_t *)p, mine,
                                            memory_order_relaxed);
            wrong += (old & mine) == 0;
            break;
        case LOCK:
            for (unsigned spins = 0; atomic_exchange_explicit(
                     (_Atomic uint32_t *)p, 1, memory_order_acquire);
                 spins++) {
                if (spins % 256 == 255 && !chimera_team_pause(&team, spins)) {
                    return wrong;
                }
            }
            /* Two plain words that must never be seen apart. */
            volatile uint64_t *pair = shared->plain[w % NR_WORDS];

            wrong += pair[0] != pair[1];
            pair[0]++;
            pair[1]++;
            atomic_store_explicit((_Atomic uint32_t *)p, 0,
                                  memory_order_release);
            break;
        case NR_OPS:
            break;
        }
    }
    shared->token[self] = token;
    return wrong;
}

/* Locks and four-fold operations: as many as take about the same time. */
static uint64_t case_count(enum op op)
{
    return op == LOCK ? shared->count / 20
           : op == BITS ? shared->count / 4
                        : shared->count;
}

static uint64_t thread_count(enum op op, unsigned self)
{
    uint64_t all = case_count(op), nr = shared->nr_threads;

    return all * (self + 1) / nr - all * self / nr;
}

static void case_begin(enum op op, unsigned place)
{
    memset(shared->words, 0, sizeof(shared->words));
    memset(shared->plain, 0, sizeof(shared->plain));
    memset(shared->wrong, 0, sizeof(shared->wrong));
    memset(shared->done, 0, sizeof(shared->done));
    for (unsigned i = 0; op == XCHG && i < NR_WORDS; i++) {
        *(uint64_t *)word_at(place, i) = i;
    }
}

static bool case_right(enum op op, unsigned place, char *why, size_t size)
{
    uint64_t wrong = 0, done = 0, sum = 0, plain = 0;
    uint64_t bytes[8] = { 0 }, want_bytes[8] = { 0 };

    for (unsigned t = 0; t < shared->nr_threads; t++) {
        wrong += shared->wrong[t];
        done += shared->done[t];
    }
    for (unsigned i = 0; i < NR_WORDS; i++) {
        uint64_t v = *(uint64_t *)word_at(place, i);

        sum += op == ADD32 ? (uint32_t)v + (v >> 32) : v;
        plain += shared->plain[i][0];
        for (unsigned b = 0; b < 8; b++) {
            bytes[b] += v >> 8 * b & 255;
        }
    }
    if (wrong) {
        snprintf(why, size, "%" PRIu64 " contradictions", wrong);
        return false;
    }
    if (done != case_count(op)) {
        snprintf(why, size, "%" PRIu64 " of %" PRIu64 " operations done", done,
                 case_count(op));
        return false;
    }
    switch (op) {
    case ADD64:
    case ADD32:
    case CAS:
        snprintf(why, size, "%" PRIu64 " counted, %" PRIu64 " done", sum,
                 done);
        return sum == done;
    case ADD8:
        /* Bytes wrap: each column's sum is known modulo 256. */
        for (unsigned t = 0; t < shared->nr_threads; t++) {
            uint64_t n = thread_count(op, t);

            for (uint64_t i = 0; i < n;) {
                unsigned b = (i + t) / NR_WORDS & 7;
                uint64_t run = NR_WORDS - (i + t) % NR_WORDS;

                run = run < n - i ? run : n - i;
                want_bytes[b] += run;
                i += run;
            }
        }
        for (unsigned b = 0; b < 8; b++) {
            if ((bytes[b] ^ want_bytes[b]) & 255) {
                snprintf(why, size, "byte %u: %" PRIu64 " instead of %" PRIu64
                                    " modulo 256",
                         b, bytes[b] & 255, want_bytes[b] & 255);
                return false;
            }
        }
        return true;
    case XCHG: {
        /* NR_WORDS + nr_threads tokens, each exactly once. */
        bool seen[NR_WORDS + MAX_THREADS] = { false };
        unsigned nr = 0;

        for (unsigned i = 0; i < NR_WORDS + shared->nr_threads; i++) {
            uint64_t v = i < NR_WORDS ? *(uint64_t *)word_at(place, i)
                                      : shared->token[i - NR_WORDS];

            if (v < NR_WORDS + shared->nr_threads && !seen[v]) {
                seen[v] = true;
                nr++;
            }
        }
        snprintf(why, size, "%u of %u tokens are there", nr,
                 NR_WORDS + shared->nr_threads);
        return nr == NR_WORDS + shared->nr_threads;
    }
    case BITS:
        snprintf(why, size, "bits left behind: sum %#" PRIx64, sum);
        return sum == 0;
    case LOCK:
        snprintf(why, size, "%" PRIu64 " counted, %" PRIu64 " done", plain,
                 done);
        return plain == done;
    case NR_OPS:
        break;
    }
    return false;
}

/* Every thread walks through all cases; the first also judges. */
static void *thread_main(void *arg)
{
    const unsigned self = (uintptr_t)arg;

    for (unsigned c = 0; c < NR_OPS * 3; c++) {
        enum op op = c / 3;
        unsigned place = c % 3;
        uint64_t n = thread_count(op, self);
        double begin;

        if (!self) {
            case_begin(op, place);
        }
        if (!chimera_barrier_wait(&team, &shared->barrier,
                                  shared->nr_threads)) {
            return NULL;
        }
        begin = now_s();
        shared->wrong[self] = run_case(op, place, self, n);
        shared->done[self] = n;
        if (!chimera_barrier_wait(&team, &shared->barrier,
                                  shared->nr_threads)) {
            return NULL;
        }
        if (!self) {
            double s = now_s() - begin;
            char why[128] = "";
            bool right = case_right(op, place, why, sizeof(why));

            printf("%s %-5s %-11s %" PRIu64 " operations by %u threads, "
                   "%.1f M/s\n",
                   right ? "ok  " : "FAIL", op_names[op], places[place].name,
                   case_count(op), shared->nr_threads,
                   case_count(op) / s / 1e6);
            if (!right) {
                printf("     %s\n", why);
            }
            fflush(stdout);
            nr_passed += right;
            nr_failed += !right;
        }
        /* Nobody begins to clear the words while they are judged. */
        if (!chimera_barrier_wait(&team, &shared->barrier,
                                  shared->nr_threads)) {
            return NULL;
        }
    }
    return NULL;
}

static unsigned long number(const char *text, unsigned long max)
{
    char *end;
    unsigned long v = strtoul(text, &end, 10);

    if (*end || end == text || !v || v > max) {
        fprintf(stderr, "atomics: '%s' is not a number from 1 to %lu\n", text,
                max);
        exit(2);
    }
    return v;
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {
        { "nodes", required_argument, NULL, 'n' },
        { "threads", required_argument, NULL, 't' },
        { "count", required_argument, NULL, 'c' },
        { "broken", no_argument, NULL, 'b' },
        { "local", required_argument, NULL, 'l' },
        { 0 },
    };
    const char *nodes = "all";
    char *locals[CHIMERA_TEAM_MAX];
    unsigned nr_locals = 0;
    unsigned long threads = 4, count = 10000000;
    bool broken = false;
    pthread_t ids[MAX_THREADS];
    int opt, rc = 0;

    while ((opt = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        switch (opt) {
        case 'n':
            nodes = optarg;
            break;
        case 't':
            threads = number(optarg, 64);
            break;
        case 'c':
            count = number(optarg, 1000000000);
            break;
        case 'b':
            broken = true;
            break;
        case 'l':
            if (nr_locals < CHIMERA_TEAM_MAX - 1) {
                locals[nr_locals++] = optarg;
            }
            break;
        default:
            fprintf(stderr, "usage: atomics [--nodes LIST] [--threads N] "
                            "[--count N] [--broken] [--local CMD]...\n");
            return 2;
        }
    }
    if (chimera_team_is_member()) {
        rc = chimera_team_join(&team);
    } else {
        rc = chimera_team_create(&team, nr_locals ? NULL : nodes, locals,
                                 nr_locals, sizeof(*shared));
    }
    if (rc < 0) {
        fprintf(stderr, "atomics: %s\n", team.error);
        return 1;
    }
    shared = team.mem;
    if (!team.self) {
        if (threads * team.nr > 64) { /* BITS: a bit for each */
            fprintf(stderr, "atomics: at most 64 threads in all\n");
            return 2;
        }
        shared->threads_per_member = threads;
        shared->nr_threads = threads * team.nr;
        shared->count = count;
        shared->broken = broken;
        if (chimera_team_start(&team, argv) < 0) {
            fprintf(stderr, "atomics: %s\n", team.error);
            return 1;
        }
    }
    for (unsigned i = 0; i < shared->threads_per_member; i++) {
        unsigned id = team.self * shared->threads_per_member + i;

        if (pthread_create(&ids[i], NULL, thread_main, (void *)(uintptr_t)id)) {
            fprintf(stderr, "atomics: no thread\n");
            chimera_team_fail(&team);
            return 1;
        }
    }
    if (!team.self && chimera_team_wait(&team) < 0) {
        fprintf(stderr, "atomics: %s\n", team.error);
        rc = 1;
    }
    for (unsigned i = 0; i < shared->threads_per_member; i++) {
        pthread_join(ids[i], NULL);
    }
    if (!team.self) {
        printf("%u passed, %u failed\n", nr_passed, nr_failed + (rc != 0));
    }
    return rc || nr_failed || (!team.self && nr_passed != NR_OPS * 3);
}
