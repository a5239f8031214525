/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Faults and handlers that leave, wherever the thread is. */
#include <chimera.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static sigjmp_buf back;
static char *page;
static volatile uintptr_t address;
static volatile int code;
static volatile long count;

static void leave(int sig, siginfo_t *info, void *context)
{
    address = (uintptr_t)info->si_addr;
    code = info->si_code;
    siglongjmp(back, sig);
}

static void repair(int sig, siginfo_t *info, void *context)
{
    code = info->si_code;
    mprotect(page, 4096, PROT_READ | PROT_WRITE);
}

static void on_alarm(int sig, siginfo_t *info, void *context)
{
    siglongjmp(back, sig);
}

static void handle(int sig, void (*handler)(int, siginfo_t *, void *))
{
    struct sigaction sa;

    memset(&sa, 0, sizeof(sa));
    sa.sa_sigaction = handler;
    sa.sa_flags = SA_SIGINFO;
    sigaction(sig, &sa, NULL);
}

static __attribute__((noinline)) void touch(int node, char *p)
{
    chimera_migrate(node);
    *(volatile char *)p = 1;
}

static __attribute__((noinline)) long spin(int node)
{
    chimera_migrate(node);
    for (;;) {
        chimera_point();
        count++;
    }
}

static __attribute__((noinline)) int blocked(int node)
{
    sigset_t none;

    sigemptyset(&none);
    chimera_migrate(node);
    return sigsuspend(&none);
}

static void alarm_ms(int ms)
{
    struct itimerval it = { { 0, 0 }, { ms / 1000, ms % 1000 * 1000 } };

    setitimer(ITIMER_REAL, &it, NULL);
}

/* A default action: what the parent sees of the child */
static void dies(int node)
{
    int status = 0;
    pid_t pid = fork();

    if (pid == 0) {
        signal(SIGSEGV, SIG_DFL);
        touch(node, page + 8192);
        _exit(0);
    }
    waitpid(pid, &status, 0);
    printf("killed by %d\n", WIFSIGNALED(status) ? WTERMSIG(status) : -1);
}

int main(void)
{
    int nodes = chimera_nodes();
    volatile int i;

    setvbuf(stdout, NULL, _IOLBF, 0);
    /* One page, and behind it what must not be touched */
    page = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(page + 4096, 4096, PROT_NONE);
    munmap(page + 8192, 4096);
    for (i = 0; i < 4; i++) {
        int node = i % nodes, sig;

        handle(SIGSEGV, leave);
        sig = sigsetjmp(back, 1);
        if (!sig) {
            touch(node, page + 4096 + 12);
        }
        printf("signal %d at %ld, code %d\n", sig, (long)(address -
               (uintptr_t)page), code);
        sig = sigsetjmp(back, 1);
        if (!sig) {
            touch(node, page + 8192);
        }
        printf("signal %d at %ld, code %d\n", sig, (long)(address -
               (uintptr_t)page), code);

        handle(SIGSEGV, repair);
        mprotect(page, 4096, PROT_READ);
        touch(node, page + 5);
        printf("repaired %d, code %d\n", page[5], code);
        page[5] = 0;

        handle(SIGALRM, on_alarm);
        sig = sigsetjmp(back, 1);
        if (!sig) {
            alarm_ms(50);
            spin(node);
        }
        printf("alarm %d, counted %d\n", sig, count > 0);
        sig = sigsetjmp(back, 1);
        if (!sig) {
            alarm_ms(50);
            blocked(node);
        }
        printf("alarm %d in a call\n", sig);
        dies(node);
    }
    return 0;
}
