/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Signals while the thread hops: none is lost, none disturbs a frame. */
#include <chimera.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

static volatile sig_atomic_t alarms, users;
static volatile long work;

static __attribute__((noinline)) long inner(int n)
{
    chimera_point();
    return n ? n + inner(n - 1) : 0;
}

static void on_alarm(int sig)
{
    alarms++;
    work += inner(3);
}

static void on_user(int sig, siginfo_t *info, void *context)
{
    users++;
    work += info->si_signo == SIGUSR1;
}

static __attribute__((noinline)) long busy(int depth, long x)
{
    long keep[3] = { x, x * 3, x ^ 5 };

    chimera_point();
    if (depth == 0) {
        return keep[0] + keep[1];
    }
    x = busy(depth - 1, x * 5 % 1009 + keep[2] % 7);
    chimera_point();
    return x + keep[0] % 11;
}

int main(void)
{
    struct sigaction sa;
    struct itimerval every = { { 0, 3000 }, { 0, 3000 } }, off;
    sigset_t set;
    long sum = 0;

    memset(&off, 0, sizeof(off));
    memset(&sa, 0, sizeof(sa));
    sa.sa_handler = on_alarm;
    sa.sa_flags = SA_RESTART;
    sigaction(SIGALRM, &sa, NULL);
    sa.sa_sigaction = on_user;
    sa.sa_flags = SA_SIGINFO | SA_RESTART;
    sigaction(SIGUSR1, &sa, NULL);
    setitimer(ITIMER_REAL, &every, NULL);

    for (int i = 0; i < 100; i++) {
        sum = sum * 3 % 1000003 + busy(8, i);
        if (i % 10 == 0) {
            kill(getpid(), SIGUSR1);
        }
    }
    /* Blocked signals wait. */
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    raise(SIGUSR1);
    sum += busy(4, 1);
    printf("pending %d\n", users == 10);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    printf("delivered %d\n", users == 11);
    while (alarms < 3) {
        sum += busy(2, 0) * 0;
    }
    setitimer(ITIMER_REAL, &off, NULL);
    printf("sum %ld alarms %d\n", sum, alarms >= 3);
    return 0;
}
