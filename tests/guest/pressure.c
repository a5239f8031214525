/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Memory pressure at a segment's home: what other nodes use stays where it is,
 * what they do not use may be swapped and comes back. The leader is the home;
 * give it swap (zram) to make it worth while.
 */
#include "harness.h"

#define RW (PROT_READ | PROT_WRITE)

int main(int argc, char **argv)
{
    const size_t size = 48 << 20, half = size / 2;
    struct sysinfo si;
    uint64_t *at;
    int64_t rat;
    long fd, rfd;

    if (argc == 2 && !strcmp(argv[1], "follow")) {
        return follow();
    }
    if (argc != 3 || strcmp(argv[1], "lead")) {
        return usage(argv[0]);
    }
    lead(argv[2]);

    fd = seg_create("pressed", size, 0600, 0);
    at = mmap(NULL, size, RW, MAP_SHARED, fd, 0);
    fill(at, size, 1);
    rfd = there_named("pressed", DO_OPEN, .a = O_RDWR);
    rat = there(DO_MAP, .a = rfd, .b = size, .c = RW);
    check(rat > 0, "map there: %ld", (long)rat);
    /* only half of it is used there */
    check_is(there(DO_VERIFY, .a = rat, .b = half, .c = 1), 0, "before");

    for (int round = 0; round < 3; round++) {
        check_is(squeeze(), 0, "pressure");
        /* there first: what it reads must not be what was swapped out */
        check_is(there(DO_VERIFY, .a = rat, .b = half, .c = 1 + round), 0,
                 "used half there, round %d", round);
        check_is(there(DO_FILL, .a = rat, .b = half, .c = 2 + round), 0,
                 "fill there");
        order_send((struct order_msg){ .op = DO_VERIFY,
                                       .a = rat + (int64_t)half,
                                       .b = half / 8 * (round + 1) });
        order_result(); /* touches pages that were swapped out */
        check_is(squeeze(), 0, "pressure");
        check_is(verify(at, half, 2 + round), 0, "used half, round %d", round);
    }
    for (size_t i = half / 8; i < size / 8; i++) {
        if (at[i] != pattern(1, i)) {
            check(false, "other half differs at %zu", i);
            break;
        }
    }
    sysinfo(&si);
    if (si.totalswap) {
        check(si.freeswap < si.totalswap, "nothing was swapped");
    } else {
        printf("no swap: only half of the test\n");
    }
    close(fd);
    munmap(at, size);
    there(DO_UNMAP, .a = rat, .b = size);
    there(DO_CLOSE, .a = rfd);
    dismiss();
    return report();
}
