/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Litmus tests between processes: what a few loads and stores of different
 * nodes may see. A test is a text; what sequential consistency allows is
 * computed from it, by trying all interleavings, and anything else fails.
 *
 *   "x=1 y=1 | a=y b=x"     threads are separated by |, variables are w x y z,
 *                           registers a b c d (one set for each thread)
 *
 * The variables lie on one page or each on one of its own, at one home or at
 * several, at random in each round, and so do the copies at its beginning.
 * Accesses are sequentially consistent for the processor, too, so that what is
 * seen is libdsm's doing.
 *
 * test-litmus [RUNS [TEST...]]: of each test, or those named, on each transport
 */
#include <string.h>
#include <unistd.h>

#include "machine.h"

#define MAX_THREADS 4
#define MAX_OPS 4
#define NR_VARS 4
#define BATCH 32 /* instances in one round, at different places */
#define MAX_OUTCOMES 256
#define WORD_SEED 0 /* on the board */
#define WORD_SEEN 1
#define WORD_REGS (WORD_SEEN + MAX_OUTCOMES)

struct op {
    bool store;
    int var, value, reg;
};

struct test {
    const char *name, *text;
    int nr_threads, nr_ops[MAX_THREADS];
    int vars[NR_VARS], nr_vars; /* that it uses */
    struct op op[MAX_THREADS][MAX_OPS];
    /* All registers and final values that are allowed, packed. */
    uint64_t allowed[MAX_OUTCOMES];
    int nr_allowed;
};

static struct test tests[] = {
    { .name = "MP", .text = "x=1 y=1 | a=y b=x" },
    { .name = "SB", .text = "x=1 a=y | y=1 a=x" },
    { .name = "LB", .text = "a=x y=1 | a=y x=1" },
    { .name = "S", .text = "x=2 y=1 | a=y x=1" },
    { .name = "R", .text = "x=1 y=1 | y=2 a=x" },
    { .name = "2+2W", .text = "x=1 y=2 | y=1 x=2" },
    { .name = "IRIW", .text = "x=1 | y=1 | a=x b=y | a=y b=x" },
    { .name = "WRC", .text = "x=1 | a=x y=1 | a=y b=x" },
    { .name = "RWC", .text = "x=1 | a=x b=y | y=1 a=x" },
    { .name = "ISA2", .text = "x=1 y=1 | a=y z=1 | a=z b=x" },
    { .name = "W+RWC", .text = "x=1 z=1 | a=z b=y | y=1 a=x" },
    { .name = "3.SB", .text = "x=1 a=y | y=1 a=z | z=1 a=x" },
    { .name = "CoRR", .text = "x=1 | a=x b=x" },
    { .name = "CoWW", .text = "x=1 x=2 | a=x b=x" },
    { .name = "CoWR", .text = "x=1 a=x | x=2" },
    { .name = "CoRW1", .text = "a=x x=1 | b=x" },
    { .name = "CoRW2", .text = "a=x x=1 | x=2" },
    { .name = "CoRR2", .text = "x=1 | x=2 | a=x b=x | a=x b=x" },
};
#define NR_TESTS ((int)(sizeof(tests) / sizeof(tests[0])))

static void parse(struct test *t)
{
    static const char vars[] = "wxyz", regs[] = "abcd";
    const char *s = t->text;

    t->nr_threads = 1;
    for (; *s; s++) {
        const char *reg = strchr(regs, *s);
        struct op *op;
        int i;

        if (*s == ' ') {
            continue;
        }
        if (*s == '|') {
            t->nr_threads++;
            continue;
        }
        op = &t->op[t->nr_threads - 1][t->nr_ops[t->nr_threads - 1]++];
        CHECK(s[1] == '=' && s[2], "%s", t->name);
        if (reg) {
            op->reg = reg - regs;
            op->var = strchr(vars, s[2]) - vars;
        } else {
            op->store = true;
            op->var = strchr(vars, *s) - vars;
            op->value = s[2] - '0';
        }
        s += 2;
        for (i = 0; i < t->nr_vars && t->vars[i] != op->var; i++) {
        }
        if (i == t->nr_vars) {
            t->vars[t->nr_vars++] = op->var;
        }
    }
}

/* 2 bits for each register of each thread, then for each final value. */
static uint64_t pack(int reg[MAX_THREADS][4], const int *var)
{
    uint64_t all = 0;

    for (int t = 0; t < MAX_THREADS; t++) {
        for (int r = 0; r < 4; r++) {
            all = all << 2 | reg[t][r];
        }
    }
    for (int v = 0; v < NR_VARS; v++) {
        all = all << 2 | var[v];
    }
    return all;
}

static int find_outcome(const struct test *t, uint64_t outcome)
{
    for (int i = 0; i < t->nr_allowed; i++) {
        if (t->allowed[i] == outcome) {
            return i;
        }
    }
    return -1;
}

static void interleave(struct test *t, int *at, int reg[MAX_THREADS][4],
                       int *var)
{
    bool any = false;

    for (int n = 0; n < t->nr_threads; n++) {
        const struct op *op = &t->op[n][at[n]];
        int old;

        if (at[n] == t->nr_ops[n]) {
            continue;
        }
        any = true;
        at[n]++;
        if (op->store) {
            old = var[op->var];
            var[op->var] = op->value;
            interleave(t, at, reg, var);
            var[op->var] = old;
        } else {
            old = reg[n][op->reg];
            reg[n][op->reg] = var[op->var];
            interleave(t, at, reg, var);
            reg[n][op->reg] = old;
        }
        at[n]--;
    }
    if (!any && find_outcome(t, pack(reg, var)) < 0) {
        CHECK(t->nr_allowed < MAX_OUTCOMES, "%s", t->name);
        t->allowed[t->nr_allowed++] = pack(reg, var);
    }
}

static struct test *the_test;
static uint64_t runs = 400;

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

/* Where a variable lies in one instance of a round; the same on all nodes. */
static _Atomic uint64_t *place(struct machine *m, uint64_t round, int instance,
                               int var)
{
    uint64_t how = mix(m->board->words[WORD_SEED] + round);
    int page = how & 1 ? 0 : var;
    int owner = how & 2 ? 0 : var % m->nr;

    return (_Atomic uint64_t *)(m->memory[how & 1 ? 0 : owner] +
                                (size_t)(instance * NR_VARS + page) * PAGE) +
           var * 8;
}

static void run_instance(struct machine *m, uint64_t round, int instance,
                         int *reg)
{
    struct test *t = the_test;

    for (int i = 0; i < t->nr_ops[m->self]; i++) {
        const struct op *op = &t->op[m->self][i];
        _Atomic uint64_t *at = place(m, round, instance, op->var);

        if (op->store) {
            *at = op->value;
        } else {
            reg[op->reg] = *at;
        }
    }
}

static void check_instance(struct machine *m, uint64_t round, int instance)
{
    struct test *t = the_test;
    int reg[MAX_THREADS][4] = { 0 }, var[NR_VARS] = { 0 }, which;

    for (int n = 0; n < t->nr_threads; n++) {
        for (int r = 0; r < 4; r++) {
            reg[n][r] = m->board->words[WORD_REGS +
                                        (instance * MAX_THREADS + n) * 4 + r];
        }
    }
    for (int i = 0; i < t->nr_vars; i++) {
        var[t->vars[i]] = *place(m, round, instance, t->vars[i]);
    }
    which = find_outcome(t, pack(reg, var));
    CHECK(which >= 0, "%s: %s: a=%d b=%d | a=%d b=%d | a=%d b=%d | a=%d b=%d; "
          "w=%d x=%d y=%d z=%d, layout %d", t->name, t->text, reg[0][0],
          reg[0][1], reg[1][0], reg[1][1], reg[2][0], reg[2][1], reg[3][0],
          reg[3][1], var[0], var[1], var[2], var[3],
          (int)(mix(m->board->words[WORD_SEED] + round) & 3));
    m->board->words[WORD_SEEN + which]++;
}

static void run_litmus(struct machine *m)
{
    const struct test *t = the_test;

    for (uint64_t round = 0; round * BATCH < runs; round++) {
        /* The checker of the last round zeroes; others may look, or not. */
        for (int i = m->self; i < BATCH; i += m->nr) {
            for (int v = 0; v < t->nr_vars; v++) {
                *place(m, round, i, t->vars[v]) = 0;
            }
        }
        machine_barrier(m);
        if (machine_random(m) % 2) {
            for (int i = 0; i < BATCH * t->nr_vars; i++) {
                (void)*place(m, round, i / t->nr_vars,
                             t->vars[i % t->nr_vars]);
            }
        }
        machine_barrier(m);
        for (int i = 0; i < BATCH; i++) {
            int reg[4] = { 0 };

            run_instance(m, round, i, reg);
            for (int r = 0; r < 4; r++) {
                m->board->words[WORD_REGS + (i * MAX_THREADS + m->self) * 4 +
                                r] = reg[r];
            }
        }
        machine_barrier(m);
        for (int i = m->self; i < BATCH; i += m->nr) {
            check_instance(m, round, i);
        }
    }
    machine_barrier(m);
    if (m->self == 0) {
        uint64_t nr_runs = 0;
        int kinds = 0;

        for (int i = 0; i < t->nr_allowed; i++) {
            kinds += m->board->words[WORD_SEEN + i] > 0;
            nr_runs += m->board->words[WORD_SEEN + i];
        }
        printf("%s: %llu runs, %d of %d allowed outcomes:", t->name,
               (unsigned long long)nr_runs, kinds, t->nr_allowed);
        for (int i = 0; i < t->nr_allowed; i++) {
            printf(" %llu", (unsigned long long)m->board->words[WORD_SEEN + i]);
        }
        printf("\n");
    }
    machine_barrier(m);
}

/* Whether @test is among the arguments after RUNS, or there are none. */
static bool is_wanted(const struct test *test, int argc, char **argv)
{
    for (int i = 2; i < argc; i++) {
        if (!strcmp(argv[i], test->name)) {
            return true;
        }
    }
    return argc <= 2;
}

int main(int argc, char **argv)
{
    runs = argc > 1 ? strtoull(argv[1], NULL, 0) : runs;
    machine_need();
    for (int i = 0; i < 2 * NR_TESTS; i++) {
        struct test *t = &tests[i % NR_TESTS];
        int at[MAX_THREADS] = { 0 }, reg[MAX_THREADS][4] = { 0 };
        int var[NR_VARS] = { 0 };
        static struct machine m;

        if (!is_wanted(t, argc, argv)) {
            continue;
        }
        memset(&m, 0, sizeof(m));
        if (t->nr_threads == 0) {
            parse(t);
            interleave(t, at, reg, var);
        }
        the_test = t;
        m.name = t->name;
        m.nr = t->nr_threads;
        m.tcp = i >= NR_TESTS;
        m.region_bytes = BATCH * NR_VARS * PAGE;
        m.run = run_litmus;
        machine_describe(&m);
        m.board->words[0] = machine_random(&m);
        machine_start(&m);
        machine_finish(&m);
    }
    return 0;
}
