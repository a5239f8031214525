/* SPDX-License-Identifier: GPL-2.0-or-later */
/* rt/foreign.c: what home makes of a peer's system call.  Runs on the host. */
#include "thread.h"

#include <stdio.h>
#include <string.h>

#define EM_X86_64   62
#define EM_AARCH64  183

static long made[7];
static unsigned calls;
static long result;

long __chimera_syscall(long n, long a, long b, long c, long d, long e, long f)
{
    const long args[7] = { n, a, b, c, d, e, f };

    memcpy(made, args, sizeof(made));
    calls++;
    return result;
}

static const struct {
    const char *what;
    unsigned machine;
    uint64_t asked[7];
    long answer;                /* of home's kernel */
    long expect;                /* what the peer gets */
    long made[7];               /* [0] -1: nothing is called */
} rows[] = {
    { "write", EM_AARCH64, { 64, 1, 2, 3, 4, 5, 6 }, 3, 3,
      { 1, 1, 2, 3, 4, 5, 6 } },
    { "getppid", EM_AARCH64, { 173 }, 7, 7, { 110 } },
    { "futex", EM_AARCH64, { 98, 8, 1, 9 }, -11, -11, { 202, 8, 1, 9 } },
    { "write of x86_64", EM_X86_64, { 1, 1, 2, 3 }, 3, 3, { 1, 1, 2, 3 } },
    /* O_DIRECTORY, O_NOFOLLOW, O_DIRECT, O_LARGEFILE move, O_CLOEXEC stays */
    { "openat directory", EM_AARCH64, { 56, 5, 6, 02040000, 7 }, 4, 4,
      { 257, 5, 6, 02200000, 7 } },
    { "openat nofollow", EM_AARCH64, { 56, 5, 6, 0100000 }, 4, 4,
      { 257, 5, 6, 0400000 } },
    { "openat direct", EM_AARCH64, { 56, 5, 6, 0200000 }, 4, 4,
      { 257, 5, 6, 040000 } },
    { "openat large", EM_AARCH64, { 56, 5, 6, 0400000 }, 4, 4,
      { 257, 5, 6, 0100000 } },
    { "F_SETFL", EM_AARCH64, { 25, 3, 4, 0200000 | 04000 }, 0, 0,
      { 72, 3, 4, 040000 | 04000 } },
    { "F_GETFL", EM_AARCH64, { 25, 3, 3 }, 0100000 | 2, 0400000 | 2,
      { 72, 3, 3 } },
    { "F_GETFL fails", EM_AARCH64, { 25, 3, 3 }, -9, -9, { 72, 3, 3 } },
    { "F_GETFL of x86_64", EM_X86_64, { 72, 3, 3 }, 0100000, 0100000,
      { 72, 3, 3 } },
    { "clone", EM_AARCH64, { 220, 0x11 }, 1, -38, { -1 } },
    { "clone of x86_64", EM_X86_64, { 56, 0x11 }, 1, -38, { -1 } },
    { "open, which aarch64 lacks", EM_X86_64, { 2, 1, 0 }, 1, -38, { -1 } },
    { "fstat, whose structure differs", EM_AARCH64, { 80, 1, 2 }, 0, -38,
      { -1 } },
    { "rt_sigreturn", EM_AARCH64, { 139 }, 0, -38, { -1 } },
    { "a number that is none", EM_AARCH64, { 100000 }, 0, -38, { -1 } },
    { "a negative number", EM_X86_64, { -1 }, 0, -38, { -1 } },
    { "another machine", 243, { 64, 1, 2, 3 }, 0, -38, { -1 } },
};

int main(void)
{
    unsigned passed = 0, failed = 0;

    for (unsigned i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        bool called = rows[i].made[0] != -1, ok;
        long r;

        calls = 0;
        result = rows[i].answer;
        r = chimera_foreign_syscall(rows[i].machine, rows[i].asked);
        ok = r == rows[i].expect && calls == called &&
             (!called || !memcmp(made, rows[i].made, sizeof(made)));
        if (!ok) {
            printf("%s: %ld, %u calls, number %ld, arguments %#lx %#lx %#lx\n",
                   rows[i].what, r, calls, made[0], made[1], made[2], made[3]);
        }
        *(ok ? &passed : &failed) += 1;
    }
    printf("%u passed, %u failed\n", passed, failed);
    return failed || !passed;
}
