/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Kernels that a node is timed with. Does a round of each kernel whose name it
 * reads, a name a line, and prints
 *   compute NAME SECONDS CHECKSUM
 * The same source runs in a node and in a stock machine; the checksum tells
 * that they did the same work. Arrays are filled before the first round, and
 * before the clock starts, as STREAM and CoreMark do; what that costs is a
 * kernel of its own.
 *
 *   touch    the first writes to fresh memory, a page at a time
 *   integer  list walking, matrix product, a state machine, CRC: branches and
 *            arithmetic in the first-level cache
 *   triad    a[i] = b[i] + 3 * c[i] over arrays larger than any cache
 *   chase    dependent loads over a random cycle larger than any cache
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LIST_NODES 256
#define MATRIX 24
#define TEXT_BYTES 2048
#define TOUCH_BYTES (96u << 20)
#define PAGE_BYTES 4096
#define TRIAD_ELEMENTS (4u << 20)
#define TRIAD_SKEW (33 * PAGE_BYTES / sizeof(uint64_t))
#define CHASE_ENTRIES (8u << 20)
/* What is done in a round. */
#define INTEGER_REPEATS 4000
#define TRIAD_REPEATS 24
#define CHASE_STEPS 100003
#define CHASE_REPEATS 20
#define SETTLE_FLUSHES 6
#define SETTLE_S 0.15

static double now_s(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec + ts.tv_nsec / 1e9;
}

static uint32_t xorshift32(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

static void *allocate(size_t bytes)
{
    void *memory = malloc(bytes);

    if (!memory) {
        perror("compute: malloc");
        exit(1);
    }
    return memory;
}

static uint16_t crc16(const void *data, size_t len, uint16_t crc)
{
    const uint8_t *bytes = data;

    for (size_t i = 0; i < len; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = crc & 1 ? (crc >> 1) ^ 0xa001 : crc >> 1;
        }
    }
    return crc;
}

struct list {
    struct list *next;
    uint32_t value;
};

static uint32_t walk_list(struct list *nodes, uint32_t round)
{
    struct list *head = NULL;
    uint32_t sum = 0;

    for (int i = 0; i < LIST_NODES; i++) {
        struct list *node = &nodes[(i * 37 + round) % LIST_NODES];
        struct list **where = &head;

        node->value = node->value * 1103515245 + 12345;
        for (int depth = 0; *where && depth < 12 &&
             (*where)->value < node->value; depth++) {
            where = &(*where)->next;
        }
        node->next = *where;
        *where = node;
    }
    for (struct list *node = head; node; node = node->next) {
        sum = sum * 31 + node->value;
    }
    return sum;
}

static uint32_t multiply(int32_t a[MATRIX][MATRIX], int32_t b[MATRIX][MATRIX])
{
    uint32_t sum = 0;

    for (int i = 0; i < MATRIX; i++) {
        for (int j = 0; j < MATRIX; j++) {
            int32_t dot = 0;

            for (int k = 0; k < MATRIX; k++) {
                dot += a[i][k] * b[k][j];
            }
            sum += dot ^ (sum >> 3);
        }
    }
    return sum;
}

static uint32_t scan_numbers(const char *text, size_t len)
{
    enum { BETWEEN, SIGN, INTEGER, FRACTION } state = BETWEEN;
    uint32_t count[4] = { 0 };

    for (size_t i = 0; i < len; i++) {
        char c = text[i];

        count[state]++;
        switch (state) {
        case BETWEEN:
            state = c == '-' || c == '+' ? SIGN
                    : c >= '0' && c <= '9' ? INTEGER : BETWEEN;
            break;
        case SIGN:
            state = c >= '0' && c <= '9' ? INTEGER : BETWEEN;
            break;
        case INTEGER:
            state = c == '.' ? FRACTION
                    : c >= '0' && c <= '9' ? INTEGER : BETWEEN;
            break;
        case FRACTION:
            state = c >= '0' && c <= '9' ? FRACTION : BETWEEN;
            break;
        }
    }
    return count[0] + 3 * count[1] + 7 * count[2] + 11 * count[3];
}

/* Each kernel: one round; the seconds it took; a checksum. */
static uint32_t touch_kernel(double *ret_seconds)
{
    char *memory = mmap(NULL, TOUCH_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint32_t sum;
    double start;

    if (memory == MAP_FAILED) {
        perror("compute: mmap");
        exit(1);
    }
    madvise(memory, TOUCH_BYTES, MADV_NOHUGEPAGE);
    start = now_s();
    for (size_t i = 0; i < TOUCH_BYTES; i += PAGE_BYTES) {
        memory[i] = i / PAGE_BYTES;
    }
    *ret_seconds = now_s() - start;
    sum = memory[TOUCH_BYTES / 2 + PAGE_BYTES];
    munmap(memory, TOUCH_BYTES);
    return sum;
}

static uint32_t integer_kernel(double *ret_seconds)
{
    static struct list nodes[LIST_NODES];
    static int32_t a[MATRIX][MATRIX], b[MATRIX][MATRIX];
    static char text[TEXT_BYTES];
    static const char alphabet[] = "0123456789+-. ,x";
    uint32_t seed = 1, result = 0;
    double start;

    for (int i = 0; i < LIST_NODES; i++) {
        nodes[i].value = xorshift32(&seed);
    }
    for (int i = 0; i < MATRIX * MATRIX; i++) {
        a[i / MATRIX][i % MATRIX] = xorshift32(&seed) % 1000;
        b[i / MATRIX][i % MATRIX] = xorshift32(&seed) % 1000;
    }
    for (int i = 0; i < TEXT_BYTES; i++) {
        text[i] = alphabet[xorshift32(&seed) % 16];
    }
    start = now_s();
    for (uint32_t i = 0; i < INTEGER_REPEATS; i++) {
        uint32_t part = walk_list(nodes, i) + multiply(a, b) +
                        scan_numbers(text, sizeof(text));

        a[i % MATRIX][(i / MATRIX) % MATRIX] = part % 1000;
        text[i % TEXT_BYTES] = alphabet[part % 16];
        result = crc16(&part, sizeof(part), result) +
                 crc16(text, 256, result);
    }
    *ret_seconds = now_s() - start;
    return result;
}

static uint32_t triad_kernel(double *ret_seconds)
{
    static uint64_t *a, *b, *c;
    static uint32_t round;
    uint64_t sum = 0;
    double start;

    if (!a) {
        /* So apart that no two are at the same place of a TLB of any size. */
        a = allocate(3 * (TRIAD_ELEMENTS + TRIAD_SKEW) * sizeof(*a));
        b = a + TRIAD_ELEMENTS + TRIAD_SKEW;
        c = b + TRIAD_ELEMENTS + TRIAD_SKEW;
        for (uint32_t i = 0; i < TRIAD_ELEMENTS; i++) {
            a[i] = 0;
            b[i] = i;
            c[i] = i * 3;
        }
    }
    b[round] = round + 7;
    round++;
    start = now_s();
    for (int repeat = 0; repeat < TRIAD_REPEATS; repeat++) {
        for (uint32_t i = 0; i < TRIAD_ELEMENTS; i++) {
            a[i] = b[i] + 3 * c[i];
        }
    }
    *ret_seconds = now_s() - start;
    for (uint32_t i = 0; i < TRIAD_ELEMENTS; i++) {
        sum += a[i];
    }
    return sum;
}

static struct {
    uint32_t *next;
    uint32_t at;
} chase;

static void chase_work(void)
{
    uint32_t at = chase.at;

    for (int step = 0; step < CHASE_STEPS; step++) {
        at = chase.next[at];
    }
    chase.at = at;
}

/*
 * QEMU gives its TLB another size when the guest flushes it, by how much of it
 * was used in the last tenth of a second: flush it while the cycle is walked, until
 * it has the size for that. Without, a round takes one to four times as long,
 * as it happens.
 */
static void chase_settle(void)
{
    for (int i = 0; i < SETTLE_FLUSHES; i++) {
        double start = now_s();
        pid_t pid;

        do {
            chase_work();
        } while (now_s() - start < SETTLE_S);
        /* Another address space and back. */
        pid = fork();
        if (pid == 0) {
            _exit(0);
        }
        if (pid < 0 || waitpid(pid, NULL, 0) != pid) {
            perror("compute: fork");
            exit(1);
        }
    }
}

static uint32_t chase_kernel(double *ret_seconds)
{
    uint32_t *next = chase.next;
    double start;

    if (!next) {
        uint32_t seed = 7;

        chase.next = next = allocate(CHASE_ENTRIES * sizeof(*next));
        for (uint32_t i = 0; i < CHASE_ENTRIES; i++) {
            next[i] = i;
        }
        /* Sattolo: one cycle through all entries */
        for (uint32_t i = CHASE_ENTRIES - 1; i > 0; i--) {
            uint32_t j = xorshift32(&seed) % i, swap = next[i];

            next[i] = next[j];
            next[j] = swap;
        }
    }
    chase_settle();
    chase.at = 0;
    start = now_s();
    for (int repeat = 0; repeat < CHASE_REPEATS; repeat++) {
        chase_work();
    }
    *ret_seconds = now_s() - start;
    return chase.at;
}

int main(void)
{
    static const struct {
        const char *name;
        uint32_t (*run)(double *ret_seconds);
    } kernels[] = {
        { "touch", touch_kernel },
        { "integer", integer_kernel },
        { "triad", triad_kernel },
        { "chase", chase_kernel },
    };
    char line[32];

    puts("compute ready");
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin)) {
        size_t i = 0;

        line[strcspn(line, "\r\n")] = '\0';
        while (i < sizeof(kernels) / sizeof(kernels[0]) &&
               strcmp(line, kernels[i].name)) {
            i++;
        }
        if (i == sizeof(kernels) / sizeof(kernels[0])) {
            fprintf(stderr, "compute: no kernel '%s'\n", line);
            return 2;
        }

        double seconds;
        uint32_t checksum = kernels[i].run(&seconds);

        printf("compute %s %.6f %08x\n", kernels[i].name, seconds, checksum);
        fflush(stdout);
    }
    return 0;
}
