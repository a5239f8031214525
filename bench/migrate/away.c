/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What it costs a thread to be away from home, timed from inside a guest.
 * Compiled by chimera-cc.
 *
 *   away CASE NODE COUNT   print COUNT samples in ns: "away CASE NS NS ..."
 *
 *   migration    to NODE and back
 *   syscall      a system call made at NODE: getppid, done at home
 *   futex        two threads, one here and one at NODE, wake each other in
 *                turn: one round
 *   touch        the first access at NODE to a page that home has written,
 *                in random order
 *   touch-run    the same, page after page
 *
 * Clocks are read at home only: a sample of the last four is the mean of BATCH
 * of them, less what going there and back took just before.
 */
#include <chimera.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define BATCH 64

static int away;
static volatile uint64_t sink;

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "away: %s\n", what);
    exit(1);
}

static int64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

static void go(int node)
{
    if (chimera_migrate(node) || chimera_here() != node) {
        die("the thread did not move");
    }
}

static int64_t sample_migration(void)
{
    int home = chimera_here();
    int64_t begin = now_ns();

    go(away);
    go(home);
    return now_ns() - begin;
}

static int64_t sample_syscall(void)
{
    int home = chimera_here();
    int64_t way = sample_migration(), begin = now_ns();

    go(away);
    for (int i = 0; i < BATCH; i++) {
        sink += syscall(SYS_getppid);
    }
    go(home);
    return (now_ns() - begin - way) / BATCH;
}

static int64_t touch(int random)
{
    int home = chimera_here();
    size_t bytes = BATCH * PAGE;
    unsigned char *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int64_t way = sample_migration(), begin, took;

    if (at == MAP_FAILED) {
        die("no memory");
    }
    memset(at, 1, bytes);
    begin = now_ns();
    go(away);
    for (unsigned i = 0, p = 0; i < BATCH; i++) {
        sink += at[(size_t)p * PAGE];
        /* a full period of 64 */
        p = random ? (p * 5 + 27) % BATCH : p + 1;
    }
    go(home);
    took = now_ns() - begin - way;
    munmap(at, bytes);
    return took / BATCH;
}

static int64_t sample_touch(void)
{
    return touch(1);
}

static int64_t sample_touch_run(void)
{
    return touch(0);
}

static sem_t ping, pong;

static void *partner(void *arg)
{
    long rounds = (long)arg;

    go(away);
    for (long i = 0; i < rounds; i++) {
        sem_wait(&ping);
        sem_post(&pong);
    }
    return NULL;
}

static int64_t sample_futex(void)
{
    int64_t begin = now_ns();

    for (int i = 0; i < BATCH; i++) {
        sem_post(&ping);
        sem_wait(&pong);
    }
    return (now_ns() - begin) / BATCH;
}

static const struct {
    const char *name;
    int64_t (*sample)(void);
} cases[] = {
    { "migration", sample_migration },
    { "syscall", sample_syscall },
    { "futex", sample_futex },
    { "touch", sample_touch },
    { "touch-run", sample_touch_run },
};

int main(int argc, char **argv)
{
    long count = argc == 4 ? atol(argv[3]) : 0;
    int64_t (*sample)(void) = NULL;
    pthread_t thread;

    for (size_t i = 0; argc == 4 && i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (!strcmp(argv[1], cases[i].name)) {
            sample = cases[i].sample;
        }
    }
    if (!sample || count < 1 || count > 100000) {
        fprintf(stderr, "usage: away CASE NODE COUNT\n");
        return 2;
    }
    away = atoi(argv[2]);
    if (sample == sample_futex) {
        sem_init(&ping, 0, 0);
        sem_init(&pong, 0, 0);
        if (pthread_create(&thread, NULL, partner,
                           (void *)((count + 1) * BATCH))) {
            die("no thread");
        }
    }
    sample(); /* starts the process there */
    printf("away %s", argv[1]);
    for (long i = 0; i < count; i++) {
        printf(" %lld", (long long)sample());
    }
    printf("\n");
    if (sample == sample_futex) {
        pthread_join(thread, NULL);
    }
    return 0;
}
