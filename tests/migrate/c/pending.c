/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A signal that the program blocks is pending: others arrive all the same. */
#include <chimera.h>
#include <signal.h>
#include <stdio.h>
#include <sys/time.h>

static volatile sig_atomic_t alarms;

static void on_alarm(int sig)
{
    alarms++;
}

int main(void)
{
    struct sigaction sa = { .sa_handler = on_alarm };
    struct itimerval soon = { { 0, 0 }, { 0, 100000 } };
    sigset_t blocked;

    sigaction(SIGALRM, &sa, NULL);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    raise(SIGUSR1);
    for (int i = 0; i < 4; i++) {
        chimera_point();
    }
    for (int i = 0; i < 2; i++) {
        int had = alarms;

        setitimer(ITIMER_REAL, &soon, NULL);
        chimera_migrate(chimera_nodes() - 1);
        while (alarms == had) {         /* asks home for nothing */
            chimera_point();
        }
        chimera_migrate(0);
    }
    printf("alarms %d\n", (int)alarms);
    return 0;
}
