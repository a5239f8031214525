/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How a process gets on with more threads, at home and on two nodes. Compiled
 * by chimera-cc.
 *
 *   threads NODE ROUNDS
 *
 * The work is so many chunks. Threads take them from a counter that they
 * share, because the nodes are not of one speed, and add their results to a
 * sum under a mutex. In every round each number of threads does it twice: all
 * at home, and every other thread on NODE. Printed for both:
 * "threads PLACE THREADS NS".
 */
#include <chimera.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define CHUNKS 256
#define CHUNK_STEPS 200000
#define MAX_THREADS 8

static atomic_uint next_chunk;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t sum;
static pthread_barrier_t ready;

static uint64_t do_chunk(uint64_t x)
{
    for (int i = 0; i < CHUNK_STEPS; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    return x;
}

static void *worker(void *arg)
{
    int node = (int)(intptr_t)arg;
    unsigned chunk;

    if (node != chimera_here() &&
        (chimera_migrate(node) || chimera_here() != node)) {
        fprintf(stderr, "threads: the thread did not move\n");
        exit(1);
    }
    pthread_barrier_wait(&ready);
    while ((chunk = atomic_fetch_add(&next_chunk, 1)) < CHUNKS) {
        uint64_t x = do_chunk(chunk + 1);

        pthread_mutex_lock(&lock);
        sum += x;
        pthread_mutex_unlock(&lock);
    }
    return NULL;
}

static int64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

/* The time from when all threads are where they belong to their last end. */
static int64_t run(int nr, int away)
{
    pthread_t thread[MAX_THREADS];
    int64_t begin;

    next_chunk = 0;
    sum = 0;
    pthread_barrier_init(&ready, NULL, nr + 1);
    for (int i = 0; i < nr; i++) {
        if (pthread_create(&thread[i], NULL, worker,
                           (void *)(intptr_t)(i & 1 ? away : chimera_here()))) {
            fprintf(stderr, "threads: no thread\n");
            exit(1);
        }
    }
    pthread_barrier_wait(&ready);
    begin = now_ns();
    for (int i = 0; i < nr; i++) {
        pthread_join(thread[i], NULL);
    }
    return now_ns() - begin;
}

int main(int argc, char **argv)
{
    int away = argc == 3 ? atoi(argv[1]) : 0;
    int rounds = argc == 3 ? atoi(argv[2]) : 0;
    int home = chimera_here();
    uint64_t expected = 0;

    if (rounds < 1 || rounds > 1000 || away == home) {
        fprintf(stderr, "usage: threads NODE ROUNDS\n");
        return 2;
    }
    for (unsigned i = 0; i < CHUNKS; i++) {
        expected += do_chunk(i + 1);
    }
    for (int i = -1; i < rounds; i++) { /* the first starts what is needed */
        for (int nr = 1; nr <= MAX_THREADS; nr *= 2) {
            for (int k = 0; k < 2; k++) {
                int spread = (i + k) & 1;
                int64_t ns = run(nr, spread ? away : home);

                if (sum != expected) {
                    fprintf(stderr, "threads: the sum is wrong\n");
                    return 1;
                }
                if (i >= 0) {
                    printf("threads %s %d %lld\n", spread ? "spread" : "home",
                           nr, (long long)ns);
                }
            }
        }
    }
    return 0;
}
