/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * System calls of a peer's own kind, made at home.
 *
 * The library's calls have x86_64's numbers on every node (syscall.c).  This is
 * for an instruction elsewhere: its kernel reports the number and the arguments
 * that are right for its own ISA.  Structures are those of the compiled program,
 * so x86_64's; calls that both kernels have are known, all others fail.
 */

#include "thread.h"

#define EM_X86_64       62
#define EM_AARCH64      183

#define NR_FSTAT        5
#define NR_RT_SIGRETURN 15
#define NR_CLONE        56
#define NR_FCNTL        72
#define NR_NEWFSTATAT   262
#define NR_CLONE3       435
#define NR_OPENAT       257
#define F_GETFL         3
#define F_SETFL         4
#define ENOSYS          38

/* [x86_64 number] = aarch64 number + 1 */
static const short numbers[] = {
#include "syscall-map.h"
};
#define NR_NUMBERS (long)(sizeof(numbers) / sizeof(*numbers))

/* O_DIRECTORY, O_NOFOLLOW, O_DIRECT, O_LARGEFILE, per ISA */
static const unsigned open_flags[][2] = {
    { 0200000, 040000 }, { 0400000, 0100000 },
    { 040000, 0200000 }, { 0100000, 0400000 },
};

long chimera_open_flags(long flags, int from, int to)
{
    long out = flags & ~0740000l;

    for (unsigned i = 0; i < 4; i++) {
        if (flags & open_flags[i][from]) {
            out |= open_flags[i][to];
        }
    }
    return out;
}

static long from_aarch64(long nr)
{
    for (long n = 0; n < NR_NUMBERS; n++) {
        if (numbers[n] && numbers[n] - 1 == nr) {
            return n;
        }
    }
    return -1;
}

long chimera_foreign_syscall(unsigned machine, const uint64_t w[7])
{
    long n = w[0], a[6], r;

    for (int i = 0; i < 6; i++) {
        a[i] = w[i + 1];
    }
    if (machine == EM_AARCH64) {
        n = from_aarch64(n);
        if (n == NR_OPENAT || (n == NR_FCNTL && a[1] == F_SETFL)) {
            a[2] = chimera_open_flags(a[2], CHIMERA_ISA_AARCH64,
                                      CHIMERA_ISA_X86_64);
        }
    } else if (machine != EM_X86_64) {
        n = -1;
    }
    if (n < 0 || n >= NR_NUMBERS || !numbers[n]) {
        return -ENOSYS;
    }
    switch (n) {
    case NR_CLONE:      /* nothing can begin behind a foreign instruction */
    case NR_CLONE3:
    case NR_RT_SIGRETURN:
        return -ENOSYS;
    case NR_FSTAT:      /* struct stat is aarch64's own */
    case NR_NEWFSTATAT:
        if (machine == EM_AARCH64) {
            return -ENOSYS;
        }
    }
    r = __chimera_syscall(n, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (machine == EM_AARCH64 && n == NR_FCNTL && a[1] == F_GETFL && r >= 0) {
        r = chimera_open_flags(r, CHIMERA_ISA_X86_64, CHIMERA_ISA_AARCH64);
    }
    return r;
}
