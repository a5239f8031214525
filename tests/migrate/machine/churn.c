/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * churn SECONDS [SEED]: one thread maps, protects, forks, unmaps and remaps memory
 * that threads on all nodes use, while a process squeezes the home node's memory:
 * pages are swapped out, moved, merged and split.
 *
 * What can be known must be so: every read sees the last write; an access that the
 * mapping does not allow gets its signal, with its address and the right code.
 */
#define _GNU_SOURCE
#include <chimera.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ul
#define PAGES 32
#define BYTES (PAGES * PAGE)
#define WORDS (BYTES / 8)
#define STRIDE 61               /* words between those that are looked at */
#define LANES 4
#define ADDERS 2
#define COUNTERS 16             /* one a page */
#define LANES_AT 0x200000000000ul

enum state { WRITABLE, READABLE, CLOSED, GONE };

/*
 * Memory that one worker uses and the main thread changes, under @lock. @version
 * tells its content: 0 is zeros.
 */
static struct lane {
    pthread_mutex_t lock;
    volatile uint64_t *base;
    volatile uint64_t *old;     /* where it was before, unmapped; or NULL */
    enum state state;
    uint64_t version;
    uint64_t uses;
    atomic_int wanted;          /* by the main thread, who comes next */
    int fd;                     /* of the file that is mapped, -1: anonymous */
    size_t bytes;               /* of the file */
} lanes[LANES];

static atomic_int stop;
static atomic_long failures;
static volatile uint64_t *counters;     /* changed without a lock */
static uint64_t random_state;
static long changes[16], faults;

static uint64_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static void wrong(const char *what, long lane, uint64_t got, uint64_t want)
{
    if (atomic_fetch_add(&failures, 1) < 10) {
        printf("FAILED: lane %ld: %s: %#lx, not %#lx\n", lane, what,
               (unsigned long)got, (unsigned long)want);
    }
    stop = 1;
}

static uint64_t word(uint64_t version, size_t i)
{
    return version ? version * 0x9e3779b97f4a7c15ull + i : 0;
}

/* --- accesses, on whatever node --------------------------------------------------- */

static size_t end_of(const struct lane *l)
{
    return l->fd < 0 ? WORDS : l->bytes / 8;
}

static __attribute__((noinline)) void verify(struct lane *l, int node)
{
    chimera_migrate(node);
    for (size_t i = l->uses % STRIDE; i < end_of(l); i += STRIDE) {
        uint64_t is = l->base[i];

        if (is != word(l->version, i)) {
            wrong("content", l - lanes, is, word(l->version, i));
            return;
        }
    }
}

static __attribute__((noinline)) void fill(struct lane *l, int node)
{
    chimera_migrate(node);
    l->version++;
    for (size_t i = 0; i < end_of(l); i++) {
        l->base[i] = word(l->version, i);
    }
}

static __attribute__((noinline)) void touch(volatile uint64_t *at, int write,
                                            int node)
{
    chimera_migrate(node);
    if (write) {
        *at = 1;
    } else {
        (void)*at;
    }
}

static __thread sigjmp_buf back;
static __thread void *volatile address;
static __thread volatile int code;

static void on_fault(int sig, siginfo_t *info, void *context)
{
    address = info->si_addr;
    code = info->si_code;
    siglongjmp(back, sig);
}

static void refused(struct lane *l, volatile uint64_t *at, int write, int node,
                    int want_signal, int want_code)
{
    volatile int sig = sigsetjmp(back, 1);

    if (!sig) {
        touch(at, write, node);
    }
    if (sig != want_signal) {
        wrong("signal", l - lanes, sig, want_signal);
    } else if (address != (void *)at) {
        wrong("address", l - lanes, (uintptr_t)address, (uintptr_t)at);
    } else if (code != want_code) {
        wrong("code", l - lanes, code, want_code);
    }
    faults++;
}

/* --- workers ------------------------------------------------------------------------ */

static void use(struct lane *l, int node)
{
    volatile uint64_t *at = l->base + l->uses * 977 % end_of(l);

    switch (l->state) {
    case WRITABLE:
        verify(l, node);
        fill(l, node);
        verify(l, (node + 1) % chimera_nodes());
        break;
    case READABLE:
        verify(l, node);
        refused(l, at, 1, node, SIGSEGV, SEGV_ACCERR);
        break;
    case CLOSED:
        refused(l, at, l->uses & 1, node, SIGSEGV, SEGV_ACCERR);
        break;
    case GONE:
        refused(l, at, l->uses & 1, node, SIGSEGV, SEGV_MAPERR);
        break;
    }
    if (l->old) {
        refused(l, l->old + l->uses % WORDS, l->uses & 1, node, SIGSEGV,
                SEGV_MAPERR);
    }
    if (l->fd >= 0 && l->bytes < BYTES && l->state == WRITABLE) {
        refused(l, l->base + l->bytes / 8, l->uses & 1, node, SIGBUS,
                BUS_ADRERR);
    }
    l->uses++;
}

static void *work(void *arg)
{
    struct lane *l = arg;

    while (!stop) {
        pthread_mutex_lock(&l->lock);
        use(l, (l - lanes + l->uses) % chimera_nodes());
        pthread_mutex_unlock(&l->lock);
        while (l->wanted && !stop) {
            sched_yield();
        }
    }
    return NULL;
}

/* Nothing is held: the pages change under its feet. */
static __attribute__((noinline)) long add(int node)
{
    uint64_t last[COUNTERS] = { 0 };
    long n = 0;

    chimera_migrate(node);
    while (!stop) {
        for (int i = 0; i < COUNTERS; i++) {
            uint64_t is = __atomic_add_fetch(counters + i * PAGE / 8, 1,
                                             __ATOMIC_SEQ_CST);

            if (is <= last[i]) {
                wrong("counter fell", i, is, last[i]);
            }
            last[i] = is;
        }
        n++;
    }
    return n;
}

static void *adder(void *arg)
{
    return (void *)add((long)arg % chimera_nodes());
}

/* --- changes ------------------------------------------------------------------------ */

static void map(struct lane *l)
{
    void *p = mmap((void *)l->base, BYTES, PROT_READ | PROT_WRITE,
                   (l->fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED) |
                       MAP_FIXED, l->fd, 0);

    if (p == MAP_FAILED) {
        perror("churn: mmap");
        exit(1);
    }
    l->base = p;
    l->state = WRITABLE;
    if (l->fd < 0) {
        l->version = 0;
    }
}

static void protect(struct lane *l, int prot, enum state state)
{
    if (mprotect((void *)l->base, BYTES, prot)) {
        wrong("mprotect", l - lanes, errno, 0);
    }
    l->state = state;
}

/* To where nothing was since the last time; where it was nothing is then. */
static void move(struct lane *l)
{
    void *to = (char *)l->base + ((uintptr_t)l->base / BYTES % 2 ? -1 : 1) * BYTES;

    if (mremap((void *)l->base, BYTES, BYTES, MREMAP_MAYMOVE | MREMAP_FIXED,
               to) != to) {
        wrong("mremap", l - lanes, errno, 0);
        return;
    }
    l->old = l->base;
    l->base = to;
}

/*
 * A child sees what was there, and its writes stay its own. Of a shared mapping it
 * sees what is there: nobody may write until it has looked.
 */
static pid_t child(struct lane *l)
{
    pid_t pid = fork();
    uint64_t version = l->version;

    if (pid == 0) {
        for (size_t i = 0; i < end_of(l); i += STRIDE) {
            if (l->state < CLOSED && l->base[i] != word(version, i)) {
                _exit(1);
            }
        }
        for (size_t i = 0; l->state == WRITABLE && l->fd < 0 && i < WORDS;
             i += 512) {
            l->base[i] = ~0ull;
        }
        _exit(0);
    }
    if (pid < 0) {
        wrong("fork", l - lanes, errno, 0);
    }
    return pid;
}

static void reap(struct lane *l, pid_t pid)
{
    int status;

    if (waitpid(pid, &status, 0) != pid || status) {
        wrong("child", l - lanes, status, 0);
    }
}

static void change(struct lane *l)
{
    unsigned what = next_random() % 12;
    pid_t pid = 0;

    l->wanted = 1;
    pthread_mutex_lock(&l->lock);
    l->wanted = 0;
    if (l->state == GONE) {
        map(l);
    }
    changes[what]++;
    switch (what) {
    case 0:
        munmap((void *)l->base, BYTES);
        l->state = GONE;
        break;
    case 1:
        protect(l, PROT_READ, READABLE);
        break;
    case 2:
        protect(l, PROT_NONE, CLOSED);
        break;
    case 3:
    case 4:
        protect(l, PROT_READ | PROT_WRITE, WRITABLE);
        break;
    case 5:
        move(l);
        break;
    case 6:
        madvise((void *)l->base, BYTES, MADV_DONTNEED);
        if (l->fd < 0) {
            l->version = 0;
        }
        break;
    case 7:
        madvise((void *)(l->base + next_random() % PAGES * PAGE / 8), 4 * PAGE,
                MADV_PAGEOUT);
        break;
    case 8:
        madvise((void *)l->base, BYTES, next_random() & 1 ? MADV_MERGEABLE
                                                         : MADV_UNMERGEABLE);
        break;
    case 9:
        if (l->fd >= 0) {
            /* What is cut off is zeros when it comes back: fill it then. */
            l->bytes = (1 + next_random() % PAGES) * PAGE;
            if (ftruncate(l->fd, l->bytes)) {
                wrong("ftruncate", l - lanes, errno, 0);
            }
            protect(l, PROT_READ | PROT_WRITE, WRITABLE);
            fill(l, 0);
            break;
        }
        /* fall through */
    default:
        pid = child(l);
        if (pid > 0 && l->fd >= 0) {
            reap(l, pid);
            pid = 0;
        }
    }
    pthread_mutex_unlock(&l->lock);
    madvise((void *)(counters + next_random() % COUNTERS * PAGE / 8), PAGE,
            next_random() & 1 ? MADV_PAGEOUT : MADV_COLD);
    if (pid > 0) {
        reap(l, pid);
    }
}

/* --- pressure ----------------------------------------------------------------------- */

static void put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd >= 0) {
        if (write(fd, text, strlen(text)) < 0) {
            perror(path);
        }
        close(fd);
    }
}

static long vmstat(const char *name)
{
    char line[128];
    long n = -1;
    FILE *f = fopen("/proc/vmstat", "re");

    while (f && fgets(line, sizeof(line), f)) {
        if (!strncmp(line, name, strlen(name)) && line[strlen(name)] == ' ') {
            n = atol(line + strlen(name));
        }
    }
    if (f) {
        fclose(f);
    }
    return n;
}

/* Takes most of what the node has, gives it back, and again. */
static void squeeze(void)
{
    size_t bytes = sysconf(_SC_PHYS_PAGES) * PAGE / 10 * 8;

    for (unsigned round = 0; getppid() != 1; round++) {
        char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        for (size_t i = 0; p != MAP_FAILED && i < bytes; i += PAGE) {
            *(uint64_t *)(p + i) = i * round;
        }
        put("/proc/sys/vm/compact_memory", "1");
        munmap(p, bytes);
    }
    _exit(0);
}

static pid_t squeezer(void)
{
    pid_t pid;

    put("/sys/kernel/mm/ksm/sleep_millisecs", "10");
    put("/sys/kernel/mm/ksm/run", "1");
    put("/sys/kernel/mm/transparent_hugepage/enabled", "always");
    pid = fork();
    if (pid == 0) {
        put("/proc/self/oom_score_adj", "1000");
        squeeze();
    }
    return pid;
}

int main(int argc, char **argv)
{
    time_t end = time(NULL) + (argc > 1 ? atoi(argv[1]) : 10);
    struct sigaction sa = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
    pthread_t workers[LANES], adders[ADDERS];
    long added = 0, swapped = vmstat("pswpout"), total = 0, n = 0;
    char name[] = "/tmp/churnXXXXXX";
    pid_t pid;

    random_state = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
    random_state = random_state * 0x9e3779b97f4a7c15ull + 1;
    setvbuf(stdout, NULL, _IOLBF, 0);
    pid = squeezer();
    sigaction(SIGSEGV, &sa, NULL);
    sigaction(SIGBUS, &sa, NULL);
    counters = mmap(NULL, COUNTERS * PAGE, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < LANES; i++) {
        struct lane *l = &lanes[i];

        /* Where the kernel puts nothing by itself, so that gone is gone */
        l->base = (uint64_t *)(LANES_AT + i * (1ul << 30));
        l->fd = -1;
        if (i == LANES - 1) {
            l->fd = mkstemp(name);
            unlink(name);
            l->bytes = BYTES;
            if (l->fd < 0 || ftruncate(l->fd, BYTES)) {
                perror(name);
                return 1;
            }
        }
        pthread_mutex_init(&l->lock, NULL);
        map(l);
    }
    for (long i = 0; i < ADDERS; i++) {
        pthread_create(&adders[i], NULL, adder, (void *)(i + 1));
    }
    for (int i = 0; i < LANES; i++) {
        pthread_create(&workers[i], NULL, work, &lanes[i]);
    }
    for (; !stop && time(NULL) < end; n++) {
        change(&lanes[next_random() % LANES]);
    }
    stop = 1;
    for (int i = 0; i < LANES; i++) {
        pthread_join(workers[i], NULL);
        total += lanes[i].uses;
        if (!lanes[i].uses) {
            wrong("never used", i, 0, 1);
        }
    }
    for (int i = 0; i < ADDERS; i++) {
        void *p;

        pthread_join(adders[i], &p);
        added += (long)p;
    }
    for (int i = 0; i < COUNTERS; i++) {
        if (counters[i * PAGE / 8] != (uint64_t)added) {
            wrong("counter", i, counters[i * PAGE / 8], added);
        }
    }
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    put("/sys/kernel/mm/ksm/run", "0");
    swapped = vmstat("pswpout") - swapped;
    fprintf(stderr, "%ld changes, %ld uses, %ld faults, %ld additions, %ld pages "
                    "swapped out\n", n, total, faults, added, swapped);
    if (swapped <= 0) {
        printf("FAILED: nothing was swapped out\n");
        failures++;
    }
    printf("%s\n", failures ? "FAILED" : "OK");
    return failures != 0;
}
