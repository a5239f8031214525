/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * migrate/rt/control.c and chimera-migrate against each other, without a machine.
 *
 * usage: control CHIMERA-MIGRATE
 */
#define _GNU_SOURCE
#include "../../migrate/rt/control.c"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS 150
#define TIMEOUT_S 30
#define PAGE 4096
#define ASKED_THREADS 3

#define CHECK(x)                                                               \
    do {                                                                       \
        if (!(x)) {                                                            \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x);            \
            exit(1);                                                           \
        }                                                                      \
    } while (0)

/* A page of its own, to see who writes it. */
char flag_page[PAGE] __attribute__((aligned(PAGE)));
extern int __chimera_flag __attribute__((alias("flag_page")));
enum mode chimera_mode = MODE_KERNEL_HOME;

static char *tool;
static int target;              /* what chimera_affinity_node() says */

long chimera_native_syscall(long n, long a, long b, long c, long d, long e,
                            long f)
{
    long r = syscall(n, a, b, c, d, e, f);

    return r < 0 ? -errno : r;
}

void chimera_affinity_arrived(struct thread *t, bool fresh)
{
    (void)t;
    (void)fresh;
}

int chimera_affinity_node(const struct thread *t)
{
    (void)t;
    return target;
}

static int poll_once(struct thread *t)
{
    return chimera_control_pending() ? chimera_control_take(t) : -1;
}

/* --- one after the other ------------------------------------------------------ */

/* What a thread has not taken does not make the others write. */
static void test_left(void)
{
    struct thread other = { .tid = 1001 }, asked = { .tid = 1002 };

    target = 7;
    for (int i = 0; i < CONTROL_REQUESTS; i++) {
        chimera_control_post(1002, CONTROL_AFFINITY);   /* one is enough */
    }
    chimera_control_post(1003, CONTROL_AFFINITY);
    CHECK(poll_once(&other) == -1);
    CHECK(!mprotect(flag_page, PAGE, PROT_READ));
    CHECK(!mprotect(control, sizeof(*control), PROT_READ));
    for (int i = 0; i < 1000; i++) {
        CHECK(chimera_control_pending() && poll_once(&other) == -1);
    }
    chimera_control_end(1001);
    CHECK(!mprotect(flag_page, PAGE, PROT_READ | PROT_WRITE));
    CHECK(!mprotect(control, sizeof(*control), PROT_READ | PROT_WRITE));
    CHECK(poll_once(&asked) == 7);
    CHECK(chimera_control_pending());
    chimera_control_end(1003);
    CHECK(!chimera_control_pending());
}

/* The thread ends before the byte that says so is written. */
static void test_ends(void)
{
    struct thread other = { .tid = 1001 };

    control->request[5].node = 1;
    control->request[5].tid = 1004;
    chimera_control_end(1004);
    *notice() = 1;
    control->stamp++;
    CHECK(poll_once(&other) == -1);
    CHECK(!chimera_control_pending());
}

static void test_forked(void)
{
    struct thread only = { .tid = 1001 };

    chimera_control_post(1001, CONTROL_AFFINITY);
    chimera_control_post(1002, CONTROL_AFFINITY);
    chimera_control_forked();
    CHECK(!chimera_control_pending() && !any_left());
    chimera_control_post(1001, CONTROL_AFFINITY);
    CHECK(poll_once(&only) == 7);
    CHECK(!chimera_control_pending());
}

/* --- all at once ---------------------------------------------------------------- */

static struct thread asked[ASKED_THREADS];
static int last[ASKED_THREADS];
static bool stop;

static int migrate(int tid, int node)
{
    char who[32], where[8];
    int status;
    pid_t pid;

    snprintf(who, sizeof(who), tid ? "%d/%d" : "%d", getpid(), tid);
    snprintf(where, sizeof(where), "%d", node);
    pid = fork();
    if (pid == 0) {
        dup2(STDOUT_FILENO, STDERR_FILENO);
        execl(tool, tool, who, where, NULL);
        _exit(127);
    }
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void *polls(void *arg)
{
    struct thread *t = arg;

    __atomic_store_n(&t->tid, gettid(), __ATOMIC_SEQ_CST);
    while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
        int node = poll_once(t);

        if (node >= 0) {
            __atomic_store_n(&last[t - asked], node, __ATOMIC_SEQ_CST);
        }
        sched_yield();
    }
    chimera_control_end(t->tid);
    return NULL;
}

/* Every request arrives. */
static void *asks(void *arg)
{
    int i = (int)(long)arg;
    time_t end = time(NULL) + TIMEOUT_S;

    while (!__atomic_load_n(&asked[i].tid, __ATOMIC_SEQ_CST)) {
        sched_yield();
    }
    for (int round = 0; round < ROUNDS; round++) {
        CHECK(migrate(asked[i].tid, round & 1) == 0);
        while (__atomic_load_n(&last[i], __ATOMIC_SEQ_CST) != (round & 1)) {
            CHECK(time(NULL) < end);
            sched_yield();
        }
    }
    return NULL;
}

static int ending;

static void *ends(void *arg)
{
    __atomic_store_n(&ending, gettid(), __ATOMIC_SEQ_CST);
    for (long i = 0; i < (long)arg; i++) {
        sched_yield();
    }
    chimera_control_end(gettid());
    return NULL;
}

static void *begins(void *arg)
{
    for (long i = 1; !__atomic_load_n(&stop, __ATOMIC_SEQ_CST); i++) {
        pthread_t t;

        CHECK(!pthread_create(&t, NULL, ends, (void *)(i * 7919 % 3000)));
        pthread_join(t, NULL);
    }
    return arg;
}

/* Threads that do not poll, and end meanwhile */
static void *asks_others(void *arg)
{
    while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
        int tid = __atomic_load_n(&ending, __ATOMIC_SEQ_CST);

        CHECK(migrate(gettid(), 1) == 0);
        CHECK(!tid || migrate(tid, 1) <= 1);
    }
    chimera_control_end(gettid());
    return arg;
}

static void test_all(void)
{
    struct thread self = { .tid = gettid() };
    pthread_t poller[ASKED_THREADS], asker[ASKED_THREADS], more[2];

    memset(last, -1, sizeof(last));
    for (long i = 0; i < ASKED_THREADS; i++) {
        CHECK(!pthread_create(&poller[i], NULL, polls, &asked[i]));
        CHECK(!pthread_create(&asker[i], NULL, asks, (void *)i));
    }
    CHECK(!pthread_create(&more[0], NULL, begins, NULL));
    CHECK(!pthread_create(&more[1], NULL, asks_others, NULL));
    for (int i = 0; i < ASKED_THREADS; i++) {
        pthread_join(asker[i], NULL);
    }
    CHECK(chimera_control_pending());   /* asks_others() does not poll */
    __atomic_store_n(&stop, true, __ATOMIC_SEQ_CST);
    for (int i = 0; i < ASKED_THREADS; i++) {
        pthread_join(poller[i], NULL);
    }
    pthread_join(more[0], NULL);
    pthread_join(more[1], NULL);

    CHECK(migrate(0, 1) == 0);
    CHECK(poll_once(&self) == 1);
    CHECK(!chimera_control_pending());
}

/* chimera-migrate finds out that it asked a thread that has gone. */
static void test_gone(void)
{
    struct thread self = { .tid = gettid() };

    control->request[0].node = 1;
    control->request[0].tid = INT32_MAX;
    *notice() = 1;
    control->stamp++;
    CHECK(poll_once(&self) == -1 && chimera_control_pending());
    CHECK(migrate(0, 0) == 0);
    CHECK(poll_once(&self) == 0);
    CHECK(!chimera_control_pending());
    CHECK(migrate(INT32_MAX, 0) == 1);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    tool = argv[1];
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
    chimera_control_start();
    CHECK(control);
    test_left();
    test_ends();
    test_forked();
    test_gone();
    test_all();
    puts("OK");
    return 0;
}
