/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A node without an operating system: code that one node writes while another
 * executes it (docs/qemu.md, "Translated code").
 *
 * Nothing is between the processors and the coherence of their memory: no page
 * tables, no driver, no segments. The machine has two nodes of NODE_BYTES each;
 * both run this image, compiled with
 *
 *   RUNS    1: this node executes the function, 0: it writes it
 *   HOME    1: the function is in this node's memory, 0: in the other one's
 *   ROUNDS  how many numbers are written
 *
 * The function returns a number, which is part of one of its instructions. The
 * writer stores the instruction with the next number, then says so in another
 * page. What a call returns may not be older than what had been said before it,
 * and not newer than what follows what has been said after it.
 *
 * The last line on the serial port is "passed: ..." or "FAILED: ...".
 */
#include <stdbool.h>
#include <stdint.h>

#define PAGE 4096
#define SHARED (NODE_BYTES / 2) /* offset of what both use in its home's memory */
#define READY 0x62617265u

/* One page; the page after it is the code. */
struct control {
    uint32_t ready;   /* READY once the home is there */
    uint32_t machine; /* the runner's ELF machine, once it is there */
    uint32_t said;    /* the last number whose instruction was stored */
    uint32_t seen;    /* the last number that a call returned */
    uint32_t over;    /* what the runner found: 1 passed, 2 failed */
};

enum { X86 = 62, ARM = 183 };

#ifdef __aarch64__
#define SELF ARM
#define RAM 0x40000000u
#define WINDOW 0x20000000u /* in virt's 32-bit PCI window */

static void put_char(char c)
{
    *(volatile uint32_t *)0x09000000 = c; /* PL011's data register */
}

static void pci_write(unsigned slot, unsigned reg, uint32_t value)
{
    *(volatile uint32_t *)(0x4010000000 + (slot << 15) + reg) = value;
}

/* Before code is executed that others may have changed */
static void synchronise(void)
{
    __asm__ volatile("ic iallu\n\tdsb ish\n\tisb" : : : "memory");
}

/* After code was changed, before others are told */
static void publish(volatile uint32_t *at)
{
    __asm__ volatile("dc cvau, %0\n\tdsb ish\n\tic ivau, %0\n\tdsb ish"
                     : : "r"(at) : "memory");
}
#else
#define SELF X86
#define RAM 0u
#define WINDOW 0xd0000000u /* in q35's 32-bit PCI hole */

static void out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static void out32(uint16_t port, uint32_t value)
{
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static void put_char(char c)
{
    out8(0x3f8, c);
}

static void pci_write(unsigned slot, unsigned reg, uint32_t value)
{
    out32(0xcf8, 0x80000000u | slot << 11 | reg);
    out32(0xcfc, value);
}

static void synchronise(void)
{
    unsigned a = 0, c = 0;

    __asm__ volatile("cpuid" : "+a"(a), "+c"(c) : : "ebx", "edx", "memory");
}

static void publish(volatile uint32_t *at)
{
    (void)at;
    __asm__ volatile("" : : : "memory");
}
#endif

static void put(const char *s)
{
    while (*s) {
        put_char(*s++);
    }
}

static void put_number(uint32_t n)
{
    if (n >= 10) {
        put_number(n / 10);
    }
    put_char('0' + n % 10);
}

static uint32_t load(uint32_t *at)
{
    return __atomic_load_n(at, __ATOMIC_ACQUIRE);
}

static void store(uint32_t *at, uint32_t value)
{
    __atomic_store_n(at, value, __ATOMIC_RELEASE);
}

/* Numbers have 16 bits: one aligned store changes one instruction. */
static uint32_t instruction(uint32_t machine, uint32_t number)
{
    return machine == X86 ? (uint16_t)number          /* of mov eax, imm32 */
                          : 0x52800000u | (number & 0xffff) << 5; /* movz w0 */
}

static void store_function(uint32_t machine, volatile uint32_t *code)
{
    code[0] = machine == X86 ? 0xb8909090u /* nop; nop; nop; mov eax, ... */
                             : 0xd503201fu; /* nop */
    code[1] = instruction(machine, 0);
    code[2] = machine == X86 ? 0xc3c3c3c3u : 0xd65f03c0u; /* ret */
}

/* Returns: calls made, or 0 after a wrong one. */
static uint32_t run(struct control *ctl, uint32_t (*function)(void))
{
    uint32_t calls = 0, before, after, got, value;

    store(&ctl->machine, SELF);
    while (!load(&ctl->said)) {
    }
    do {
        before = load(&ctl->said);
        synchronise();
        got = function();
        after = load(&ctl->said);
        /* the number that ends in these 16 bits and is not too old */
        value = before + (uint16_t)(got - before);
        calls++;
        if (value > after + 1) {
            put("returned ");
            put_number(got);
            put(", said were ");
            put_number(before);
            put(" before and ");
            put_number(after);
            put(" after\n");
            store(&ctl->over, 2);
            return 0;
        }
        store(&ctl->seen, value);
    } while (before < ROUNDS);
    store(&ctl->over, 1);
    return calls;
}

/* Returns: false if the runner has failed. */
static bool write(struct control *ctl, volatile uint32_t *code)
{
    uint32_t machine, number = 0;

    while (!(machine = load(&ctl->machine))) {
    }
    store_function(machine, code);
    while (number < ROUNDS && !load(&ctl->over)) {
        code[1] = instruction(machine, ++number);
        publish(&code[1]);
        store(&ctl->said, number);
        /* now and then let it catch up, else just go on */
        while (number % 4 == 0 && load(&ctl->seen) < number &&
               !load(&ctl->over)) {
        }
    }
    while (!load(&ctl->over)) {
    }
    return load(&ctl->over) == 1;
}

void image(void);
void image(void)
{
    uintptr_t shared = (HOME ? RAM : WINDOW) + SHARED;
    struct control *ctl = (struct control *)shared;
    uint32_t (*function)(void) = (uint32_t (*)(void))(shared + PAGE);
    uint32_t calls;

    /* gcc takes a call of what it knows to be a number for unreachable */
    __asm__("" : "+r"(function));
    if (HOME) {
        store(&ctl->ready, READY);
    } else {
        pci_write(4, 0x20, WINDOW); /* BAR 4, of the windows */
        pci_write(4, 0x24, 0);
        pci_write(4, 0x04, 2); /* it decodes memory */
        /* all ones as long as the other node is not up */
        while (load(&ctl->ready) != READY) {
        }
    }
    if (RUNS) {
        calls = run(ctl, function);
        put(calls ? "passed: " : "FAILED: ");
        put_number(calls);
        put(" calls\n");
    } else {
        put(write(ctl, (volatile uint32_t *)(shared + PAGE)) ?
            "passed: " : "FAILED: ");
        put_number(ROUNDS);
        put(" numbers\n");
    }
}
