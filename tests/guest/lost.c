/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A node dies, and with it, where memory is coherent page by page, the pages
 * that only it had. The follower writes to all pages of segments of both nodes,
 * again and again; the leader prints "kill node N now" and expects whoever runs
 * the test to kill the follower's QEMU with SIGKILL. The leader reads and
 * writes the same pages in every way all the time. It may find what was there
 * or get SIGBUS, but never zeros.
 */
#include "harness.h"

#define RW (PROT_READ | PROT_WRITE)
#define RWX (RW | PROT_EXEC)
#define PAGES 64
#define SIZE ((PAGES + 1) * PAGE) /* the last one has code */
#define CODE PAGES
#define ANSWER 42

enum {
    DO_CHURN = 1000, /* a, b, c = addresses: write there for good */
};

/* In each page; the rest of it is not used. Both halves of words are alike. */
enum {
    FIRST = 0,  /* the follower counts */
    ADDED = 8,  /* the follower adds 0 to what we wrote */
    OURS = 16,  /* we write */
    LAST = 511, /* the follower counts */
};

static uint64_t twice(uint32_t n)
{
    return (uint64_t)n << 32 | n;
}

static void churn(volatile uint64_t *at, uint32_t n)
{
    for (int i = 0; i <= PAGES; i++) {
        volatile uint64_t *page = at + i * PAGE / 8;

        if (i != CODE) {
            page[FIRST] = twice(n);
            page[LAST] = twice(n);
        }
        __atomic_fetch_add(&page[ADDED], 0, __ATOMIC_SEQ_CST);
    }
}

static void churn_all(const struct order_msg *m, uint32_t n)
{
    churn((void *)(uintptr_t)m->a, n);
    churn((void *)(uintptr_t)m->b, n);
    churn((void *)(uintptr_t)m->c, n);
}

static int follow_and_die(void)
{
    unsigned node = 0, port = 0;
    struct order_msg m;

    dev = endpoint(FOLLOW_PORT);
    for (;;) {
        struct result_msg r = { 0 };

        if (msg_recv(dev, &m, sizeof(m), &node, &port, 0, 120 * SECOND) !=
            sizeof(m)) {
            die("no order");
        }
        if (m.op == DO_CHURN) {
            churn_all(&m, 1);
        } else {
            carry_out(&m, &r);
        }
        if (msg_send(dev, node, port, &r, sizeof(r), 0, 20 * SECOND)) {
            die("cannot report");
        }
        for (uint32_t n = 2; m.op == DO_CHURN; n++) {
            churn_all(&m, n ? n : 1);
        }
    }
}

static void store_code(void *at)
{
#if defined(__x86_64__)
    static const uint8_t code[] = { 0xb8, ANSWER, 0, 0, 0, 0xc3 };
#else
    static const uint32_t code[] = { 0x52800000 | ANSWER << 5, 0xd65f03c0 };
#endif

    memcpy(at, code, sizeof(code));
    __builtin___clear_cache(at, (char *)at + sizeof(code));
}

enum way { LOAD, LOAD_16, LOAD_ACROSS, ADD, SWAP, STORE, COPY, CALL, WAYS };

static const char *const way_name[] = {
    "load", "load of 16 bytes", "load across pages", "atomic add",
    "compare and swap", "store", "copy", "call",
};

static bool whole(uint64_t value)
{
    return (uint32_t)value && value >> 32;
}

/* What may not be zero is not; each way is one that emulators treat apart. */
static bool use(volatile uint64_t *page, enum way way)
{
    typedef uint64_t pair __attribute__((vector_size(16)));
    typedef uint64_t across __attribute__((aligned(1)));
    volatile across *at = (void *)((char *)page - 4);
    uint64_t value, words[PAGE / 8];
    pair two;

    switch (way) {
    case LOAD:
        return whole(page[FIRST]) && whole(page[LAST]);
    case LOAD_16:
        two = *(volatile pair *)&page[LAST - 1];
        return whole(two[1]);
    case LOAD_ACROSS:
        value = *at;
        return whole(value);
    case ADD:
        return whole(__atomic_fetch_add(&page[ADDED], 0, __ATOMIC_SEQ_CST));
    case SWAP:
        value = 0;
        return !__atomic_compare_exchange_n(&page[FIRST], &value, 0, false,
                                            __ATOMIC_SEQ_CST,
                                            __ATOMIC_SEQ_CST) &&
               whole(value);
    case STORE:
        page[OURS] = twice(1);
        return true;
    case COPY:
        memcpy(words, (const void *)page, PAGE);
        return whole(words[FIRST]) && whole(words[LAST]);
    case CALL:
        return ((int (*)(void))(uintptr_t)page)() == ANSWER;
    default:
        return false;
    }
}

struct segment {
    const char *name;
    bool here;
    volatile uint64_t *at;
    int64_t there;
    bool lost[PAGES + 1];
    long nr_lost[WAYS];
};

static void *volatile fault_at;

static void on_bus_error(int sig, siginfo_t *si, void *context)
{
    (void)context;
    fault_at = si->si_addr;
    on_fault(sig);
}

/* Return: false: that was zero. */
static bool try_page(struct segment *s, int i, enum way way)
{
    volatile uint64_t *page = s->at + i * PAGE / 8;
    bool good = true, was_lost = s->lost[i];
    int sig = sigsetjmp(fault_jump, 1);

    if (!sig) {
        fault_armed = 1;
        good = use(page, way);
        fault_armed = 0;
        if (way == LOAD_ACROSS) {
            was_lost |= s->lost[i - 1];
        }
        return check(good, "%s: %s in page %d gives zero", s->name,
                     way_name[way], i) &&
               check(!was_lost, "%s: %s in page %d, which was lost", s->name,
                     way_name[way], i);
    }
    fault_armed = 0;
    s->nr_lost[way]++;
    if (s->here) {
        long at = (uintptr_t)fault_at / PAGE - (uintptr_t)page / PAGE;

        check(!at || (at == -1 && way == LOAD_ACROSS),
              "%s: %s in page %d: SIGBUS at %p, not in %p", s->name,
              way_name[way], i, fault_at, (void *)page);
    }
    /* of two pages one is lost, but which? */
    if (way != LOAD_ACROSS) {
        s->lost[i] = true;
    }
    return check_is(sig, SIGBUS, "%s: %s in page %d", s->name, way_name[way],
                    i);
}

/*
 * Some pages a round, so that the follower has most of them; in ROUNDS rounds
 * each page in each way.
 */
#define PART 8
#define ROUNDS (PART * CALL)

static bool round_of(struct segment *s, int round, bool executable)
{
    bool good = true;

    for (int i = round % PART; i < PAGES && good; i += PART) {
        enum way way = (i + round / PART) % CALL;

        good = try_page(s, i, way == LOAD_ACROSS && !i ? LOAD : way);
    }
    return good && (!executable || round % PART || try_page(s, CODE, CALL));
}

static long sum(const struct segment *s)
{
    long n = 0;

    for (int way = 0; way < WAYS; way++) {
        n += s->nr_lost[way];
    }
    return n;
}

static void create(struct segment *s, const char *name, bool here, int prot)
{
    long fd, rfd;

    s->name = name;
    s->here = here;
    if (here) {
        fd = seg_create(name, SIZE, 0600, 0);
        rfd = there_named(name, DO_OPEN, .a = O_RDWR);
    } else {
        rfd = there_named(name, DO_CREATE, .a = SIZE, .b = 0600);
        fd = seg_open(name, O_RDWR);
    }
    check(fd >= 0 && rfd >= 0, "%s: %ld, there %ld", name, fd, rfd);
    s->at = mmap(NULL, SIZE, prot, MAP_SHARED, fd, 0);
    if (s->at == MAP_FAILED) {
        die("%s: cannot map: %s", name, strerror(errno));
    }
    for (int i = 0; i < PAGES; i++) {
        s->at[i * PAGE / 8 + ADDED] = twice(1);
    }
    if (prot & PROT_EXEC) {
        store_code((void *)(s->at + CODE * PAGE / 8));
    }
    s->there = there(DO_MAP, .a = rfd, .b = SIZE, .c = RW);
    check(s->there > 0, "%s: map there: %ld", name, (long)s->there);
}

static bool state_is(const char *want)
{
    return !strcmp(slurp(SYSFS "/node%d/state", peer), want);
}

int main(int argc, char **argv)
{
    /* ours that we use all the time, and from when the node is down */
    struct segment ours = { 0 }, cold = { 0 }, theirs = { 0 };
    bool dsm, down = false, good = true;
    int64_t until;
    struct sigaction sa = { .sa_sigaction = on_bus_error,
                            .sa_flags = SA_SIGINFO | SA_NODEFER };
    int round, left;

    if (argc == 2 && !strcmp(argv[1], "follow")) {
        return follow_and_die();
    }
    if (argc != 3 || strcmp(argv[1], "lead")) {
        return usage(argv[0]);
    }
    lead(argv[2]);
    sigaction(SIGBUS, &sa, NULL);
    dsm = strcmp(slurp(SYSFS "/coherence"), "shared");
    create(&ours, "ours", true, dsm ? RWX : RW);
    create(&cold, "cold", true, dsm ? RWX : RW);
    create(&theirs, "theirs", false, RW);
    check_is(there(DO_CHURN, .a = ours.there, .b = theirs.there,
                   .c = cold.there),
             0, "writing there");

    until = now_ns() + 60 * SECOND;
    /* some rounds before, and some more when the kernel knows */
    for (round = 0, left = ROUNDS; left && good && now_ns() < until; round++) {
        if (round == ROUNDS) {
            check_is(sum(&ours) + sum(&theirs), 0, "SIGBUS before the end");
            printf("kill node %d now\n", peer);
            fflush(stdout);
        }
        down |= round > ROUNDS && !state_is("up");
        good = round_of(&ours, round, dsm) &&
               round_of(&theirs, round, false) &&
               (!down || round_of(&cold, round, dsm));
        left -= down && state_is("fenced");
    }
    check(!left || !good, "node %d lives", peer);
    printf("%d rounds, SIGBUS in ours %ld, in cold %ld, in theirs %ld\n",
           round, sum(&ours), sum(&cold), sum(&theirs));
    check(sum(&theirs) >= PAGES, "the lost node's memory is there");
    for (int way = 0; dsm && way < WAYS; way++) {
        check(cold.nr_lost[way], "no %s found a lost page", way_name[way]);
    }
    if (!dsm) {
        check_is(sum(&ours) + sum(&cold), 0, "our memory is lost");
    }
    for (int i = 0; i < PAGES; i++) {
        uint64_t value;

        check_is(peek(theirs.at + i * PAGE / 8, &value), SIGNALLED(SIGBUS),
                 "their page %d", i);
    }
    return report();
}
