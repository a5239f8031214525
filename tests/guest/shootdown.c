/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * TLB shootdown: what one thread changes in an address space, all others see.
 *
 *   shootdown [--rounds N] [--threads T] [--seed S]
 *
 * One thread, the owner, changes a mapping: protects it, unmaps it, puts other
 * memory there, throws its contents away. The others, one a processor, access
 * it all the time, so that their translations are hot when it changes. Once
 * the system call is back no access may go by the old mapping: reads that must
 * fault do, stores land in the memory that is mapped now, or nowhere. A
 * thread that sleeps through the change finds it when it wakes up.
 *
 * A round: the owner maps, everybody accesses (PRIME), the owner changes
 * (whoever spins goes on accessing, a fault is all right), then everybody
 * makes the accesses whose outcome is certain (CHECK). Prints a line for each
 * kind of change and "N passed, N failed"; ends at the first round that fails,
 * because a store through a stale translation may have hit any page.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096u
#define MAX_PAGES 40   /* more than a kernel flushes one by one (33) */
#define MAX_THREADS 64
#define SPINS 20000    /* before a waiter sleeps */
/*
 * During a change, before a thread gives up and sleeps. It must outlast the
 * system call on most rounds: whoever sleeps has its TLB flushed on the way
 * back, and finds nothing.
 */
#define ACCESSES 20000
#define TIMEOUT_S 60   /* for one step of one round */

/*
 * Alone in its 2 MiB, so that unmapping it frees a page table, and far from
 * what the C library maps.
 */
#define WHERE ((char *)0x200000000000)

enum kind {
    READ_ONLY,  /* mprotect(PROT_READ): reads see the value, stores fault */
    NO_ACCESS,  /* mprotect(PROT_NONE): reads fault */
    UNMAP,      /* munmap(): reads fault */
    REPLACE,    /* mmap(MAP_FIXED) of other memory: reads see its contents */
    DISCARD,    /* madvise(MADV_DONTNEED): reads see zeros */
    EXCHANGE,   /* mmap(MAP_FIXED) of another file page: stores go there */
    WRITABLE,   /* mprotect(): read-only pages become writable: stores work */
    NR_KINDS,
};

static const char *const kind_names[NR_KINDS] = {
    "read-only", "no access", "unmapped", "replaced",
    "discarded", "exchanged", "writable",
};

enum phase { IDLE, PRIME, CHECK, END };

struct round {
    enum kind kind;
    unsigned pages;
    uint64_t value; /* in every page's first word when PRIME begins */
};

/* What the threads share; nothing of it is in the memory under test. */
static struct round now;
static atomic_uint phase;    /* round * 4 + enum phase: all wait for changes */
static atomic_uint done;     /* threads that are through this phase */
static atomic_uint sleepers; /* on phase */
static atomic_bool owner_sleeps; /* on done */
static atomic_uint failures;
static atomic_ullong slept;  /* times that ACCESSES were not enough */
static unsigned nr_threads;
static long nr_cpus; /* asked once: musl counts those that a thread may use */
static uint64_t seed = 1;
static int files[2] = { -1, -1 }; /* EXCHANGE's, MAX_PAGES each */
static uint64_t *file_view[2];    /* the same, mapped elsewhere for good */

static atomic_ullong checked[NR_KINDS], must_fault[NR_KINDS], faulted[NR_KINDS];

static void __attribute__((noreturn, format(printf, 1, 2)))
die(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    fputs("shootdown: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    exit(1);
}

static uint64_t mix(uint64_t a, uint64_t b)
{
    uint64_t x = (a + seed) * 0x9e3779b97f4a7c15ull + b * 0xbf58476d1ce4e5b9ull;

    x ^= x >> 29;
    x *= 0x94d049bb133111ebull;
    return x ^ x >> 32;
}

/* ---- waiting ---- */

static void futex_wait(atomic_uint *word, unsigned value)
{
    struct timespec limit = { .tv_sec = TIMEOUT_S };

    if (syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, &limit, NULL, 0) &&
        errno == ETIMEDOUT) {
        die("nothing happened for %d s (phase %u, %u of %u threads done)",
            TIMEOUT_S, atomic_load(&phase) % 4, atomic_load(&done),
            nr_threads);
    }
}

static void futex_wake(atomic_uint *word, int n)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

static void publish(unsigned value)
{
    atomic_store(&done, 0);
    atomic_store(&phase, value);
    /* Pairs with sleep_until(): it sees the phase, or we see the sleeper. */
    if (atomic_load(&sleepers)) {
        futex_wake(&phase, INT_MAX);
    }
}

static unsigned sleep_until(unsigned not)
{
    unsigned value;

    atomic_fetch_add(&sleepers, 1);
    while ((value = atomic_load(&phase)) == not) {
        futex_wait(&phase, not);
    }
    atomic_fetch_sub(&sleepers, 1);
    return value;
}

static void through(void)
{
    /* Pairs with wait_for_all(): it sees all done, or we see it asleep. */
    if (atomic_fetch_add(&done, 1) + 1 == nr_threads &&
        atomic_load(&owner_sleeps)) {
        futex_wake(&done, 1);
    }
}

static void wait_for_all(void)
{
    unsigned n;

    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&done, memory_order_acquire) == nr_threads) {
            return;
        }
    }
    atomic_store(&owner_sleeps, true);
    while ((n = atomic_load(&done)) != nr_threads) {
        futex_wait(&done, n);
    }
    atomic_store(&owner_sleeps, false);
}

/* ---- accesses that may fault ---- */

static _Thread_local sigjmp_buf jump;
static _Thread_local volatile sig_atomic_t armed;

static void on_fault(int sig)
{
    if (!armed) {
        signal(sig, SIG_DFL);
        raise(sig);
        return;
    }
    armed = 0;
    siglongjmp(jump, 1);
}

/* Return: did it go through, without a fault? */
static bool peek(volatile uint64_t *at, uint64_t *value)
{
    if (sigsetjmp(jump, 0)) {
        return false;
    }
    armed = 1;
    *value = *at;
    armed = 0;
    return true;
}

static bool poke(volatile uint64_t *at, uint64_t value)
{
    if (sigsetjmp(jump, 0)) {
        return false;
    }
    armed = 1;
    *at = value;
    armed = 0;
    return true;
}

/* ---- the threads that access ---- */

/* Page @page's first word is the owner's, the next are one a thread. */
static volatile uint64_t *word(unsigned page, unsigned index)
{
    return (volatile uint64_t *)(WHERE + page * PAGE) + index;
}

static void __attribute__((format(printf, 4, 5)))
fail(unsigned round, unsigned self, unsigned page, const char *fmt, ...)
{
    char text[160];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    printf("FAILED: round %u, %s, %u pages: thread %u, page %u: %s\n", round,
           kind_names[now.kind], now.pages, self, page, text);
    fflush(stdout);
    atomic_fetch_add(&failures, 1);
}

static void check_fault(unsigned round, unsigned self, unsigned page,
                        bool store)
{
    uint64_t value = 0;
    bool passed = store ? poke(word(page, 1 + self), round)
                        : peek(word(page, 0), &value);

    atomic_fetch_add(&must_fault[now.kind], 1);
    if (!passed) {
        atomic_fetch_add(&faulted[now.kind], 1);
    } else if (store) {
        fail(round, self, page, "a store did not fault");
    } else {
        fail(round, self, page, "a read did not fault, it saw %#" PRIx64, value);
    }
}

static void check_value(unsigned round, unsigned self, unsigned page,
                        uint64_t want)
{
    uint64_t value;

    if (!peek(word(page, 0), &value)) {
        fail(round, self, page, "a read faulted");
    } else if (value != want) {
        fail(round, self, page, "read %#" PRIx64 " instead of %#" PRIx64, value,
             want);
    }
}

static void check_store(unsigned round, unsigned self, unsigned page)
{
    if (!poke(word(page, 1 + self), mix(round, self))) {
        fail(round, self, page, "a store faulted");
    }
}

static void check(unsigned round, unsigned self, unsigned page)
{
    switch (now.kind) {
    case READ_ONLY:
        check_value(round, self, page, now.value);
        check_fault(round, self, page, true);
        break;
    case NO_ACCESS:
    case UNMAP:
        check_fault(round, self, page, round & 1);
        break;
    case REPLACE:
        check_value(round, self, page, ~now.value);
        check_store(round, self, page);
        break;
    case DISCARD:
        check_value(round, self, page, 0);
        check_store(round, self, page);
        break;
    case EXCHANGE:
        check_value(round, self, page, ~now.value);
        check_store(round, self, page);
        break;
    case WRITABLE:
        check_value(round, self, page, now.value);
        check_store(round, self, page);
        break;
    case NR_KINDS:
        break;
    }
    atomic_fetch_add(&checked[now.kind], 1);
}

/* Make the translation hot. The mapping is as PRIME announced it. */
static void prime(unsigned round, unsigned self, unsigned page)
{
    uint64_t value;

    if (!peek(word(page, 0), &value) || value != now.value) {
        fail(round, self, page, "cannot read what was just mapped");
    }
    if (now.kind != WRITABLE && !poke(word(page, 1 + self), round)) {
        fail(round, self, page, "cannot write what was just mapped");
    }
}

/* Access on until the phase changes; asleep after a while. Says through(). */
static unsigned access_until(unsigned not, unsigned self, unsigned page)
{
    bool store = now.kind != WRITABLE, faulted_once = false;
    unsigned value;
    uint64_t seen;

    for (int i = 0; i < ACCESSES; i++) {
        /* Not before: the owner is to change what is being accessed. */
        if (i == 8) {
            through();
        }
        value = atomic_load_explicit(&phase, memory_order_acquire);
        if (value != not) {
            return value;
        }
        if (!faulted_once) {
            faulted_once = !(store ? poke(word(page, 1 + self), i)
                                   : peek(word(page, 0), &seen));
        }
    }
    atomic_fetch_add(&slept, 1);
    return sleep_until(not);
}

static void *accessor(void *arg)
{
    unsigned self = (uintptr_t)arg, value = 0;
    cpu_set_t cpus;

    CPU_ZERO(&cpus);
    CPU_SET((self + 1) % nr_cpus, &cpus);
    if (sched_setaffinity(0, sizeof(cpus), &cpus)) {
        die("cannot run on processor %u: %s", self + 1, strerror(errno));
    }
    for (;;) {
        unsigned round, page;

        for (int i = 0; i < SPINS && atomic_load(&phase) == value; i++) {
        }
        value = sleep_until(value);
        if (value % 4 == END) {
            return NULL;
        }
        round = value / 4;
        page = mix(round, self) % now.pages;
        prime(round, self, page);
        if (mix(round, self + 1000) % 4 == 0) {
            through();
            value = sleep_until(value);
        } else {
            value = access_until(value, self, page);
        }
        check(round, self, page);
        through();
    }
}

/* ---- the owner ---- */

static void map(int prot, int flags, int fd)
{
    void *at = mmap(WHERE, now.pages * PAGE, prot,
                    (fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED) | flags,
                    fd, 0);

    if (at != WHERE) {
        die("mmap: %s", strerror(errno));
    }
}

static void must(int result, const char *what)
{
    if (result) {
        die("%s: %s", what, strerror(errno));
    }
}

static void fill(uint64_t value)
{
    for (unsigned page = 0; page < now.pages; page++) {
        *word(page, 0) = value;
    }
}

static void set_up(void)
{
    size_t bytes = now.pages * PAGE;

    if (now.kind == EXCHANGE) {
        for (unsigned page = 0; page < now.pages; page++) {
            for (int f = 0; f < 2; f++) {
                memset(file_view[f] + page * PAGE / 8, 0, PAGE);
            }
            file_view[0][page * PAGE / 8] = now.value;
            file_view[1][page * PAGE / 8] = ~now.value;
        }
        map(PROT_READ | PROT_WRITE, MAP_FIXED_NOREPLACE, files[0]);
        return;
    }
    map(PROT_READ | PROT_WRITE, MAP_FIXED_NOREPLACE, -1);
    fill(now.value);
    if (now.kind == WRITABLE) {
        must(mprotect(WHERE, bytes, PROT_READ), "mprotect");
    }
}

static void change(void)
{
    size_t bytes = now.pages * PAGE;

    switch (now.kind) {
    case READ_ONLY:
        must(mprotect(WHERE, bytes, PROT_READ), "mprotect");
        break;
    case NO_ACCESS:
        must(mprotect(WHERE, bytes, PROT_NONE), "mprotect");
        break;
    case UNMAP:
        must(munmap(WHERE, bytes), "munmap");
        break;
    case REPLACE:
        map(PROT_READ | PROT_WRITE, MAP_FIXED, -1);
        fill(~now.value);
        break;
    case DISCARD:
        must(madvise(WHERE, bytes, MADV_DONTNEED), "madvise");
        break;
    case EXCHANGE:
        map(PROT_READ | PROT_WRITE, MAP_FIXED, files[1]);
        break;
    case WRITABLE:
        must(mprotect(WHERE, bytes, PROT_READ | PROT_WRITE), "mprotect");
        break;
    case NR_KINDS:
        break;
    }
}

/* After the threads' checks: did their stores arrive, and nowhere else? */
static void check_stores(unsigned round, const uint64_t *before)
{
    for (unsigned self = 0; self < nr_threads; self++) {
        unsigned page = mix(round, self) % now.pages;
        uint64_t at = page * PAGE / 8 + 1 + self;

        switch (now.kind) {
        case REPLACE:
        case DISCARD:
        case WRITABLE:
            if (*word(page, 1 + self) != mix(round, self)) {
                fail(round, self, page, "a store is not there");
            }
            break;
        case EXCHANGE:
            if (file_view[1][at] != mix(round, self)) {
                fail(round, self, page, "a store is not there");
            }
            if (file_view[0][at] != before[self]) {
                fail(round, self, page, "a store went to the page that was "
                     "mapped before");
            }
            break;
        default:
            break;
        }
    }
}

static void run_round(unsigned round)
{
    static const unsigned sizes[] = { 1, 1, 1, 3, 16, MAX_PAGES };
    uint64_t before[MAX_THREADS];

    now.kind = mix(round, 2000) % NR_KINDS;
    now.pages = sizes[mix(round, 2001) % (sizeof(sizes) / sizeof(*sizes))];
    now.value = mix(round, 2002) | 1;
    set_up();
    publish(round * 4 + PRIME);
    wait_for_all();

    change();
    for (unsigned self = 0; self < nr_threads; self++) {
        unsigned page = mix(round, self) % now.pages;

        before[self] = file_view[0][page * PAGE / 8 + 1 + self];
    }
    publish(round * 4 + CHECK);
    wait_for_all();
    check_stores(round, before);
    if (now.kind != UNMAP) {
        must(munmap(WHERE, now.pages * PAGE), "munmap");
    }
}

static unsigned number(const char *text, unsigned min, unsigned max)
{
    char *end;
    unsigned long n = strtoul(text, &end, 10);

    if (*end || end == text || n < min || n > max) {
        die("found '%s'; allowed: %u to %u", text, min, max);
    }
    return n;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        { "rounds", required_argument, NULL, 'r' },
        { "threads", required_argument, NULL, 't' },
        { "seed", required_argument, NULL, 's' },
        { 0 }
    };
    struct sigaction sa = { .sa_handler = on_fault, .sa_flags = SA_NODEFER };
    unsigned rounds = 20000, round, passed = 0, failed = 0;
    pthread_t threads[MAX_THREADS];
    struct timespec a, b;
    cpu_set_t own;
    int c;

    nr_cpus = sysconf(_SC_NPROCESSORS_ONLN);
    nr_threads = nr_cpus > 1 ? nr_cpus - 1 : 1;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (c) {
        case 'r': rounds = number(optarg, 1, 1u << 29); break;
        case 't': nr_threads = number(optarg, 1, MAX_THREADS); break;
        case 's': seed = number(optarg, 0, UINT_MAX); break;
        default:
            fprintf(stderr, "usage: %s [--rounds N] [--threads T] [--seed S]\n",
                    argv[0]);
            return 2;
        }
    }
    if (nr_cpus < 2) {
        die("one processor has nobody to shoot at");
    }
    sigaction(SIGSEGV, &sa, NULL);
    sigaction(SIGBUS, &sa, NULL);
    for (int f = 0; f < 2; f++) {
        files[f] = memfd_create("shootdown", MFD_CLOEXEC);
        must(files[f] < 0 || ftruncate(files[f], MAX_PAGES * PAGE), "memfd");
        file_view[f] = mmap(NULL, MAX_PAGES * PAGE, PROT_READ | PROT_WRITE,
                            MAP_SHARED, files[f], 0);
        must(file_view[f] == MAP_FAILED, "mmap");
    }
    CPU_ZERO(&own);
    CPU_SET(0, &own);
    must(sched_setaffinity(0, sizeof(own), &own), "sched_setaffinity");
    for (unsigned i = 0; i < nr_threads; i++) {
        errno = pthread_create(&threads[i], NULL, accessor,
                               (void *)(uintptr_t)i);
        must(errno, "pthread_create");
    }

    clock_gettime(CLOCK_MONOTONIC, &a);
    for (round = 1; round <= rounds && !atomic_load(&failures); round++) {
        run_round(round);
    }
    clock_gettime(CLOCK_MONOTONIC, &b);
    publish(round * 4 + END);
    if (!atomic_load(&failures)) {
        for (unsigned i = 0; i < nr_threads; i++) {
            pthread_join(threads[i], NULL);
        }
    }

    for (int k = 0; k < NR_KINDS; k++) {
        bool good = checked[k] && must_fault[k] == faulted[k] &&
                    !(atomic_load(&failures) && now.kind == (enum kind)k);

        printf("%s %s: %llu checks, %llu of %llu faults\n",
               good ? "ok    " : "not ok", kind_names[k], checked[k],
               faulted[k], must_fault[k]);
        passed += good;
        failed += !good;
    }
    printf("%u rounds, %u threads on %ld processors, %llu too late, "
           "%.1f us a round\n",
           round - 1, nr_threads, nr_cpus, slept,
           ((b.tv_sec - a.tv_sec) * 1e6 + (b.tv_nsec - a.tv_nsec) / 1e3) /
               (round - 1));
    printf("%u passed, %u failed\n", passed, failed);
    return failed > 0;
}
