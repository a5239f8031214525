/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Eight threads that synchronise in every way while they move; then exit(). */
#include <chimera.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define THREADS 8
#define ROUNDS 600
#define SLOTS 16

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t not_full = PTHREAD_COND_INITIALIZER;
static pthread_cond_t not_empty = PTHREAD_COND_INITIALIZER;
static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;
static pthread_barrier_t barrier;
static sem_t tokens;
static long queue[SLOTS], filled, taken, produced, consumed, counted, behind;
static atomic_long added, inside, too_many;
static __thread long own;

static __attribute__((noinline)) void produce(long v)
{
    pthread_mutex_lock(&mutex);
    while (filled - taken == SLOTS) {
        pthread_cond_wait(&not_full, &mutex);
    }
    queue[filled++ % SLOTS] = v;
    produced += v;
    pthread_cond_signal(&not_empty);
    pthread_mutex_unlock(&mutex);
}

static __attribute__((noinline)) void consume(void)
{
    pthread_mutex_lock(&mutex);
    while (filled == taken) {
        pthread_cond_wait(&not_empty, &mutex);
    }
    consumed += queue[taken++ % SLOTS];
    pthread_cond_signal(&not_full);
    pthread_mutex_unlock(&mutex);
}

static __attribute__((noinline)) void round_of(long id, long i)
{
    chimera_migrate((id + i / 8) % chimera_nodes());
    if (id & 1) {
        produce(id * ROUNDS + i);
    } else {
        consume();
    }
    sem_wait(&tokens);
    if (atomic_fetch_add(&inside, 1) >= 3) {
        atomic_fetch_add(&too_many, 1);
    }
    atomic_fetch_add(&added, i);
    atomic_fetch_sub(&inside, 1);
    sem_post(&tokens);
    if (i % 8 == id) {
        pthread_rwlock_wrlock(&rwlock);
        counted++;
        pthread_rwlock_unlock(&rwlock);
    } else {
        pthread_rwlock_rdlock(&rwlock);
        behind += counted < 0;
        pthread_rwlock_unlock(&rwlock);
    }
    own++;
    if (i % 100 == 99) {
        pthread_barrier_wait(&barrier);
    }
}

static void *run(void *arg)
{
    for (long i = 0; i < ROUNDS; i++) {
        round_of((long)arg, i);
    }
    return (void *)own;
}

static __attribute__((noinline)) long spin(long x)
{
    for (int i = 0; i < 1000; i++) {
        x = x * 5 + 1;
    }
    chimera_point();
    return x;
}

static void *wander(void *arg)
{
    long x = 0;

    for (long i = 0;; i++) {
        chimera_migrate((i / 50 + (long)arg) % chimera_nodes());
        x = spin(x);
    }
    return (void *)x;
}

int main(void)
{
    pthread_t t[THREADS];
    long sum = 0;

    pthread_barrier_init(&barrier, NULL, THREADS);
    sem_init(&tokens, 0, 3);
    for (long i = 0; i < THREADS; i++) {
        pthread_create(&t[i], NULL, run, (void *)i);
    }
    for (int i = 0; i < THREADS; i++) {
        void *p;

        pthread_join(t[i], &p);
        sum += (long)p;
    }
    printf("rounds %ld, queue %ld %ld, lost %ld\n", sum, filled, taken,
           produced - consumed);
    printf("added %ld, too many %ld, counted %ld, behind %ld\n", added, too_many,
           counted, behind);
    for (long i = 0; i < THREADS; i++) {
        pthread_create(&t[i], NULL, wander, (void *)i);
    }
    chimera_migrate(chimera_nodes() - 1);
    for (int i = 0; i < 300; i++) {
        sum = spin(sum);
    }
    printf("end\n");
    exit(0);
}
