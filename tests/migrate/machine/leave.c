/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * leave ROUNDS: threads that are ended by a signal while they run on another node,
 * in their own code or in a call; then waits for its input to end.
 */
#include <chimera.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static atomic_int there;
static volatile long x = 1;

static void leave(int sig)
{
    pthread_exit((void *)7);
}

static __attribute__((noinline)) long away(int calls)
{
    chimera_migrate(1 % chimera_nodes());
    there = 1;
    for (;;) {
        x = x * 5 + 1;
        if (calls) {
            getppid();
        } else {
            chimera_point();
        }
    }
}

static void *run(void *arg)
{
    return (void *)away((long)arg);
}

int main(int argc, char **argv)
{
    int rounds = argc > 1 ? atoi(argv[1]) : 1, left = 0;
    struct sigaction sa = { .sa_handler = leave };

    setvbuf(stdout, NULL, _IOLBF, 0);
    sigaction(SIGUSR1, &sa, NULL);
    for (long i = 0; i < rounds; i++) {
        pthread_t t;
        void *p;

        there = 0;
        pthread_create(&t, NULL, run, (void *)(i % 2));
        while (!there) {
        }
        pthread_kill(t, SIGUSR1);
        pthread_join(t, &p);
        left += p == (void *)7;
    }
    printf("%d of %d left\n", left, rounds);
    while (getchar() != EOF) {
    }
    return 0;
}
