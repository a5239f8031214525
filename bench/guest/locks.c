/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Loads that contend for the kernel's spinlocks.
 *
 *   locks SECONDS THREADS
 *
 * Prints one line a load, "locks NAME US-PER-OPERATION": the time in which all
 * together got through one operation.
 *
 *   contend    one lock: THREADS threads look for somebody to wake on one
 *              futex; its sleepers do not match, so all that happens is a
 *              walk along them under the lock of the hash bucket
 *   hackbench  messages of 100 bytes through socket pairs, in groups of four
 *              senders and four receivers, a group for two THREADS
 *   ebizzy     threads that map memory, copy a table into it, search it and
 *              unmap it
 *   forkexec   processes that fork, execute and wait, over and over
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_THREADS 64
#define SLEEPERS 16 /* on the contended futex: the length of the walk */
#define GROUP 4     /* senders, and receivers, of a group */
#define MESSAGE_BYTES 100
#define TABLE_BYTES (64 << 10) /* ebizzy's; what it maps is as large */
#define SEARCHES 16
#define STACK_BYTES (64 << 10)

enum { NOT_ME = 1, WHO_SLEEPS = 2 }; /* bit sets of the contended futex */

static atomic_ullong *operations; /* in memory that children share */

static unsigned nr_threads;
static double seconds;
static pthread_barrier_t barrier;
static atomic_uint futex_word; /* 0: its sleepers are to sleep */
static char table[TABLE_BYTES];

static double now_s(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec + ts.tv_nsec / 1e9;
}

static void must(int failed, const char *what)
{
    if (failed) {
        fprintf(stderr, "locks: %s: %s\n", what, strerror(errno));
        exit(1);
    }
}

static void start(pthread_t *thread, void *(*routine)(void *), void *arg)
{
    pthread_attr_t attr;

    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    errno = pthread_create(thread, &attr, routine, arg);
    must(errno, "pthread_create");
    pthread_attr_destroy(&attr);
}

static pid_t start_process(void)
{
    pid_t pid = fork();

    must(pid < 0, "fork");
    return pid;
}

static void wait_for(unsigned processes)
{
    int status;

    while (processes--) {
        must(wait(&status) < 0, "wait");
        if (status) {
            fprintf(stderr, "locks: a process ended with status %#x\n",
                    (unsigned)status);
            exit(1);
        }
    }
}

/* ---- threads in one address space ---- */

static void *sleeper(void *arg)
{
    (void)arg;
    pthread_barrier_wait(&barrier);
    while (atomic_load(&futex_word) == 0) {
        syscall(SYS_futex, &futex_word, FUTEX_WAIT_BITSET_PRIVATE, 0, NULL,
                NULL, WHO_SLEEPS);
    }
    return NULL;
}

static void contend(void)
{
    must(syscall(SYS_futex, &futex_word, FUTEX_WAKE_BITSET_PRIVATE, 1, NULL,
                 NULL, NOT_ME) != 0, "futex");
}

static void ebizzy(void)
{
    char *copy = mmap(NULL, TABLE_BYTES, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    must(copy == MAP_FAILED, "mmap");
    memcpy(copy, table, TABLE_BYTES);
    for (unsigned i = 0; i < SEARCHES; i++) {
        if (!memchr(copy + i * (TABLE_BYTES / SEARCHES), 1,
                    TABLE_BYTES / SEARCHES)) {
            fprintf(stderr, "locks: the copy is not what was copied\n");
            exit(1);
        }
    }
    must(munmap(copy, TABLE_BYTES), "munmap");
}

static void *repeat(void *operation)
{
    unsigned long long n = 0;
    double end;

    pthread_barrier_wait(&barrier);
    for (end = now_s() + seconds; now_s() < end; n++) {
        ((void (*)(void))operation)();
    }
    atomic_fetch_add(operations, n);
    return NULL;
}

static void run_threads(void (*operation)(void))
{
    pthread_t threads[MAX_THREADS];

    pthread_barrier_init(&barrier, NULL, nr_threads);
    for (unsigned i = 0; i < nr_threads; i++) {
        start(&threads[i], repeat, (void *)operation);
    }
    for (unsigned i = 0; i < nr_threads; i++) {
        pthread_join(threads[i], NULL);
    }
    pthread_barrier_destroy(&barrier);
}

static void run_contend(void)
{
    pthread_t sleepers[SLEEPERS];

    pthread_barrier_init(&barrier, NULL, SLEEPERS + 1);
    for (int i = 0; i < SLEEPERS; i++) {
        start(&sleepers[i], sleeper, NULL);
    }
    pthread_barrier_wait(&barrier);
    pthread_barrier_destroy(&barrier);
    run_threads(contend);
    atomic_store(&futex_word, 1); /* who is about to sleep does not */
    syscall(SYS_futex, &futex_word, FUTEX_WAKE_BITSET_PRIVATE, SLEEPERS, NULL,
            NULL, WHO_SLEEPS);
    for (int i = 0; i < SLEEPERS; i++) {
        pthread_join(sleepers[i], NULL);
    }
}

static void run_ebizzy(void)
{
    for (unsigned i = 0; i < TABLE_BYTES; i += 512) {
        table[i] = 1;
    }
    run_threads(ebizzy);
}

/* ---- processes ---- */

/* Each sender writes to every receiver of its group in turn. */
static void send_messages(int fds[GROUP][2])
{
    char message[MESSAGE_BYTES] = { 0 };
    double end = now_s() + seconds;

    for (int to = 0; now_s() < end; to = (to + 1) % GROUP) {
        must(write(fds[to][1], message, MESSAGE_BYTES) != MESSAGE_BYTES,
             "write");
    }
}

static void receive_messages(int fd)
{
    char message[MESSAGE_BYTES];
    unsigned long long n = 0;
    ssize_t got;

    while ((got = read(fd, message, MESSAGE_BYTES)) == MESSAGE_BYTES) {
        n++;
    }
    must(got < 0, "read");
    atomic_fetch_add(operations, n);
}

static void run_hackbench(void)
{
    unsigned groups = (nr_threads + 1) / 2;

    for (unsigned group = 0; group < groups; group++) {
        int fds[GROUP][2];

        for (int i = 0; i < GROUP; i++) {
            must(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds[i]), "socketpair");
        }
        for (int i = 0; i < 2 * GROUP; i++) {
            if (start_process() == 0) {
                int self = i % GROUP;

                if (i < GROUP) {
                    send_messages(fds);
                } else {
                    for (int k = 0; k < GROUP; k++) {
                        close(fds[k][1]);
                    }
                    receive_messages(fds[self][0]);
                }
                _exit(0);
            }
        }
        for (int i = 0; i < GROUP; i++) {
            close(fds[i][0]);
            close(fds[i][1]);
        }
    }
    wait_for(groups * 2 * GROUP);
}

static void run_forkexec(void)
{
    for (unsigned i = 0; i < nr_threads; i++) {
        if (start_process() == 0) {
            double end = now_s() + seconds;

            while (now_s() < end) {
                if (start_process() == 0) {
                    execl("/proc/self/exe", "locks", "nothing", (char *)NULL);
                    must(1, "execl");
                }
                wait_for(1);
                atomic_fetch_add(operations, 1);
            }
            _exit(0);
        }
    }
    wait_for(nr_threads);
}

static const struct load {
    const char *name;
    void (*run)(void);
} loads[] = {
    { "contend", run_contend },
    { "hackbench", run_hackbench },
    { "ebizzy", run_ebizzy },
    { "forkexec", run_forkexec },
};

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "nothing") == 0) {
        return 0;
    }
    seconds = argc == 3 ? atof(argv[1]) : 0;
    nr_threads = argc == 3 ? (unsigned)atoi(argv[2]) : 0;
    if (seconds <= 0 || nr_threads < 2 || nr_threads > MAX_THREADS) {
        fprintf(stderr, "usage: %s SECONDS THREADS (2 to %d)\n", argv[0],
                MAX_THREADS);
        return 2;
    }
    operations = mmap(NULL, sizeof(*operations), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    must(operations == MAP_FAILED, "mmap");
    for (size_t i = 0; i < sizeof(loads) / sizeof(*loads); i++) {
        double begin = now_s();
        unsigned long long n;

        atomic_store(operations, 0);
        loads[i].run();
        n = atomic_load(operations);
        if (n == 0) {
            fprintf(stderr, "locks: no operation of %s got done in %g s\n",
                    loads[i].name, seconds);
            return 1;
        }
        printf("locks %s %.3f\n", loads[i].name,
               (now_s() - begin) * 1e6 / (double)n);
        fflush(stdout);
    }
    return 0;
}
