/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * together [OPERATIONS [THREADS]]: threads on every node, half of them on each of
 * two, work together in every way that pthread programs do.  They change their
 * nodes between the parts.  Nothing may be lost, and nobody may wait for ever.
 */
#include <chimera.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_THREADS 64
#define SLOTS 32                /* a power of two */
#define TOKENS 3

static int threads = 8;
static long rounds;             /* of each thread in each part */
static pthread_barrier_t start, meet;
static long failures;
static pthread_mutex_t report = PTHREAD_MUTEX_INITIALIZER;

static void expect(int ok, const char *what, long got, long want)
{
    if (!ok) {
        pthread_mutex_lock(&report);
        if (failures++ < 10) {
            printf("FAILED: %s: %ld, not %ld\n", what, got, want);
        }
        pthread_mutex_unlock(&report);
    }
}

/* --- one mutex: two counters that must be equal whenever it is held -------- */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static volatile long first, second;

static __attribute__((noinline)) void part_mutex(int id)
{
    for (long i = 0; i < rounds; i++) {
        pthread_mutex_lock(&mutex);
        expect(first == second, "two counters", first, second);
        first++;
        second++;
        pthread_mutex_unlock(&mutex);
    }
}

/* --- condition variables: a token goes round, to another node each time ---- */

static pthread_mutex_t turn_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn_cond[MAX_THREADS];
static long turn;

static __attribute__((noinline)) void part_cond(int id)
{
    for (long i = 0; i < rounds; i++) {
        pthread_mutex_lock(&turn_lock);
        while (turn % threads != id) {
            pthread_cond_wait(&turn_cond[id], &turn_lock);
        }
        expect(turn / threads == i, "rounds of the token", turn / threads, i);
        turn++;
        pthread_cond_signal(&turn_cond[turn % threads]);
        pthread_mutex_unlock(&turn_lock);
    }
}

/* --- barriers: nobody is a round ahead, one is told that it was the last --- */

static long seen[MAX_THREADS];
static atomic_long serial;

static __attribute__((noinline)) void part_barrier(int id)
{
    for (long i = 0; i < rounds; i += 2) {
        seen[id] = i;
        if (pthread_barrier_wait(&meet)) {
            atomic_fetch_add(&serial, 1);
        }
        for (int k = 0; k < threads; k++) {
            expect(seen[k] == i, "a thread at the barrier", seen[k], i);
        }
        pthread_barrier_wait(&meet);
    }
}

/* --- a semaphore ----------------------------------------------------------- */

static sem_t tokens;
static atomic_long inside, entered;

static __attribute__((noinline)) void part_semaphore(int id)
{
    for (long i = 0; i < rounds; i++) {
        long n;

        sem_wait(&tokens);
        n = atomic_fetch_add(&inside, 1) + 1;
        expect(n <= TOKENS, "threads behind the semaphore", n, TOKENS);
        atomic_fetch_add(&entered, 1);
        atomic_fetch_sub(&inside, 1);
        sem_post(&tokens);
    }
}

/* --- producers and consumers: every value arrives once --------------------- */

static atomic_uchar *arrived;   /* one for each value */
static atomic_long nr_arrived;

static long value(int id, long i)
{
    return id * rounds + i;
}

/* Producers and consumers are on every node. */
static int produces(int id)
{
    return id / 2 % 2 == 0;
}

static void arrive(long v)
{
    expect(v >= 0 && v < threads * rounds, "a value", v, threads * rounds);
    expect(!atomic_fetch_add(&arrived[v], 1), "twice", v, 0);
    atomic_fetch_add(&nr_arrived, 1);
}

static pthread_mutex_t box_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t box_filled = PTHREAD_COND_INITIALIZER;
static pthread_cond_t box_emptied = PTHREAD_COND_INITIALIZER;
static long box[SLOTS], box_in, box_out;

static __attribute__((noinline)) void box_put(long v)
{
    pthread_mutex_lock(&box_lock);
    while (box_in - box_out == SLOTS) {
        pthread_cond_wait(&box_emptied, &box_lock);
    }
    box[box_in++ % SLOTS] = v;
    pthread_cond_signal(&box_filled);
    pthread_mutex_unlock(&box_lock);
}

static __attribute__((noinline)) long box_take(void)
{
    long v;

    pthread_mutex_lock(&box_lock);
    while (box_in == box_out) {
        pthread_cond_wait(&box_filled, &box_lock);
    }
    v = box[box_out++ % SLOTS];
    pthread_cond_signal(&box_emptied);
    pthread_mutex_unlock(&box_lock);
    return v;
}

/* --- a queue without locks: a slot's turn says who may use it -------------- */

static struct {
    atomic_long turn;
    long value;
} ring[SLOTS];
static atomic_long ring_in, ring_out;

static __attribute__((noinline)) void ring_put(long v)
{
    long at = atomic_load(&ring_in), ahead;

    for (;;) {
        ahead = atomic_load(&ring[at % SLOTS].turn) - at;
        if (ahead == 0 && atomic_compare_exchange_weak(&ring_in, &at, at + 1)) {
            break;
        }
        if (ahead < 0) {
            sched_yield();      /* full */
        }
        at = atomic_load(&ring_in);
    }
    ring[at % SLOTS].value = v;
    atomic_store(&ring[at % SLOTS].turn, at + 1);
}

static __attribute__((noinline)) long ring_take(void)
{
    long at = atomic_load(&ring_out), ahead, v;

    for (;;) {
        ahead = atomic_load(&ring[at % SLOTS].turn) - (at + 1);
        if (ahead == 0 && atomic_compare_exchange_weak(&ring_out, &at, at + 1)) {
            break;
        }
        if (ahead < 0) {
            sched_yield();      /* empty */
        }
        at = atomic_load(&ring_out);
    }
    v = ring[at % SLOTS].value;
    atomic_store(&ring[at % SLOTS].turn, at + SLOTS);
    return v;
}

static __attribute__((noinline)) void part_box(int id)
{
    for (long i = 0; i < rounds; i++) {
        if (produces(id)) {
            box_put(value(id, i));
        } else {
            arrive(box_take());
        }
    }
}

static __attribute__((noinline)) void part_ring(int id)
{
    for (long i = 0; i < rounds; i++) {
        if (produces(id)) {
            ring_put(value(id, i));
        } else {
            arrive(ring_take());
        }
    }
}

/* ---------------------------------------------------------------------------- */

static void check_arrived(const char *what)
{
    long n = atomic_exchange(&nr_arrived, 0);

    expect(n == threads / 2 * rounds, what, n, threads / 2 * rounds);
    for (int id = 0; id < threads; id++) {
        for (long i = 0; i < rounds; i++) {
            int times = atomic_exchange(&arrived[value(id, i)], 0);

            expect(times == produces(id), what, value(id, i), times);
        }
    }
}

static void check_mutex(void)
{
    expect(first == threads * rounds, "mutex", first, threads * rounds);
}

static void check_cond(void)
{
    expect(turn == threads * rounds, "token", turn, threads * rounds);
}

static void check_barrier(void)
{
    expect(serial == (rounds + 1) / 2, "last at the barrier", serial,
           (rounds + 1) / 2);
}

static void check_semaphore(void)
{
    int left;

    sem_getvalue(&tokens, &left);
    expect(left == TOKENS, "semaphore", left, TOKENS);
    expect(entered == threads * rounds, "entered", entered, threads * rounds);
}

static void check_box(void)
{
    check_arrived("box");
}

static void check_ring(void)
{
    check_arrived("ring");
}

static const struct {
    const char *name;
    void (*run)(int id);
    void (*check)(void);
} parts[] = {
    { "mutex", part_mutex, check_mutex },
    { "condition variables", part_cond, check_cond },
    { "barrier", part_barrier, check_barrier },
    { "semaphore", part_semaphore, check_semaphore },
    { "producers and consumers", part_box, check_box },
    { "queue without locks", part_ring, check_ring },
};
#define NR_PARTS ((int)(sizeof(parts) / sizeof(*parts)))

static atomic_long away;        /* parts that were begun on another node */

static __attribute__((noinline)) void run_part(int id, int part)
{
    chimera_migrate((id + part) % chimera_nodes());
    if (chimera_here() != 0) {
        atomic_fetch_add(&away, 1);
    }
    parts[part].run(id);
}

static void *run(void *arg)
{
    int id = (int)(long)arg;

    for (int part = 0; part < NR_PARTS; part++) {
        pthread_barrier_wait(&start);
        run_part(id, part);
        if (pthread_barrier_wait(&start)) {
            parts[part].check();
            printf("%s: %ld operations\n", parts[part].name, threads * rounds);
        }
    }
    return NULL;
}

int main(int argc, char **argv)
{
    long operations = argc > 1 ? atol(argv[1]) : 20000;
    pthread_t t[MAX_THREADS];

    if (argc > 2) {
        threads = atoi(argv[2]);
    }
    if (operations < 1 || threads < 4 || threads > MAX_THREADS || threads % 4) {
        fprintf(stderr, "usage: together [OPERATIONS [THREADS]]; four, eight, "
                        "... threads\n");
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    rounds = (operations + threads * NR_PARTS - 1) / (threads * NR_PARTS);
    arrived = calloc(threads * rounds, 1);
    pthread_barrier_init(&start, NULL, threads);
    pthread_barrier_init(&meet, NULL, threads);
    sem_init(&tokens, 0, TOKENS);
    for (int i = 0; i < SLOTS; i++) {
        ring[i].turn = i;
    }
    for (int i = 0; i < threads; i++) {
        pthread_cond_init(&turn_cond[i], NULL);
        if (pthread_create(&t[i], NULL, run, (void *)(long)i)) {
            printf("FAILED: threads\n");
            return 1;
        }
    }
    for (int i = 0; i < threads; i++) {
        pthread_join(t[i], NULL);
    }
    fprintf(stderr, "parts away %ld\n", away);
    printf("%s: %ld operations\n", failures ? "FAILED" : "OK",
           threads * rounds * NR_PARTS);
    return failures != 0;
}
