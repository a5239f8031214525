/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Code that one node writes while another executes it, in a named segment
 * (docs/qemu.md, "Translated code").
 *
 *   code run ROUNDS [create]    on one node
 *   code write ROUNDS [create]  on another, in any order; one of them creates
 *
 * The function in the segment returns a number, which is part of one of its
 * instructions. The writer stores the instruction with the next number, then
 * says so in another page. Two processes execute the function all the time,
 * with the architecture's own synchronisation before each call: what it returns
 * may not be older than what the writer had said before the call, and not newer
 * than what it stores after what it has said when the call is over.
 */
#include "harness.h"

#include <sched.h>

#define CODE_BYTES (2 * PAGE) /* the control page, the code page */

/* How long so many rounds may take, in seconds. */
static int64_t limit_s(uint64_t rounds)
{
    return 300 + (int64_t)rounds / 100;
}

/* What the runners wait for is in the first page. */
struct control {
    uint64_t machine; /* ELF machine of the runners, once they are there */
    uint64_t said;    /* the last number whose instruction was stored */
    uint64_t seen;    /* the last number that a call of the first runner gave */
    uint64_t over;    /* the runners have what they need, or have failed */
};

enum { X86_64 = 62, AARCH64 = 183 };

#if defined(__x86_64__)
#define SELF X86_64
static void synchronise(void)
{
    unsigned a = 0, c = 0;

    __asm__ volatile("cpuid" : "+a"(a), "+c"(c) : : "ebx", "edx", "memory");
}
#else
#define SELF AARCH64
static void synchronise(void)
{
    __asm__ volatile("isb" : : : "memory");
}
#endif

/* Numbers have 16 bits: one aligned store changes one instruction. */
static uint32_t instruction(uint64_t machine, uint64_t number)
{
    return machine == X86_64 ? (uint16_t)number          /* of mov eax, imm32 */
                             : 0x52800000 | (uint16_t)number << 5; /* movz w0 */
}

static volatile uint32_t *place(volatile void *code)
{
    return (volatile uint32_t *)code + 1;
}

static void store_function(uint64_t machine, volatile uint32_t *code)
{
    if (machine == X86_64) {
        code[0] = 0xb8909090; /* nop; nop; nop; mov eax, ... */
        code[2] = 0xc3c3c3c3; /* ret */
    } else {
        code[0] = 0xd503201f; /* nop */
        code[2] = 0xd65f03c0; /* ret */
    }
    *place(code) = instruction(machine, 0);
}

static uint64_t load(uint64_t *at)
{
    return __atomic_load_n(at, __ATOMIC_ACQUIRE);
}

static void store(uint64_t *at, uint64_t value)
{
    __atomic_store_n(at, value, __ATOMIC_RELEASE);
}

static void *segment(bool create, size_t offset, int prot)
{
    int64_t until = now_ns() + 20 * SECOND;
    struct pollfd none = { .fd = -1 };
    long fd;
    void *at;

    while ((fd = create ? seg_create("code", CODE_BYTES, 0600, 0)
                        : seg_open("code", O_RDWR)) < 0) {
        if (create || now_ns() > until) {
            die("segment: %s", strerror(-fd));
        }
        poll(&none, 1, 10);
    }
    at = mmap(NULL, PAGE, prot, MAP_SHARED, fd, offset);
    if (at == MAP_FAILED) {
        die("map with rights %d: %s", prot, strerror(errno));
    }
    return at;
}

/* One process that executes. Return: exit status. */
static int execute(struct control *ctl, unsigned (*function)(void),
                   uint64_t rounds, bool first)
{
    int64_t until = now_ns() + limit_s(rounds) * SECOND;
    uint64_t calls = 0, last = 0;

    for (;;) {
        uint64_t before = load(&ctl->said), after, value;
        unsigned got;

        synchronise();
        got = function();
        after = load(&ctl->said);
        /* the number that ends in these 16 bits and is not too old */
        value = before + (uint16_t)(got - before);
        if (value > after + 1) {
            printf("call %llu returned %u, said were %llu before and %llu "
                   "after\n", (unsigned long long)calls, got,
                   (unsigned long long)before, (unsigned long long)after);
            store(&ctl->over, 1);
            return 1;
        }
        calls++;
        if (first && value != last) {
            last = value;
            store(&ctl->seen, value);
        }
        if (before >= rounds || load(&ctl->over)) {
            return 0;
        }
        if (calls % 1024 == 0 && now_ns() > until) {
            printf("%llu of %llu rounds in %lld s\n",
                   (unsigned long long)before, (unsigned long long)rounds,
                   (long long)limit_s(rounds));
            store(&ctl->over, 1);
            return 1;
        }
    }
}

static void test_run(uint64_t rounds, bool create)
{
    struct control *ctl = segment(create, 0, PROT_READ | PROT_WRITE);
    void *code;
    int status;
    pid_t pid;

    /* its own descriptor: the creator's may not end before the test */
    code = segment(false, PAGE, PROT_READ | PROT_EXEC);
    store(&ctl->machine, SELF);
    while (!load(&ctl->said)) {
        sched_yield();
    }
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        status = execute(ctl, (unsigned (*)(void))code, rounds, false);
        fflush(stdout);
        _exit(status);
    }
    check(!execute(ctl, (unsigned (*)(void))code, rounds, true),
          "the first runner");
    check(waitpid(pid, &status, 0) == pid && !status, "the second runner");
    store(&ctl->over, 1);
}

static void test_write(uint64_t rounds, bool create)
{
    struct control *ctl = segment(create, 0, PROT_READ | PROT_WRITE);
    volatile uint32_t *code = segment(false, PAGE, PROT_READ | PROT_WRITE);
    int64_t until = now_ns() + limit_s(rounds) * SECOND;
    uint64_t machine, number = 0;

    while (!(machine = load(&ctl->machine)) && now_ns() < until) {
        sched_yield();
    }
    check(machine == X86_64 || machine == AARCH64, "machine %llu",
          (unsigned long long)machine);
    store_function(machine, code);
    while (number < rounds && !load(&ctl->over) && now_ns() < until) {
        *place(code) = instruction(machine, ++number);
        store(&ctl->said, number);
        /* now and then let them catch up, else just go on */
        while (number % 4 == 0 && load(&ctl->seen) < number &&
               !load(&ctl->over) && now_ns() < until) {
            sched_yield();
        }
    }
    check_is(number, rounds, "numbers written");
    while (!load(&ctl->over) && now_ns() < until) {
        sched_yield();
    }
    check(load(&ctl->over), "the runners did not end");
}

int main(int argc, char **argv)
{
    bool create = argc > 3 && !strcmp(argv[3], "create");
    uint64_t rounds = argc > 2 ? strtoull(argv[2], NULL, 0) : 0;

    setvbuf(stdout, NULL, _IOLBF, 0);
    dev = open("/dev/chimera", O_RDWR | O_CLOEXEC);
    if (dev < 0) {
        die("/dev/chimera: %s", strerror(errno));
    }
    if (rounds && !strcmp(argv[1], "run")) {
        test_run(rounds, create);
    } else if (rounds && !strcmp(argv[1], "write")) {
        test_write(rounds, create);
    } else {
        die("usage: code run|write ROUNDS [create]");
    }
    return report();
}
