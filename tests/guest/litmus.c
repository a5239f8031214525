/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Litmus tests across nodes of different ISAs: what one processor stores, in
 * which order may another see it? Every test runs for each ordered choice of
 * nodes and shows a histogram of its outcomes.
 *
 *   litmus [--nodes LIST] [--count N] [--seconds S] [--local CMD]...
 *
 * A test names the outcomes that the memory models of the ISAs taking part
 * forbid with the fences that it uses; one of them is a failure. Tests
 * without the fences only report how often the relaxed outcome came. The
 * control does on purpose what a machine without ordering would do, and fails
 * unless the forbidden outcome is seen: the detector works. Ends with
 * "N passed, N failed".
 */
#define _GNU_SOURCE
#include <chimera/team.h>

#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MAX_ROLES 4
#define BATCH 256 /* instances between two meetings of all threads */

/*
 * One try. Each variable has a line of its own; those of one try are on
 * different pages, or the page protocol would only ever move all of them. In
 * between lie the variables of the other tries.
 */
#define STRIDE (BATCH * CHIMERA_LINE_BYTES)
struct instance {
    _Atomic uint32_t x;
    char to_y[STRIDE - sizeof(uint32_t)];
    _Atomic uint32_t y;
    char to_z[STRIDE - sizeof(uint32_t)];
    _Atomic uint32_t z;
    char to_here[STRIDE - sizeof(uint32_t)];
    _Atomic uint32_t here;
};
_Static_assert(STRIDE % 4096 == 0, "whole pages");

struct shared {
    uint32_t count;
    uint32_t max_ms;
    _Atomic uint32_t stop; /* this test is over */
    uint32_t nr_members;
    struct chimera_barrier barrier __attribute__((aligned(CHIMERA_LINE_BYTES)));
    uint8_t result[MAX_ROLES][BATCH]
        __attribute__((aligned(CHIMERA_LINE_BYTES)));
    char variables[4 * STRIDE] __attribute__((aligned(CHIMERA_LINE_BYTES)));
};

/* ---- accesses ---- */

#define relaxed memory_order_relaxed
#define acquire memory_order_acquire
#define release memory_order_release
#define seq_cst memory_order_seq_cst
#define load(p, order) atomic_load_explicit(&(p), order)
#define store(p, v, order) atomic_store_explicit(&(p), v, order)

/*
 * The cheapest that an ISA's model needs between two stores, between two
 * loads: x86 is TSO and needs nothing, Arm needs dmb ishst, dmb ishld or, for
 * loads, an address dependency.
 */
#if defined(__x86_64__)
#define store_fence() asm volatile("" : : : "memory")
#define load_fence() asm volatile("" : : : "memory")
#define load_dependent(p, value) \
    ({ (void)(value); asm volatile("" : : : "memory"); load(p, relaxed); })
#define full_fence() asm volatile("mfence" : : : "memory")
#elif defined(__aarch64__)
#define store_fence() asm volatile("dmb ishst" : : : "memory")
#define load_fence() asm volatile("dmb ishld" : : : "memory")
/* The address is computed from the value, which the compiler cannot see. */
#define load_dependent(p, value)                                    \
    ({                                                              \
        uint64_t zero_;                                             \
        asm volatile("eor %0, %1, %1"                               \
                     : "=r"(zero_)                                  \
                     : "r"((uint64_t)(value)));                     \
        load(*(_Atomic uint32_t *)((uintptr_t)&(p) + zero_), relaxed); \
    })
#define full_fence() asm volatile("dmb ish" : : : "memory")
#endif

/* ---- the tests ---- */

/* Message passing: x is the message, y says that it is there. */
static unsigned mp_w_release(struct instance *i)
{
    store(i->x, 1, relaxed);
    store(i->y, 1, release);
    return 0;
}

static unsigned mp_r_acquire(struct instance *i)
{
    unsigned r0 = load(i->y, acquire);

    return r0 | load(i->x, relaxed) << 1;
}

static unsigned mp_w_fence(struct instance *i)
{
    store(i->x, 1, relaxed);
    store_fence();
    store(i->y, 1, relaxed);
    return 0;
}

static unsigned mp_r_fence(struct instance *i)
{
    unsigned r0 = load(i->y, relaxed);

    load_fence();
    return r0 | load(i->x, relaxed) << 1;
}

static unsigned mp_r_dependent(struct instance *i)
{
    unsigned r0 = load(i->y, relaxed);

    return r0 | load_dependent(i->x, r0) << 1;
}

static unsigned mp_w_relaxed(struct instance *i)
{
    store(i->x, 1, relaxed);
    store(i->y, 1, relaxed);
    return 0;
}

static unsigned mp_r_relaxed(struct instance *i)
{
    unsigned r0 = load(i->y, relaxed);

    return r0 | load(i->x, relaxed) << 1;
}

/* Saw the flag and not the message. */
static bool mp_forbidden(const unsigned *r)
{
    return r[1] == 1;
}

/* Store buffering: each stores its own and looks at the other's. */
static unsigned sb_0_fence(struct instance *i)
{
    store(i->x, 1, relaxed);
    full_fence();
    return load(i->y, relaxed);
}

static unsigned sb_1_fence(struct instance *i)
{
    store(i->y, 1, relaxed);
    full_fence();
    return load(i->x, relaxed);
}

static unsigned sb_0_seq_cst(struct instance *i)
{
    store(i->x, 1, seq_cst);
    return load(i->y, seq_cst);
}

static unsigned sb_1_seq_cst(struct instance *i)
{
    store(i->y, 1, seq_cst);
    return load(i->x, seq_cst);
}

static unsigned sb_0_xchg(struct instance *i)
{
    atomic_exchange_explicit(&i->x, 1, seq_cst);
    return load(i->y, seq_cst);
}

static unsigned sb_1_xchg(struct instance *i)
{
    atomic_exchange_explicit(&i->y, 1, seq_cst);
    return load(i->x, seq_cst);
}

static unsigned sb_0_relaxed(struct instance *i)
{
    store(i->x, 1, relaxed);
    return load(i->y, relaxed);
}

static unsigned sb_1_relaxed(struct instance *i)
{
    store(i->y, 1, relaxed);
    return load(i->x, relaxed);
}

static bool sb_forbidden(const unsigned *r)
{
    return !r[0] && !r[1];
}

/* Load buffering: nobody sees what is stored because of what he stored. */
static unsigned lb_0(struct instance *i)
{
    unsigned r = load(i->x, acquire);

    store(i->y, 1, release);
    return r;
}

static unsigned lb_1(struct instance *i)
{
    unsigned r = load(i->y, acquire);

    store(i->x, 1, release);
    return r;
}

static bool lb_forbidden(const unsigned *r)
{
    return r[0] && r[1];
}

/* Coherence: one variable never goes back. */
static unsigned co_w(struct instance *i)
{
    store(i->x, 1, relaxed);
    return 0;
}

static unsigned co_r(struct instance *i)
{
    unsigned r0 = load(i->x, relaxed);

    asm volatile("" : : : "memory");
    return r0 | load(i->x, relaxed) << 1;
}

static bool co_forbidden(const unsigned *r)
{
    return r[1] == 1;
}

/* Two writers' final values: x = y = 1 means both went behind the other. */
static unsigned ww_0(struct instance *i)
{
    store(i->x, 1, relaxed);
    store_fence();
    store(i->y, 2, relaxed);
    return 0;
}

static unsigned ww_1(struct instance *i)
{
    store(i->y, 1, relaxed);
    store_fence();
    store(i->x, 2, relaxed);
    return 0;
}

/* Write to read causality: x -> y passes through a third processor. */
static unsigned wrc_1(struct instance *i)
{
    unsigned r = load(i->x, acquire);

    store(i->y, r, release);
    return r;
}

static unsigned wrc_2(struct instance *i)
{
    unsigned r0 = load(i->y, acquire);

    return r0 | load(i->x, relaxed) << 1;
}

static bool wrc_forbidden(const unsigned *r)
{
    return r[2] == 1;
}

/* Independent writes: two readers agree on their order. */
static unsigned iriw_w1(struct instance *i)
{
    store(i->y, 1, relaxed);
    return 0;
}

static unsigned iriw_r0(struct instance *i)
{
    unsigned r0 = load(i->x, acquire);

    return r0 | load(i->y, acquire) << 1;
}

static unsigned iriw_r1(struct instance *i)
{
    unsigned r0 = load(i->y, acquire);

    return r0 | load(i->x, acquire) << 1;
}

static bool iriw_forbidden(const unsigned *r)
{
    return r[2] == 1 && r[3] == 1;
}

static bool both_behind(const struct instance *i)
{
    return load(i->x, relaxed) == 1 && load(i->y, relaxed) == 1;
}

/* The control: the flag first, and the message only when it was missed. */
static struct chimera_team team;

static bool wait_for(_Atomic uint32_t *p)
{
    for (unsigned spins = 0; !atomic_load_explicit(p, acquire); spins++) {
        if (spins % 256 == 255 && !chimera_team_pause(&team, spins)) {
            return false;
        }
    }
    return true;
}

static unsigned control_w(struct instance *i)
{
    store(i->y, 1, release);
    wait_for(&i->z);
    store(i->x, 1, release);
    return 0;
}

static unsigned control_r(struct instance *i)
{
    unsigned r;

    wait_for(&i->y);
    r = mp_r_acquire(i);
    store(i->z, 1, release);
    return r;
}

enum verdict { FORBIDDEN, REPORTED, EXPECTED };

static const struct litmus {
    const char *name;
    unsigned nr_roles;
    unsigned (*role[MAX_ROLES])(struct instance *i);
    bool (*bad)(const unsigned *r);
    bool (*bad_end)(const struct instance *i);
    enum verdict verdict;
} tests[] = {
    { "control", 2, { control_w, control_r }, mp_forbidden, NULL, EXPECTED },
    { "MP+rel+acq", 2, { mp_w_release, mp_r_acquire }, mp_forbidden, NULL,
      FORBIDDEN },
    { "MP+st-fence+ld-fence", 2, { mp_w_fence, mp_r_fence }, mp_forbidden, NULL,
      FORBIDDEN },
    { "MP+st-fence+addr", 2, { mp_w_fence, mp_r_dependent }, mp_forbidden, NULL,
      FORBIDDEN },
    { "MP+rel+addr", 2, { mp_w_release, mp_r_dependent }, mp_forbidden, NULL,
      FORBIDDEN },
    { "MP+relaxed", 2, { mp_w_relaxed, mp_r_relaxed }, mp_forbidden, NULL,
      REPORTED },
    { "SB+fences", 2, { sb_0_fence, sb_1_fence }, sb_forbidden, NULL,
      FORBIDDEN },
    { "SB+seq_cst", 2, { sb_0_seq_cst, sb_1_seq_cst }, sb_forbidden, NULL,
      FORBIDDEN },
    { "SB+fence+seq_cst", 2, { sb_0_fence, sb_1_seq_cst }, sb_forbidden, NULL,
      FORBIDDEN },
    { "SB+xchg", 2, { sb_0_xchg, sb_1_xchg }, sb_forbidden, NULL, FORBIDDEN },
    { "SB+relaxed", 2, { sb_0_relaxed, sb_1_relaxed }, sb_forbidden, NULL,
      REPORTED },
    { "LB+acq-rel", 2, { lb_0, lb_1 }, lb_forbidden, NULL, FORBIDDEN },
    { "CoRR", 2, { co_w, co_r }, co_forbidden, NULL, FORBIDDEN },
    { "2+2W+st-fences", 2, { ww_0, ww_1 }, NULL, both_behind, FORBIDDEN },
    { "WRC+acq-rel", 3, { co_w, wrc_1, wrc_2 }, wrc_forbidden, NULL,
      FORBIDDEN },
    { "IRIW+acq", 4, { co_w, iriw_w1, iriw_r0, iriw_r1 }, iriw_forbidden, NULL,
      FORBIDDEN },
};
#define NR_TESTS (sizeof(tests) / sizeof(tests[0]))

/* ---- running them ---- */

static struct shared *shared;

static struct instance *instance(unsigned n)
{
    return (struct instance *)(shared->variables + n * CHIMERA_LINE_BYTES);
}

static unsigned nr_passed, nr_failed;

struct thread {
    pthread_t id;
    unsigned role;
    const struct litmus *test;
    unsigned member_of[MAX_ROLES];
    uint32_t random;
};

static uint64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000ull + ts.tv_nsec / 1000000;
}

/* A little time that differs, so that the roles overlap in all ways. */
static void jitter(struct thread *t)
{
    t->random ^= t->random << 13;
    t->random ^= t->random >> 17;
    t->random ^= t->random << 5;
    for (uint32_t n = t->random % 24; n; n--) {
        asm volatile("");
    }
}

static void judge(struct thread *t, uint64_t *histogram, uint64_t *nr_bad)
{
    for (unsigned n = 0; n < BATCH; n++) {
        unsigned r[MAX_ROLES] = { 0 }, key = 0;
        bool bad;

        for (unsigned i = 0; i < t->test->nr_roles; i++) {
            r[i] = shared->result[i][n];
            key |= r[i] << 2 * i;
        }
        if (t->test->bad_end) {
            key = load(instance(n)->x, relaxed) |
                  load(instance(n)->y, relaxed) << 2;
        }
        bad = t->test->bad ? t->test->bad(r)
                           : t->test->bad_end(instance(n));
        histogram[key]++;
        *nr_bad += bad;
    }
}

static void tell(struct thread *t, const uint64_t *histogram, uint64_t nr,
                 uint64_t nr_bad)
{
    static const char *const what[] = { "forbidden", "relaxed", "broken" };
    const enum verdict v = t->test->verdict;
    bool right = v == FORBIDDEN ? !nr_bad : v == REPORTED || nr_bad;

    printf("%s %-21s", right ? "ok  " : "FAIL", t->test->name);
    for (unsigned i = 0; i < t->test->nr_roles; i++) {
        const struct chimera_team_member *m = &team.members[t->member_of[i]];

        printf("%s%s(%s)", i ? "," : " ", m->name, m->arch);
    }
    printf("  %" PRIu64 " times, %" PRIu64 " %s ", nr, nr_bad, what[v]);
    for (unsigned key = 0; key < 256; key++) {
        if (!histogram[key]) {
            continue;
        }
        printf(" ");
        for (unsigned i = 0; i < (t->test->bad_end ? 2 : t->test->nr_roles);
             i++) {
            printf("%s%u", i ? "/" : "", key >> 2 * i & 3);
        }
        printf(":%" PRIu64, histogram[key]);
    }
    printf("\n");
    fflush(stdout);
    nr_passed += right;
    nr_failed += !right;
}

static void *role_main(void *arg)
{
    struct thread *t = arg;
    const unsigned nr_roles = t->test->nr_roles;
    uint64_t histogram[256] = { 0 }, nr = 0, nr_bad = 0;
    uint64_t end = now_ms() + shared->max_ms;

    for (;;) {
        if (!t->role) {
            memset(shared->variables, 0, sizeof(shared->variables));
        }
        if (!chimera_barrier_wait(&team, &shared->barrier, nr_roles)) {
            return NULL;
        }
        for (unsigned n = 0; n < BATCH; n++) {
            struct instance *i = instance(n);

            /*
             * Both arrive, then both go at once. More than two would wait for
             * the host to run them all: they meet by chance.
             */
            atomic_fetch_add_explicit(&i->here, 1, memory_order_acq_rel);
            for (unsigned spins = 0;
                 nr_roles == 2 && load(i->here, acquire) < nr_roles; spins++) {
                if (spins % 256 == 255 && !chimera_team_pause(&team, spins)) {
                    return NULL;
                }
            }
            jitter(t);
            shared->result[t->role][n] = t->test->role[t->role](i);
        }
        if (!chimera_barrier_wait(&team, &shared->barrier, nr_roles)) {
            return NULL;
        }
        if (!t->role) {
            judge(t, histogram, &nr_bad);
            nr += BATCH;
            store(shared->stop, nr >= shared->count || now_ms() >= end,
                  relaxed);
        }
        /* stop is valid, and the instances may be cleared. */
        if (!chimera_barrier_wait(&team, &shared->barrier, nr_roles)) {
            return NULL;
        }
        if (load(shared->stop, relaxed)) {
            break;
        }
    }
    if (!team.self && !t->role) {
        tell(t, histogram, nr, nr_bad);
    } else if (!t->role) {
        /* The leader prints: hand the figures over in the first batch. */
        uint64_t *out = (uint64_t *)shared->variables;

        memcpy(out, histogram, sizeof(histogram));
        out[256] = nr;
        out[257] = nr_bad;
    }
    return NULL;
}

/*
 * Run one test with the roles spread so: role r on member (first + r * step).
 * All members walk through the same list; who has no role only waits at the
 * meeting after it.
 */
static bool run_test(const struct litmus *test, unsigned first, unsigned step,
                     struct chimera_barrier *meet)
{
    struct thread threads[MAX_ROLES];
    unsigned nr = shared->nr_members;

    for (unsigned r = 0; r < test->nr_roles; r++) {
        threads[r] = (struct thread){ .role = r, .test = test,
                                      .random = 12345 + r * 7919 };
        for (unsigned i = 0; i < test->nr_roles; i++) {
            threads[r].member_of[i] = (first + i * step) % nr;
        }
    }
    for (unsigned r = 0; r < test->nr_roles; r++) {
        if (threads[r].member_of[r] == team.self &&
            pthread_create(&threads[r].id, NULL, role_main, &threads[r])) {
            fprintf(stderr, "litmus: no thread\n");
            chimera_team_fail(&team);
            return false;
        }
    }
    for (unsigned r = 0; r < test->nr_roles; r++) {
        if (threads[r].member_of[r] == team.self) {
            pthread_join(threads[r].id, NULL);
        }
    }
    if (!chimera_barrier_wait(&team, meet, nr)) {
        return false;
    }
    if (!team.self && threads[0].member_of[0] != 0) {
        uint64_t *in = (uint64_t *)shared->variables;

        tell(&threads[0], in, in[256], in[257]);
    }
    return chimera_barrier_wait(&team, meet, nr);
}

static void *walk(void *arg)
{
    unsigned nr = shared->nr_members;
    struct chimera_barrier *meet =
        (struct chimera_barrier *)((char *)shared + sizeof(*shared));

    (void)arg;
    for (size_t i = 0; i < NR_TESTS; i++) {
        for (unsigned first = 0; first < nr; first++) {
            for (unsigned step = 1; step < nr || step == 1; step++) {
                if (!run_test(&tests[i], first, step, meet)) {
                    return NULL;
                }
            }
        }
    }
    return (void *)1;
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {
        { "nodes", required_argument, NULL, 'n' },
        { "count", required_argument, NULL, 'c' },
        { "seconds", required_argument, NULL, 's' },
        { "local", required_argument, NULL, 'l' },
        { 0 },
    };
    const char *nodes = "all";
    char *locals[CHIMERA_TEAM_MAX];
    unsigned nr_locals = 0;
    unsigned long count = 100000, seconds = 5;
    pthread_t walker;
    void *complete = NULL;
    char *end = "";
    int opt, rc;

    while ((opt = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        switch (opt) {
        case 'n':
            nodes = optarg;
            break;
        case 'c':
            count = strtoul(optarg, &end, 10);
            break;
        case 's':
            seconds = strtoul(optarg, &end, 10);
            break;
        case 'l':
            if (nr_locals < CHIMERA_TEAM_MAX - 1) {
                locals[nr_locals++] = optarg;
            }
            break;
        default:
            opt = '?';
        }
        if (opt == '?' || *end || !count || count > 1000000000 || !seconds ||
            seconds > 3600) {
            fprintf(stderr, "usage: litmus [--nodes LIST] [--count N] "
                            "[--seconds S] [--local CMD]...\n");
            return 2;
        }
    }
    rc = chimera_team_is_member()
             ? chimera_team_join(&team)
             : chimera_team_create(&team, nr_locals ? NULL : nodes, locals,
                                   nr_locals,
                                   sizeof(*shared) + CHIMERA_LINE_BYTES);
    if (rc < 0) {
        fprintf(stderr, "litmus: %s\n", team.error);
        return 1;
    }
    shared = team.mem;
    if (!team.self) {
        shared->count = count;
        shared->max_ms = seconds * 1000;
        shared->nr_members = team.nr;
        if (chimera_team_start(&team, argv) < 0) {
            fprintf(stderr, "litmus: %s\n", team.error);
            return 1;
        }
    }
    if (pthread_create(&walker, NULL, walk, NULL)) {
        fprintf(stderr, "litmus: no thread\n");
        chimera_team_fail(&team);
        return 1;
    }
    if (!team.self && chimera_team_wait(&team) < 0) {
        fprintf(stderr, "litmus: %s\n", team.error);
    }
    pthread_join(walker, &complete);
    if (!team.self) {
        nr_failed += !complete;
        printf("%u passed, %u failed\n", nr_passed, nr_failed);
    }
    return !complete || nr_failed;
}
