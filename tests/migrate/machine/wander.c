/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * wander THREADS MOVES: says its pid and where its threads are, as they are moved
 * from outside, until they have moved MOVES times.
 */
#include <chimera.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static atomic_int left;

static __attribute__((noinline)) long step(long x)
{
    for (int i = 0; i < 100; i++) {
        x = x * 6364136223846793005l + 1442695040888963407l;
    }
    chimera_point();
    return x;
}

static void *run(void *arg)
{
    int at = chimera_here(), id = (int)(long)arg;
    long x = id;

    printf("thread %d starts on %d\n", id, at);
    while (left > 0) {
        int here;

        x = step(x);
        here = chimera_here();
        if (here != at) {
            printf("thread %d now on %d\n", id, here);
            at = here;
            left--;
        }
    }
    return (void *)x;
}

int main(int argc, char **argv)
{
    int threads = argc > 1 ? atoi(argv[1]) : 1;
    pthread_t t[64];

    left = argc > 2 ? atoi(argv[2]) : 1;
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("pid %d, %ld CPUs\n", getpid(), sysconf(_SC_NPROCESSORS_ONLN));
    for (int i = 1; i < threads && i < 64; i++) {
        pthread_create(&t[i], NULL, run, (void *)(long)i);
    }
    run((void *)0);
    for (int i = 1; i < threads && i < 64; i++) {
        pthread_join(t[i], NULL);
    }
    printf("end\n");
    return 0;
}
