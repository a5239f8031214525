/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Atomic operations on one segment from several threads on several nodes.
 *
 *   hammer NAME lead SIDES OP STRIDE MILLISECONDS   creates the segment
 *   hammer NAME follow                              joins it
 *
 * Every process is one side with one thread. OP: add | cas | xchg. STRIDE:
 * bytes between the words of two sides (0: the same word). The lead starts
 * and stops all sides through the segment and prints
 * "hammer OPERATIONS SECONDS".
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <linux/chimera.h>

#define SEGMENT_BYTES 65536
#define WORDS_OFFSET 16384
#define JOIN_TIMEOUT_S 30.0
#define BATCH 1000

struct control {
    _Atomic uint32_t sides;   /* how many take part; 0: not set up yet */
    _Atomic uint32_t joined;
    _Atomic uint32_t finished;
    _Atomic uint32_t stop;
    _Atomic uint64_t operations;
    char op;
    uint32_t stride;
};

static void die(const char *what)
{
    fprintf(stderr, "hammer: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now_s(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec + ts.tv_nsec / 1e9;
}

static int join_segment(int device, const char *name)
{
    double end = now_s() + JOIN_TIMEOUT_S;
    struct chimera_seg_open request = { .flags = O_RDWR };

    strncpy(request.name, name, sizeof(request.name) - 1);
    for (;;) {
        int fd = ioctl(device, CHIMERA_IOC_SEG_OPEN, &request);

        if (fd >= 0 || errno != ENOENT || now_s() > end) {
            return fd;
        }
    }
}

static void await(_Atomic uint32_t *word, uint32_t value, double timeout_s,
                  const char *what)
{
    double end = now_s() + timeout_s;

    while (atomic_load(word) < value) {
        if (now_s() > end) {
            errno = ETIMEDOUT;
            die(what);
        }
    }
}

static void do_batch(struct control *control, _Atomic uint64_t *word)
{
    for (uint64_t i = 0; i < BATCH; i++) {
        uint64_t seen;

        switch (control->op) {
        case 'a':
            atomic_fetch_add(word, 1);
            break;
        case 'c':
            seen = atomic_load_explicit(word, memory_order_relaxed);
            while (!atomic_compare_exchange_weak(word, &seen, seen + 1)) {
            }
            break;
        default:
            atomic_exchange(word, i);
            break;
        }
    }
}

int main(int argc, char **argv)
{
    int lead = argc == 7 && !strcmp(argv[2], "lead");
    int device = open("/dev/chimera", O_RDWR | O_CLOEXEC);
    struct control *control;
    _Atomic uint64_t *word;
    uint64_t mine = 0;
    uint32_t side;
    double start, end, seconds;
    int fd;

    if (!lead && !(argc == 3 && !strcmp(argv[2], "follow"))) {
        fprintf(stderr, "usage: hammer NAME lead SIDES add|cas|xchg STRIDE "
                        "MS | hammer NAME follow\n");
        return 2;
    }
    if (device < 0) {
        die("/dev/chimera");
    }
    if (lead) {
        struct chimera_seg_create request = {
            .size = SEGMENT_BYTES, .mode = 0600
        };

        strncpy(request.name, argv[1], sizeof(request.name) - 1);
        fd = ioctl(device, CHIMERA_IOC_SEG_CREATE, &request);
    } else {
        fd = join_segment(device, argv[1]);
    }
    if (fd < 0) {
        die(argv[1]);
    }
    control = mmap(NULL, SEGMENT_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED,
                   fd, 0);
    if (control == MAP_FAILED) {
        die("mmap");
    }
    if (lead) {
        control->op = argv[4][0];
        control->stride = atoi(argv[5]);
        atomic_store(&control->sides, atoi(argv[3]));
    }
    await(&control->sides, 1, JOIN_TIMEOUT_S, "set-up");
    side = atomic_fetch_add(&control->joined, 1);
    await(&control->joined, atomic_load(&control->sides), JOIN_TIMEOUT_S,
          "waiting for all sides");
    word = (void *)((char *)control + WORDS_OFFSET +
                    (size_t)side * control->stride);
    start = now_s();
    end = start + (lead ? atoi(argv[6]) / 1e3 : JOIN_TIMEOUT_S);
    while (!atomic_load_explicit(&control->stop, memory_order_relaxed) &&
           now_s() < end) {
        do_batch(control, word);
        mine += BATCH;
    }
    seconds = now_s() - start;
    atomic_store(&control->stop, 1);
    atomic_fetch_add(&control->operations, mine);
    atomic_fetch_add(&control->finished, 1);
    if (lead) {
        await(&control->finished, atomic_load(&control->sides), 10,
              "waiting for the others' counts");
        printf("hammer %llu %.6f\n",
               (unsigned long long)atomic_load(&control->operations), seconds);
    }
    return 0;
}
