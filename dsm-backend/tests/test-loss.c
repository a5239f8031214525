/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Nodes that die and links that break, at any moment of a running workload.
 *
 * kill: one process gets SIGKILL. The others are told; every access of theirs
 * ends, with a value that is right or with SIGBUS; SIGBUS comes only after the
 * kill, always for pages homed at the dead node, and for others only if that
 * node had something of the page.
 *
 * cut: the link of two nodes breaks. What is homed at the third stays right
 * and accessible for both.
 *
 * test-loss [ROUNDS]
 */
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "internal.h"
#include "machine.h"

#define PAGES 8
#define TOLD_WITHIN_NS UINT64_C(2000000000)

enum { KILLED_NS = 8000, VICTIM, FINISHED, ROUND_SEED, LOST };

static __thread sigjmp_buf bus;
static __thread volatile bool expect_bus;

static void on_bus(int sig, siginfo_t *info, void *context)
{
    if (!expect_bus) {
        static const char text[] = "SIGBUS where none can be\n";

        (void)!write(2, text, sizeof(text) - 1);
        _exit(1);
    }
    siglongjmp(bus, 1);
}

static void catch_bus(void)
{
    struct sigaction sa = {
        .sa_sigaction = on_bus,
        .sa_flags = SA_SIGINFO | SA_NODEFER,
    };

    sigaction(SIGBUS, &sa, NULL);
}

static _Atomic uint64_t *word(struct machine *m, int owner, int page, int i)
{
    return (_Atomic uint64_t *)(m->memory[owner] + (size_t)page * PAGE) + i;
}

/* Return: false: SIGBUS. */
static bool load(_Atomic uint64_t *from, uint64_t *ret)
{
    if (sigsetjmp(bus, 1)) {
        expect_bus = false;
        return false;
    }
    expect_bus = true;
    *ret = *from;
    expect_bus = false;
    return true;
}

static bool store(_Atomic uint64_t *to, uint64_t value)
{
    if (sigsetjmp(bus, 1)) {
        expect_bus = false;
        return false;
    }
    expect_bus = true;
    *to = value;
    expect_bus = false;
    return true;
}

/* One access; as in test-pages, run_random. Return: false: SIGBUS. */
static bool step(struct machine *m, int owner)
{
    _Atomic uint64_t *done = m->board->words, *begun = done + 4096;
    int page = machine_random(m) % PAGES;
    int writer = machine_random(m) % m->nr;
    int at = (owner * PAGES + page) * m->nr + writer;
    uint64_t low, seen, high;

    if (machine_random(m) % 3 == 0) {
        at = (owner * PAGES + page) * m->nr + m->self;
        begun[at] = done[at] + 1;
        if (!store(word(m, owner, page, m->self), done[at] + 1)) {
            return false;
        }
        done[at] = done[at] + 1;
        return true;
    }
    low = done[at];
    if (!load(word(m, owner, page, writer), &seen)) {
        return false;
    }
    high = begun[at];
    CHECK(seen >= low && seen <= high,
          "node %d sees %llu of %llu..%llu in page %d of %d", m->self,
          (unsigned long long)seen, (unsigned long long)low,
          (unsigned long long)high, page, owner);
    return true;
}

static void wait_for_others(struct machine *m, int nr)
{
    uint64_t end_ns = machine_now_ns() +
                      MACHINE_PATIENCE_S * UINT64_C(1000000000);

    m->board->words[FINISHED]++;
    while (m->board->words[FINISHED] < (uint64_t)nr) {
        CHECK(machine_now_ns() < end_ns, "the others do not finish");
        sched_yield();
    }
}

static void run_kill(struct machine *m)
{
    int victim = m->board->words[VICTIM], after = 0;
    uint64_t end_ns = machine_now_ns() +
                      MACHINE_PATIENCE_S * UINT64_C(1000000000);
    uint64_t value;

    catch_bus();
    m->seed ^= m->board->words[ROUND_SEED];
    while (after < 200) {
        int owner = machine_random(m) % m->nr;

        if (!step(m, owner)) {
            CHECK(m->board->words[KILLED_NS], "SIGBUS while all are alive");
        }
        CHECK(machine_now_ns() < end_ns, "nobody says that the node is down");
        if (m->state[victim] == DSM_PEER_DOWN) {
            after++;
        }
    }
    CHECK(m->down_ns[victim] < m->board->words[KILLED_NS] + TOLD_WITHIN_NS,
          "told after %llu ms",
          (unsigned long long)(m->down_ns[victim] -
                               m->board->words[KILLED_NS]) / 1000000);
    /* All of its pages are gone, for the kernel, too. */
    for (int page = 0; page < PAGES; page++) {
        CHECK(!load(word(m, victim, page, 0), &value), "page %d", page);
        CHECK(!store(word(m, victim, page, 0), 1), "page %d", page);
    }
    CHECK(write(m->stop_fd, word(m, victim, 0, 0), 8) < 0 && errno == EFAULT,
          "%s", strerror(errno));
    CHECK(m->lost_pages[victim] >= m->region_bytes / PAGE, "told of all");
    /* Of the others, all that were not lost with it are right: see step(). */
    wait_for_others(m, m->nr - 1);
    for (int owner = 0; owner < m->nr; owner++) {
        for (int page = 0; page < PAGES && owner != victim; page++) {
            if (!load(word(m, owner, page, m->self), &value)) {
                m->board->words[LOST]++;
                continue;
            }
            CHECK(value == m->board->words[(owner * PAGES + page) * m->nr +
                                           m->self],
                  "own words are there");
        }
    }
    wait_for_others(m, 2 * (m->nr - 1));
}

static void run_cut(struct machine *m)
{
    uint64_t steps = 200 + m->board->words[ROUND_SEED] % 3000;

    catch_bus();
    m->seed ^= m->board->words[ROUND_SEED];
    for (uint64_t i = 0; i < steps + 3000; i++) {
        if (i == steps && m->self == 1) {
            shutdown(m->node->pages->links[2].conn.fd, SHUT_RDWR);
        }
        CHECK(step(m, 0), "the home of the page is alive");
    }
    if (m->self > 0) {
        uint64_t value;

        while (m->state[3 - m->self] != DSM_PEER_DOWN) {
            sched_yield();
        }
        CHECK(!load(word(m, 3 - m->self, 0, 0), &value), "not reachable");
        CHECK(m->state[0] == DSM_PEER_UP, "%s", m->reason[0]);
    }
    machine_barrier(m);
}

static void kill_rounds(int rounds, int nr, bool tcp, bool tls)
{
    uint64_t lost = 0;

    for (int i = 0; i < rounds; i++) {
        static struct machine m;
        struct timespec wait = { 0 };
        int victim;

        memset(&m, 0, sizeof(m));
        m.name = "kill";
        m.nr = nr;
        m.tcp = tcp;
        m.tls = tls;
        m.ahead = i % 2;
        m.region_bytes = PAGES * PAGE;
        m.run = run_kill;
        machine_describe(&m);
        victim = machine_random(&m) % nr;
        m.board->words[VICTIM] = victim;
        m.board->words[ROUND_SEED] = machine_random(&m);
        machine_start(&m);
        while (m.board->round == 0) {
            sched_yield();
        }
        /* At any moment of it: this is not a wait for something. */
        wait.tv_nsec = machine_random(&m) % 30000000;
        nanosleep(&wait, NULL);
        m.board->words[KILLED_NS] = machine_now_ns();
        machine_kill(&m, victim);
        for (int n = 0; n < nr; n++) {
            if (n != victim) {
                machine_wait(&m, n);
            }
        }
        lost += m.board->words[LOST];
        machine_finish(&m);
    }
    printf("%d kills of %d nodes: %llu pages were lost with a node that was "
           "not their home\n", rounds, nr, (unsigned long long)lost / (nr - 1));
}

int main(int argc, char **argv)
{
    int rounds = argc > 1 ? atoi(argv[1]) : 12;

    machine_need();
    kill_rounds(rounds, 2, false, false);
    kill_rounds(rounds, 3, false, false);
    kill_rounds(rounds, 4, true, false);
    kill_rounds(rounds, 3, true, true);
    for (int i = 0; i < rounds; i++) {
        static struct machine m;

        memset(&m, 0, sizeof(m));
        m.name = "cut";
        m.nr = 3;
        m.tcp = i % 2;
        m.tls = i % 4 == 3;
        m.region_bytes = PAGES * PAGE;
        m.run = run_cut;
        machine_describe(&m);
        m.board->words[ROUND_SEED] = machine_random(&m);
        machine_start(&m);
        machine_finish(&m);
    }
    return 0;
}
