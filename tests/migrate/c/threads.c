/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Eight threads hop at once: thread-local variables, a mutex, a condition, a
   barrier, threads made by threads that are away, detached ones. */
#include <chimera.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define THREADS 8
#define ROUNDS 40

static __thread long mine = 17;
static __thread char name[16];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn_changed = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t barrier;
static pthread_key_t key;
static sem_t done;
static long total;
static int turn;

static __attribute__((noinline)) long walk(int depth, long *up)
{
    long local = depth * 3 + *up;

    chimera_point();
    mine += depth;
    return depth ? walk(depth - 1, &local) + local % 7 : local;
}

static void *child(void *arg)
{
    long x = (long)arg;

    chimera_point();
    mine += x;
    x = walk(3, &x);
    return (void *)(x + mine);
}

static void *detached(void *arg)
{
    chimera_point();
    free(arg);
    sem_post(&done);
    return NULL;
}

static void *run(void *arg)
{
    long id = (long)arg, sum = 0;
    pthread_t t;
    void *ret;

    snprintf(name, sizeof(name), "thread-%ld", id);
    pthread_setspecific(key, name);
    pthread_barrier_wait(&barrier);
    for (int i = 0; i < ROUNDS; i++) {
        char *p = malloc(100 + i * id);

        memset(p, i, 100);
        chimera_point();
        sum = sum * 5 % 10007 + walk(i % 6, &id) + p[99];
        free(p);
        pthread_mutex_lock(&mutex);
        chimera_point();
        total += i;
        pthread_mutex_unlock(&mutex);
    }
    pthread_create(&t, NULL, child, (void *)id);
    chimera_point();
    pthread_join(t, &ret);
    sum += (long)ret;
    pthread_mutex_lock(&mutex);
    while (turn != id) {
        chimera_point();
        pthread_cond_wait(&turn_changed, &mutex);
    }
    printf("%s mine %ld sum %ld %s\n", name, mine, sum,
           (char *)pthread_getspecific(key));
    turn++;
    pthread_cond_broadcast(&turn_changed);
    pthread_mutex_unlock(&mutex);
    if (id % 2) {
        pthread_exit((void *)sum);
    }
    return (void *)sum;
}

int main(void)
{
    pthread_t t[THREADS];
    pthread_attr_t attr;
    long all = 0;

    sem_init(&done, 0, 0);
    pthread_key_create(&key, NULL);
    pthread_barrier_init(&barrier, NULL, THREADS);
    for (long i = 0; i < THREADS; i++) {
        pthread_create(&t[i], NULL, run, (void *)i);
    }
    for (int i = 0; i < THREADS; i++) {
        void *ret;

        pthread_join(t[i], &ret);
        all += (long)ret;
    }
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    for (int i = 0; i < 20; i++) {
        pthread_create(&t[0], &attr, detached, malloc(10));
        sem_wait(&done);
        chimera_point();
    }
    printf("total %ld all %ld main %ld\n", total, all, mine);
    return 0;
}
