/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "machine.h"

#define BARRIER_YIELDS 100

uint64_t machine_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * UINT64_C(1000000000) + ts.tv_nsec;
}

uint64_t machine_random(struct machine *m)
{
    uint64_t z = m->seed += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

void machine_need(void)
{
    const char *why;

    if (dsm_pages_available(&why) < 0) {
        printf("%s\n", why);
        exit(77);
    }
}

/* A process */

static bool on_message(void *opaque, uint16_t from, enum dsm_class cls,
                       const void *data, uint32_t len_bytes)
{
    return true;
}

static void on_writable(void *opaque, uint16_t to, enum dsm_class cls)
{
}

static void on_doorbell(void *opaque, uint16_t from, uint64_t bits)
{
}

static void machine_attach(struct machine *m, int i);

static void on_peer_state(void *opaque, uint16_t peer,
                          enum dsm_peer_state state, const char *reason)
{
    struct machine *m = opaque;

    if (m->shared && state == DSM_PEER_UP) {
        machine_attach(m, peer);
    }
    snprintf(m->reason[peer], DSM_REASON_BYTES, "%s", reason);
    if (state == DSM_PEER_DOWN) {
        m->down_ns[peer] = machine_now_ns();
    }
    m->state[peer] = state;
}

static void on_rejected(void *opaque, const char *reason)
{
}

static void on_invalidated(void *opaque, uint16_t owner, uint64_t page,
                           uint64_t nr)
{
    struct machine *m = opaque;

    m->invalidated[owner] += nr;
    for (uint64_t i = 0; i < nr && m->on_invalidated; i++) {
        m->on_invalidated(m, owner, page + i);
    }
}

static bool on_executed(void *opaque, uint16_t owner, uint64_t page)
{
    struct machine *m = opaque;

    return m->on_executed && m->on_executed(m, owner, page);
}

static void on_lost(void *opaque, uint16_t owner, uint64_t page, uint64_t nr)
{
    struct machine *m = opaque;

    m->lost_pages[owner] += nr;
}

static void on_failed(void *opaque, uint16_t owner, const char *reason)
{
    fprintf(stderr, "region %u failed: %s\n", owner, reason);
    _exit(1);
}

static void *dispatch(void *opaque)
{
    struct machine *m = opaque;
    struct pollfd pfd[2] = {
        { .fd = dsm_node_fd(m->node), .events = POLLIN },
        { .fd = m->stop_fd, .events = POLLIN },
    };

    while (!pfd[1].revents) {
        if (poll(pfd, 2, -1) > 0 && pfd[0].revents) {
            dsm_node_dispatch(m->node);
        }
    }
    return NULL;
}

/* Aligned so that a huge page could be there. */
static void *map_region(struct machine *m, int i)
{
    uint8_t *at = mmap(NULL, m->region_bytes + HUGE_PAGE, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    CHECK(at != MAP_FAILED, "%s", strerror(errno));
    at += -(uintptr_t)at & (HUGE_PAGE - 1);
    return mmap(at, m->region_bytes, PROT_READ | PROT_WRITE,
                MAP_SHARED | MAP_FIXED, dsm_region_fd(m->node, i), 0);
}

static void machine_attach(struct machine *m, int i)
{
    struct dsm_region_params params = {
        .ahead = m->ahead,
        .opaque = m,
        .invalidated = on_invalidated,
        .executed = on_executed,
        .lost = on_lost,
        .failed = on_failed,
    };
    int ret;

    m->memory[i] = map_region(m, i);
    CHECK(m->memory[i] != MAP_FAILED, "%s", strerror(errno));
    params.memory = m->memory[i];
    ret = dsm_region_attach(m->node, i, &params);
    CHECK(ret == 0, "%s", strerror(-ret));
}

void machine_join(struct machine *m, int self)
{
    static const struct dsm_ops ops = {
        .message = on_message,
        .writable = on_writable,
        .doorbell = on_doorbell,
        .peer_state = on_peer_state,
        .rejected = on_rejected,
    };
    struct dsm_config config = m->config;
    uint64_t end_ns = machine_now_ns() +
                      MACHINE_PATIENCE_S * UINT64_C(1000000000);
    int ret;

    m->self = self;
    m->seed = m->seed * 31 + self;
    config.self = self;
    ret = dsm_node_create(&config, &ops, m, &m->node);
    CHECK(ret == 0, "%s", strerror(-ret));
    for (int i = 0; i < m->nr; i++) {
        if (!m->shared || i == self) {
            machine_attach(m, i);
        }
    }
    ret = dsm_node_start(m->node);
    CHECK(ret == 0, "%s", strerror(-ret));
    m->stop_fd = eventfd(0, EFD_CLOEXEC);
    CHECK(m->stop_fd >= 0, "%s", strerror(errno));
    ret = pthread_create(&m->dispatcher, NULL, dispatch, m);
    CHECK(ret == 0, "%s", strerror(ret));
    for (int i = 0; i < m->nr; i++) {
        while (i != self && m->state[i] != DSM_PEER_UP) {
            CHECK(machine_now_ns() < end_ns && m->state[i] != DSM_PEER_DOWN,
                  "node %d is not UP at node %d: %s", i, self, m->reason[i]);
            sched_yield();
        }
    }
}

void machine_leave(struct machine *m)
{
    uint64_t one = 1;

    CHECK(write(m->stop_fd, &one, sizeof(one)) == sizeof(one), "eventfd");
    pthread_join(m->dispatcher, NULL);
    dsm_node_destroy(m->node);
    close(m->stop_fd);
    for (int i = 0; i < m->nr; i++) {
        munmap(m->memory[i], m->region_bytes);
    }
}

/* Sleeps after a while: it may be the others' processor. */
void machine_barrier(struct machine *m)
{
    const struct timespec patience = { .tv_sec = MACHINE_PATIENCE_S };
    _Atomic uint32_t *at = &m->board->round;
    uint32_t round = *at;

    if (atomic_fetch_add(&m->board->arrived, 1) + 1 == (uint32_t)m->nr) {
        m->board->arrived = 0;
        ++*at;
        syscall(SYS_futex, at, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
        return;
    }
    for (int i = 0; i < BARRIER_YIELDS && *at == round; i++) {
        sched_yield();
    }
    while (*at == round) {
        CHECK(syscall(SYS_futex, at, FUTEX_WAIT, round, &patience, NULL, 0) ==
                      0 || errno != ETIMEDOUT,
              "not all come to the barrier");
    }
}

struct dsm_region_stats machine_stats(struct machine *m, int owner)
{
    struct dsm_region_stats st;
    int ret = dsm_region_stats(m->node, owner, &st);

    CHECK(ret == 0, "%s", strerror(-ret));
    return st;
}

/* The parent */

/* A free port, until *ret_fd is closed: so that no two nodes get the same. */
static int free_port(int *ret_fd)
{
    struct sockaddr_in sa = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    socklen_t len = sizeof(sa);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&sa, len) == 0 &&
              getsockname(fd, (struct sockaddr *)&sa, &len) == 0,
          "%s", strerror(errno));
    *ret_fd = fd;
    return ntohs(sa.sin_port);
}

static struct dsm_key *new_key(const struct machine *m)
{
    static const char text[] = "000102030405060708090a0b0c0d0e0f\n";
    char path[96], reason[DSM_REASON_BYTES];
    struct dsm_key *key;
    int fd;

    snprintf(path, sizeof(path), "%s/key", m->dir);
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text),
          "%s: %s", path, strerror(errno));
    close(fd);
    CHECK(dsm_key_load(path, &key, reason) == 0, "%s", reason);
    CHECK(unlink(path) == 0, "%s", strerror(errno));
    return key;
}

void machine_describe(struct machine *m)
{
    const char *seed = getenv("DSM_TEST_SEED");
    int fd[MACHINE_MAX];

    m->seed = seed ? strtoull(seed, NULL, 0) : machine_now_ns();
    if (m->name) {
        printf("%s: %d nodes by %s, DSM_TEST_SEED=%llu\n", m->name, m->nr,
               m->tls ? "tls" : m->tcp ? "tcp" : "unix", (unsigned long long)m->seed);
        fflush(stdout);
    }
    snprintf(m->dir, sizeof(m->dir), "/tmp/dsm-test-XXXXXX");
    CHECK(mkdtemp(m->dir), "%s", strerror(errno));
    if (m->tls) {
        m->tcp = true;
        m->config.key = new_key(m);
    }
    for (int i = 0; i < m->nr; i++) {
        if (m->tcp) {
            snprintf(m->address[i], sizeof(m->address[i]), "tcp:127.0.0.1:%d",
                     free_port(&fd[i]));
        } else {
            snprintf(m->address[i], sizeof(m->address[i]), "unix:%s/%d",
                     m->dir, i);
        }
        snprintf(m->desc[i].name, sizeof(m->desc[i].name), "node%d", i);
        m->desc[i].elf_machine = 62;
        m->desc[i].cpus = 1;
        m->desc[i].ram_bytes = m->region_bytes;
        m->desc[i].address = m->address[i];
    }
    for (int i = 0; m->tcp && i < m->nr; i++) {
        close(fd[i]);
    }
    m->config.coherence =
        m->shared ? DSM_COHERENCE_SHARED : DSM_COHERENCE_PAGES;
    m->config.code = m->shared;
    m->config.nr_nodes = m->nr;
    m->config.nodes = m->desc;
    if (!m->config.connect_retry_ms) {
        m->config.connect_retry_ms = 2;
    }
    m->board = mmap(NULL, sizeof(*m->board), PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(m->board != MAP_FAILED, "%s", strerror(errno));
}

void machine_start(struct machine *m)
{
    if (!m->board) {
        machine_describe(m);
    }
    for (int i = 0; i < m->nr; i++) {
        m->pid[i] = fork();
        CHECK(m->pid[i] >= 0, "%s", strerror(errno));
        if (m->pid[i] == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            machine_join(m, i);
            machine_barrier(m);
            m->run(m);
            machine_leave(m);
            exit(0);
        }
    }
}

static void machine_unlink(struct machine *m, int node)
{
    if (!m->tcp) {
        unlink(m->address[node] + strlen("unix:"));
    }
}

void machine_kill(struct machine *m, int node)
{
    int status;

    CHECK(kill(m->pid[node], SIGKILL) == 0, "%s", strerror(errno));
    CHECK(waitpid(m->pid[node], &status, 0) == m->pid[node], "%s",
          strerror(errno));
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL,
          "%s: node %d ended by itself, status %#x", m->name, node, status);
    m->pid[node] = 0;
    machine_unlink(m, node);
}

void machine_wait(struct machine *m, int node)
{
    int status;

    CHECK(waitpid(m->pid[node], &status, 0) == m->pid[node], "%s",
          strerror(errno));
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0,
          "%s: node %d failed, status %#x", m->name, node, status);
    m->pid[node] = 0;
    machine_unlink(m, node);
}

void machine_finish(struct machine *m)
{
    for (int i = 0; i < m->nr; i++) {
        if (m->pid[i]) {
            machine_wait(m, i);
        }
    }
    munmap(m->board, sizeof(*m->board));
    dsm_key_free(m->config.key);
    CHECK(rmdir(m->dir) == 0, "%s: %s", m->dir, strerror(errno));
}

void machine_run(struct machine *m)
{
    machine_start(m);
    machine_finish(m);
}
