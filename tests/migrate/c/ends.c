/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Threads that end while they want to be elsewhere: polls are cheap afterwards. */
#include <chimera.h>
#include <pthread.h>
#include <stdio.h>

/* What polls look at; bit 0 is the test policies'. */
extern int __chimera_flag;

static void *goes(void *arg)
{
    return (void *)(long)chimera_migrate(chimera_nodes() - 1);
}

static void *asks(void *arg)
{
    void *failed = goes(arg);

    for (int i = 0; i < 5; i++) {
        chimera_point();
    }
    chimera_migrate(0);
    return failed;
}

int main(void)
{
    for (int i = 0; i < 6; i++) {
        pthread_t t[3];
        long failed = 0;

        chimera_point();
        for (int k = 0; k < 3; k++) {
            pthread_create(&t[k], NULL, k ? goes : asks, NULL);
        }
        for (int k = 0; k < 3; k++) {
            void *result;

            pthread_join(t[k], &result);
            failed |= (long)result;
        }
        printf("failed %ld, flag %d\n", failed, __chimera_flag & ~1);
    }
    return 0;
}
