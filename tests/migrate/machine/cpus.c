/* SPDX-License-Identifier: GPL-2.0-or-later */
/* CPUs of all nodes: masks, what they make of the thread, and wrong ones. */
#define _GNU_SOURCE
#include <chimera.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_NODES 64

static int nodes, first[MAX_NODES + 1], failures;
static pthread_mutex_t report = PTHREAD_MUTEX_INITIALIZER;

#define CHECK(ok, ...) check(ok, __LINE__, #ok, __VA_ARGS__)

static void check(int ok, int line, const char *what, long got)
{
    if (!ok) {
        pthread_mutex_lock(&report);
        printf("FAILED: line %d: %s (%ld)\n", line, what, got);
        failures++;
        pthread_mutex_unlock(&report);
    }
}

static void read_cpus(void)
{
    int at = 0;

    nodes = chimera_nodes();
    for (int i = 0; i < nodes; i++) {
        char path[80];
        int n = 0;
        FILE *f;

        snprintf(path, sizeof(path), "/sys/devices/system/chimera/node%d/cpus",
                 i);
        f = fopen(path, "re");
        CHECK(f && fscanf(f, "%d", &n) == 1, i);
        if (f) {
            fclose(f);
        }
        first[i] = at;
        at += n;
    }
    first[nodes] = at;
}

/* Time for a thread that was told to move */
static __attribute__((noinline)) long work(long x)
{
    for (int i = 0; i < 1000; i++) {
        x = x * 6364136223846793005l + 1442695040888963407l;
    }
    chimera_point();
    return x;
}

static int node_of(int cpu)
{
    int node = 0;

    while (node + 1 < nodes && cpu >= first[node + 1]) {
        node++;
    }
    return node;
}

static int set_one(pid_t tid, int cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    return sched_setaffinity(tid, sizeof(set), &set);
}

/* Every CPU there is, one after the other, then all of each node */
static __attribute__((noinline)) void visit(void)
{
    cpu_set_t set, got;

    for (int cpu = first[nodes] - 1; cpu >= 0; cpu--) {
        CHECK(!set_one(0, cpu), errno);
        work(1);
        CHECK(chimera_here() == node_of(cpu), cpu);
        CHECK(sched_getcpu() == cpu, sched_getcpu());
        CHECK(!sched_getaffinity(0, sizeof(got), &got), errno);
        CHECK(CPU_COUNT(&got) == 1 && CPU_ISSET(cpu, &got), cpu);
    }
    for (int node = 0; node < nodes; node++) {
        CPU_ZERO(&set);
        for (int cpu = first[node]; cpu < first[node + 1]; cpu++) {
            CPU_SET(cpu, &set);
        }
        CHECK(!sched_setaffinity(0, sizeof(set), &set), errno);
        work(2);
        CHECK(chimera_here() == node, node);
        CHECK(node_of(sched_getcpu()) == node, sched_getcpu());
        CHECK(!sched_getaffinity(0, sizeof(got), &got), errno);
        CHECK(CPU_EQUAL(&set, &got), node);
    }
    /* All: it stays */
    for (int cpu = 0; cpu < first[nodes]; cpu++) {
        CPU_SET(cpu, &set);
    }
    CHECK(!sched_setaffinity(0, sizeof(set), &set), errno);
    work(3);
    CHECK(chimera_here() == nodes - 1, chimera_here());
}

/* From the last node, where visit() left us */
static void wrong(void)
{
    unsigned char small[8];
    cpu_set_t set, got;

    CPU_ZERO(&set);
    CHECK(sched_setaffinity(0, sizeof(set), &set) == -1 && errno == EINVAL,
          errno);
    CPU_SET(first[nodes], &set);
    CPU_SET(1023, &set);
    CHECK(sched_setaffinity(0, sizeof(set), &set) == -1 && errno == EINVAL,
          errno);
    CHECK(set_one(99999, 0) == -1 && errno == ESRCH, errno);
    CHECK(set_one(99999, first[nodes] - 1) == -1 && errno == ESRCH, errno);
    CHECK(sched_getaffinity(99999, sizeof(got), &got) == -1 && errno == ESRCH,
          errno);
    CHECK(syscall(SYS_sched_getaffinity, 0, 7, small) == -1 && errno == EINVAL,
          errno);
    CHECK(syscall(SYS_sched_getaffinity, 0, 0, small) == -1 && errno == EINVAL,
          errno);
    CHECK(syscall(SYS_sched_setaffinity, 0, 8, (void *)8) == -1 &&
          errno == EFAULT, errno);
    CHECK(syscall(SYS_sched_getaffinity, 0, 8, (void *)8) == -1 &&
          errno == EFAULT, errno);
    /* An impossible one changed nothing. */
    CHECK(!sched_getaffinity(0, sizeof(got), &got), errno);
    CHECK(CPU_COUNT(&got) == first[nodes], CPU_COUNT(&got));
    /* What is too much is ignored. */
    CPU_SET(first[nodes] - 1, &set);
    CHECK(!sched_setaffinity(0, sizeof(set), &set), errno);
    CHECK(!sched_getaffinity(0, sizeof(got), &got), errno);
    CHECK(CPU_COUNT(&got) == 1, CPU_COUNT(&got));
    /* Another process has the CPUs of its own node. */
    CHECK(!sched_getaffinity(1, sizeof(got), &got), errno);
    CHECK(CPU_COUNT(&got) < first[nodes], CPU_COUNT(&got));
}

static atomic_int at = -1, tid, stop;

static void *run(void *arg)
{
    int wanted = (int)(long)arg;
    long x = 1;

    if (wanted >= 0) {
        cpu_set_t got;

        x = work(x);
        CHECK(chimera_here() == wanted, chimera_here());
        CHECK(!sched_getaffinity(0, sizeof(got), &got), errno);
        CHECK(CPU_COUNT(&got) == 1, CPU_COUNT(&got));
        return (void *)x;
    }
    tid = syscall(SYS_gettid);
    while (!stop) {
        x = work(x);
        at = chimera_here();
    }
    return (void *)x;
}

/* One thread says where another one goes; new ones inherit the mask. */
static void threads(void)
{
    pthread_t t;

    CHECK(!pthread_create(&t, NULL, run, (void *)-1l), errno);
    while (!tid) {
        sched_yield();
    }
    for (int i = 0; i < 3 * nodes; i++) {
        cpu_set_t got;
        int cpu = first[i % nodes];

        CHECK(!set_one(tid, cpu), errno);
        while (at != node_of(cpu)) {
            sched_yield();
        }
        CHECK(!sched_getaffinity(tid, sizeof(got), &got), errno);
        CHECK(CPU_COUNT(&got) == 1 && CPU_ISSET(cpu, &got), cpu);
    }
    stop = 1;
    pthread_join(t, NULL);
    for (int node = nodes - 1; node >= 0; node--) {
        CHECK(!set_one(0, first[node]), errno);
        CHECK(!pthread_create(&t, NULL, run, (void *)(long)node), errno);
        pthread_join(t, NULL);
    }
}

/* A child of fork has its parent's mask, and obeys to it. */
static __attribute__((noinline)) void child(void)
{
    int status = 0;
    pid_t pid;

    CHECK(!set_one(0, first[nodes - 1]), errno);
    pid = fork();
    if (pid == 0) {
        cpu_set_t got;
        int ok = !sched_getaffinity(0, sizeof(got), &got) &&
                 CPU_COUNT(&got) == 1 && CPU_ISSET(first[nodes - 1], &got);

        work(4);
        ok &= chimera_here() == nodes - 1;
        ok &= !set_one(0, first[0]);
        work(5);
        _exit(ok && chimera_here() == 0 ? 7 : 8);
    }
    waitpid(pid, &status, 0);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7, status);
    work(6);
    CHECK(chimera_here() == nodes - 1, chimera_here());
}

int main(void)
{
    read_cpus();
    CHECK(sysconf(_SC_NPROCESSORS_ONLN) == first[nodes],
          sysconf(_SC_NPROCESSORS_ONLN));
    CHECK(node_of(sched_getcpu()) == chimera_here(), sched_getcpu());
    visit();
    wrong();
    threads();
    child();
    printf("%s: %d CPUs on %d nodes\n", failures ? "FAILED" : "OK", first[nodes],
           nodes);
    return failures != 0;
}
