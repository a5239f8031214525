/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * inspect: a process whose thread runs on another node, seen from home: the time
 * that it uses, and what a debugger reads and writes.
 *
 * inspect home|away: writes things into its memory on every node, says where they
 * are, and dies, by a fault of a thread at home or away. For tests of core dumps.
 */
#define _GNU_SOURCE
#include <chimera.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/times.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LIMIT_S 60
#define USED_MS 500             /* what shall be seen while it is away */

static struct between {         /* parent and child */
    atomic_int tid;
    atomic_long seen;
} *between;

static int failures;
static volatile long counter, poked;
static volatile int stop;

#define CHECK(ok, got) check(ok, __LINE__, #ok, got)

static int check(int ok, int line, const char *what, long got)
{
    if (!ok) {
        printf("FAILED: line %d: %s (%ld)\n", line, what, got);
        failures++;
    }
    return ok;
}

/* --- the child --------------------------------------------------------------- */

static __attribute__((noinline)) long step(long x)
{
    for (int i = 0; i < 1000; i++) {
        x = x * 6364136223846793005l + 1442695040888963407l;
    }
    counter++;
    return x;
}

static __attribute__((noinline)) long away(void)
{
    int tid = syscall(SYS_gettid);
    long x = 1;

    chimera_migrate(1 % chimera_nodes());
    between->tid = tid;
    while (!stop) {
        x = step(x);
    }
    between->seen = poked;
    return chimera_here() == 1 % chimera_nodes() ? x : 0;
}

static void *run(void *arg)
{
    return (void *)away();
}

static long ms(struct timeval tv)
{
    return tv.tv_sec * 1000 + tv.tv_usec / 1000;
}

static int child(void)
{
    struct timespec now;
    struct rusage usage;
    struct tms tms;
    pthread_t t;
    void *p;

    pthread_create(&t, NULL, run, NULL);
    pthread_join(t, &p);
    CHECK(p != NULL, 0);
    getrusage(RUSAGE_SELF, &usage);
    CHECK(ms(usage.ru_utime) + ms(usage.ru_stime) >= USED_MS,
          ms(usage.ru_utime));
    times(&tms);
    CHECK((tms.tms_utime + tms.tms_stime) * 1000 / sysconf(_SC_CLK_TCK) >=
          USED_MS, tms.tms_utime);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    CHECK(now.tv_sec * 1000 + now.tv_nsec / 1000000 >= USED_MS, now.tv_sec);
    return failures ? 1 : 7;
}

/* --- the parent, who looks ------------------------------------------------------ */

static void pause_ms(int n)
{
    struct timespec ts = { 0, n * 1000000l };

    nanosleep(&ts, NULL);
}

static int too_late(time_t begin)
{
    return !CHECK(time(NULL) - begin < LIMIT_S, LIMIT_S);
}

/* utime and stime of /proc/.../stat, in ms */
static long used(const char *fmt, int pid, int tid)
{
    unsigned long user = 0, system = 0;
    char path[64], line[512], *p;
    FILE *f;

    snprintf(path, sizeof(path), fmt, pid, tid);
    f = fopen(path, "re");
    if (!CHECK(f != NULL, errno)) {
        return 0;
    }
    p = fgets(line, sizeof(line), f) ? strrchr(line, ')') : NULL;
    fclose(f);
    CHECK(p && sscanf(p, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
                      &user, &system) == 2, 0);
    return (user + system) * 1000 / sysconf(_SC_CLK_TCK);
}

static long peek(int fd, int pid)
{
    struct iovec here, there = { (void *)&counter, sizeof(counter) };
    long by_ptrace, by_file = 0, by_call = 0;

    errno = 0;
    by_ptrace = ptrace(PTRACE_PEEKDATA, between->tid, &counter, NULL);
    CHECK(!errno, errno);
    CHECK(pread(fd, &by_file, sizeof(by_file), (uintptr_t)&counter) ==
          sizeof(by_file), errno);
    here = (struct iovec){ &by_call, sizeof(by_call) };
    CHECK(process_vm_readv(pid, &here, 1, &there, 1, 0) == sizeof(by_call),
          errno);
    CHECK(by_ptrace == by_file, by_file - by_ptrace);
    CHECK(by_ptrace == by_call, by_call - by_ptrace);
    return by_ptrace;
}

/* It stands still while its thread is stopped at home. */
static void debug(int pid)
{
    char path[64], regs[1024];
    struct iovec iov = { regs, sizeof(regs) };
    long before, now, one = 1;
    int fd, status;

    snprintf(path, sizeof(path), "/proc/%d/mem", pid);
    fd = open(path, O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0, errno);
    CHECK(!ptrace(PTRACE_SEIZE, between->tid, NULL, NULL), errno);
    CHECK(!ptrace(PTRACE_INTERRUPT, between->tid, NULL, NULL), errno);
    CHECK(waitpid(between->tid, &status, __WALL) == between->tid, errno);
    CHECK(WIFSTOPPED(status), status);
    CHECK(!ptrace(PTRACE_GETREGSET, between->tid, NT_PRSTATUS, &iov), errno);
    CHECK(iov.iov_len > 100, iov.iov_len);
    before = peek(fd, pid);
    CHECK(before > 0, before);
    pause_ms(50);
    now = peek(fd, pid);
    CHECK(now == before, now);

    CHECK(!ptrace(PTRACE_CONT, between->tid, NULL, NULL), errno);
    for (time_t begin = time(NULL); now == before && !too_late(begin);) {
        CHECK(pread(fd, &now, sizeof(now), (uintptr_t)&counter) == sizeof(now),
              errno);
    }
    CHECK(!ptrace(PTRACE_INTERRUPT, between->tid, NULL, NULL), errno);
    CHECK(waitpid(between->tid, &status, __WALL) == between->tid, errno);
    CHECK(!ptrace(PTRACE_POKEDATA, between->tid, &poked, (void *)42), errno);
    CHECK(pwrite(fd, &one, sizeof(stop), (uintptr_t)&stop) == sizeof(stop),
          errno);
    CHECK(!ptrace(PTRACE_DETACH, between->tid, NULL, NULL), errno);
    close(fd);
}

static int look(void)
{
    int status = 0;
    time_t begin = time(NULL);
    pid_t pid;

    between = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid = fork();
    if (pid == 0) {
        exit(child());
    }
    while (!between->tid && !too_late(begin)) {
        pause_ms(5);
    }
    /* It asks nothing of home while it is away. */
    while (used("/proc/%d/task/%d/stat", pid, between->tid) < USED_MS &&
           !too_late(begin)) {
        pause_ms(20);
    }
    CHECK(used("/proc/%d/stat", pid, 0) >= USED_MS, 0);
    debug(pid);
    waitpid(pid, &status, 0);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7, status);
    CHECK(between->seen == 42, between->seen);
    printf("%s\n", failures ? "FAILED" : "OK");
    return failures != 0;
}

/* --- core dumps -------------------------------------------------------------------- */

static char global[64];
static atomic_int ready;
static char *volatile nowhere;

static __attribute__((noinline)) void write_things(int node, int fault)
{
    char local[64], *heap = malloc(64);

    chimera_migrate(node);
    snprintf(global + 32 * (node != 0), 32, "global of node %d", chimera_here());
    snprintf(local, sizeof(local), "local of node %d", chimera_here());
    snprintf(heap, 64, "heap of node %d", chimera_here());
    printf("%p %s\n%p %s\n%p %s\n", (void *)(global + 32 * (node != 0)),
           global + 32 * (node != 0), (void *)local, local, (void *)heap, heap);
    ready++;
    if (fault) {
        while (ready < 2) {
            step(1);
        }
        *nowhere = 1;
    }
    for (;;) {
        step(1);
    }
}

static int fault_away;

static void *run_things(void *arg)
{
    write_things(1 % chimera_nodes(), fault_away);
    return NULL;
}

static int die(const char *where)
{
    const struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY };
    pthread_t t;

    fault_away = !strcmp(where, "away");
    setvbuf(stdout, NULL, _IOLBF, 0);
    setrlimit(RLIMIT_CORE, &all);
    pthread_create(&t, NULL, run_things, NULL);
    write_things(0, !fault_away);
    return 0;
}

int main(int argc, char **argv)
{
    return argc > 1 ? die(argv[1]) : look();
}
