/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Storms of TLB shootdowns: every processor runs a thread that changes
 * mappings of its own in the address space that all share, so that each change
 * has to reach all the others, which are as busy.
 *
 *   storm SECONDS THREADS
 *
 * Prints one line a kind of change, "storm NAME US-PER-CHANGE": the time in
 * which THREADS threads together got through one of them.
 *
 *   munmap    map four pages, touch them, unmap them
 *   mprotect  take away and give back the right to write four pages, and write
 *   madvise   throw away four pages' contents (MADV_DONTNEED) and touch them
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define PAGES 4
#define MAX_THREADS 64

enum kind { MUNMAP, MPROTECT, MADVISE, NR_KINDS };

static const char *const names[NR_KINDS] = { "munmap", "mprotect", "madvise" };

static unsigned nr_threads;
static long nr_cpus; /* asked once: musl counts those that a thread may use */
static double seconds;
static enum kind kind;
static pthread_barrier_t barrier;
static atomic_ullong changes;

static double now_s(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec + ts.tv_nsec / 1e9;
}

static void must(int failed, const char *what)
{
    if (failed) {
        fprintf(stderr, "storm: %s: %s\n", what, strerror(errno));
        exit(1);
    }
}

static char *map(void)
{
    char *at = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    must(at == MAP_FAILED, "mmap");
    return at;
}

/*
 * Stores. To increment takes a load first where there is no instruction for
 * it: that maps the page of zeros, whose replacement is a shootdown more.
 */
static void touch(volatile char *at)
{
    for (int page = 0; page < PAGES; page++) {
        at[page * PAGE] = 1;
    }
}

static void change(char **at)
{
    switch (kind) {
    case MUNMAP:
        must(munmap(*at, PAGES * PAGE), "munmap");
        *at = map();
        break;
    case MPROTECT:
        must(mprotect(*at, PAGES * PAGE, PROT_READ), "mprotect");
        must(mprotect(*at, PAGES * PAGE, PROT_READ | PROT_WRITE), "mprotect");
        break;
    case MADVISE:
        must(madvise(*at, PAGES * PAGE, MADV_DONTNEED), "madvise");
        break;
    case NR_KINDS:
        break;
    }
    touch(*at);
}

static void *storm(void *arg)
{
    char *at = map();
    unsigned long long n = 0;
    cpu_set_t cpus;
    double end;

    CPU_ZERO(&cpus);
    CPU_SET((uintptr_t)arg % nr_cpus, &cpus);
    must(sched_setaffinity(0, sizeof(cpus), &cpus), "sched_setaffinity");
    touch(at);
    pthread_barrier_wait(&barrier);
    for (end = now_s() + seconds; now_s() < end; n++) {
        change(&at);
    }
    atomic_fetch_add(&changes, n);
    must(munmap(at, PAGES * PAGE), "munmap");
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[MAX_THREADS];

    seconds = argc == 3 ? atof(argv[1]) : 0;
    nr_threads = argc == 3 ? (unsigned)atoi(argv[2]) : 0;
    if (seconds <= 0 || nr_threads < 2 || nr_threads > MAX_THREADS) {
        fprintf(stderr, "usage: %s SECONDS THREADS (2 to %d)\n", argv[0],
                MAX_THREADS);
        return 2;
    }
    nr_cpus = sysconf(_SC_NPROCESSORS_ONLN);
    pthread_barrier_init(&barrier, NULL, nr_threads);
    for (kind = 0; kind < NR_KINDS; kind++) {
        double begin = now_s();

        atomic_store(&changes, 0);
        for (uintptr_t i = 0; i < nr_threads; i++) {
            errno = pthread_create(&threads[i], NULL, storm, (void *)i);
            must(errno, "pthread_create");
        }
        for (unsigned i = 0; i < nr_threads; i++) {
            pthread_join(threads[i], NULL);
        }
        if (atomic_load(&changes) == 0) {
            fprintf(stderr, "storm: no %s got done in %g s\n", names[kind],
                    seconds);
            return 1;
        }
        printf("storm %s %.3f\n", names[kind],
               (now_s() - begin) * 1e6 / (double)atomic_load(&changes));
    }
    return 0;
}
