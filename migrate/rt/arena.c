/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The memory of a program in pipe mode: one memfd that both processes map at
 * ARENA_BASE, sparse, handed out in pages by home.
 *
 * Anonymous mappings of the program are ranges of it, so that either side sees
 * them at once.  A private file mapping is a copy; a shared writable one is
 * refused.  Freed pages go back to the kernel and read as zero when used again.
 */

#include "thread.h"

#define PAGE 4096ul
#define NR_PAGES (ARENA_BYTES / PAGE)
#define WORD_BITS 64

#define NR_MMAP         9
#define NR_MUNMAP       11
#define NR_BRK          12
#define NR_PREAD64      17
#define NR_SCHED_YIELD  24
#define NR_MREMAP       25
#define NR_MADVISE      28
#define NR_FORK         57
#define NR_VFORK        58
#define NR_CLONE        56
#define NR_FUTEX        202

#define PROT_WRITE      2
#define MAP_SHARED      1
#define MAP_FIXED       0x10
#define MAP_ANONYMOUS   0x20
#define MADV_DONTNEED   4
#define MADV_FREE       8
#define MADV_REMOVE     9
#define MREMAP_MAYMOVE  1
#define FUTEX_PRIVATE   128
#define CLONE_VM        0x100

#define ENOMEM 12
#define EINVAL 22
#define ENODEV 19
#define ENOSYS 38

static uint64_t used[NR_PAGES / WORD_BITS];
static uint64_t hint;
static int lock_word;

static void lock(void)
{
    while (__atomic_exchange_n(&lock_word, 1, __ATOMIC_ACQUIRE)) {
        chimera_native_syscall(NR_SCHED_YIELD, 0, 0, 0, 0, 0, 0);
    }
}

static void unlock(void)
{
    __atomic_store_n(&lock_word, 0, __ATOMIC_RELEASE);
}

static bool is_used(uint64_t page)
{
    return used[page / WORD_BITS] >> page % WORD_BITS & 1;
}

static void mark(uint64_t page, uint64_t n, bool on)
{
    for (; n; page++, n--) {
        if (n >= WORD_BITS && page % WORD_BITS == 0) {
            used[page / WORD_BITS] = on ? ~0ull : 0;
            page += WORD_BITS - 1;
            n -= WORD_BITS - 1;
        } else if (on) {
            used[page / WORD_BITS] |= 1ull << page % WORD_BITS;
        } else {
            used[page / WORD_BITS] &= ~(1ull << page % WORD_BITS);
        }
    }
}

/* First fit from @from; the lock is held.  NR_PAGES: none. */
static uint64_t find(uint64_t from, uint64_t n)
{
    uint64_t run = 0;

    for (uint64_t p = from; p < NR_PAGES; p++) {
        if (p % WORD_BITS == 0 && used[p / WORD_BITS] == ~0ull) {
            p += WORD_BITS - 1;
            run = 0;
        } else if (p % WORD_BITS == 0 && !used[p / WORD_BITS] &&
                   run + WORD_BITS < n) {
            p += WORD_BITS - 1;
            run += WORD_BITS;
        } else if (is_used(p)) {
            run = 0;
        } else if (++run == n) {
            return p + 1 - n;
        }
    }
    return NR_PAGES;
}

void *chimera_arena_alloc(uint64_t len)
{
    uint64_t n = (len + PAGE - 1) / PAGE, p;

    if (n == 0 || n > NR_PAGES) {
        return NULL;
    }
    lock();
    p = find(hint, n);
    if (p == NR_PAGES) {
        p = find(0, n);
    }
    if (p == NR_PAGES) {
        unlock();
        return NULL;
    }
    mark(p, n, true);
    hint = p + n;
    unlock();
    return (void *)(ARENA_BASE + p * PAGE);
}

static bool in_arena(uint64_t addr, uint64_t len)
{
    return addr >= ARENA_BASE && addr - ARENA_BASE < ARENA_BYTES &&
           len <= ARENA_BYTES - (addr - ARENA_BASE);
}

static void release(uint64_t addr, uint64_t len)
{
    len = (len + PAGE - 1) & ~(PAGE - 1);
    chimera_native_syscall(NR_MADVISE, addr, len, MADV_REMOVE, 0, 0, 0);
    lock();
    mark((addr - ARENA_BASE) / PAGE, len / PAGE, false);
    unlock();
}

static long map(const long a[6])
{
    uint64_t len = a[1];
    unsigned char *p;

    if (len == 0) {
        return -EINVAL;
    }
    if (a[3] & MAP_FIXED) {
        if (!in_arena(a[0], len) || !(a[3] & MAP_ANONYMOUS)) {
            return -EINVAL;
        }
        chimera_native_syscall(NR_MADVISE, a[0], len, MADV_REMOVE, 0, 0, 0);
        return a[0];
    }
    if (!(a[3] & MAP_ANONYMOUS) && (a[3] & MAP_SHARED) && (a[2] & PROT_WRITE)) {
        return -ENODEV;
    }
    p = chimera_arena_alloc(len);
    if (!p) {
        return -ENOMEM;
    }
    if (!(a[3] & MAP_ANONYMOUS)) {
        for (uint64_t at = 0; at < len;) {
            long n = chimera_native_syscall(NR_PREAD64, a[4], (long)(p + at),
                                            len - at, a[5] + at, 0, 0);

            if (n < 0) {
                release((uint64_t)p, len);
                return n;
            }
            if (n == 0) {
                break;
            }
            at += n;
        }
    }
    return (long)p;
}

static long remap(const long a[6])
{
    uint64_t addr = a[0], old_len = a[1], len = a[2];
    unsigned char *p;

    if (!in_arena(addr, old_len) || (a[3] & ~MREMAP_MAYMOVE)) {
        return -EINVAL;
    }
    old_len = (old_len + PAGE - 1) & ~(PAGE - 1);
    len = (len + PAGE - 1) & ~(PAGE - 1);
    if (len <= old_len) {
        if (len < old_len) {
            release(addr + len, old_len - len);
        }
        return addr;
    }
    if (!(a[3] & MREMAP_MAYMOVE)) {
        return -ENOMEM;
    }
    p = chimera_arena_alloc(len);
    if (!p) {
        return -ENOMEM;
    }
    __builtin_memcpy(p, (void *)addr, old_len);
    release(addr, old_len);
    return (long)p;
}

/* Calls of the program that concern memory.  False: not one of ours. */
bool chimera_arena_syscall(long n, const long a[6], long *ret)
{
    switch (n) {
    case NR_BRK:
        *ret = 0;
        return true;
    case NR_MMAP:
        *ret = map(a);
        return true;
    case NR_MUNMAP:
        *ret = in_arena(a[0], a[1]) ? (release(a[0], a[1]), 0) : -EINVAL;
        return true;
    case NR_MREMAP:
        *ret = remap(a);
        return true;
    case NR_MADVISE:
        if (a[2] == MADV_FREE) {
            *ret = 0;
            return true;
        }
        if (a[2] == MADV_DONTNEED) {
            *ret = chimera_native_syscall(n, a[0], a[1], MADV_REMOVE, 0, 0, 0);
            return true;
        }
        return false;
    case NR_FUTEX:
        /* Both processes wait on the same words. */
        *ret = chimera_native_syscall(n, a[0], a[1] & ~FUTEX_PRIVATE, a[2],
                                      a[3], a[4], a[5]);
        return true;
    case NR_FORK:
    case NR_VFORK:
        /* The child would share all memory with its parent. */
        *ret = -ENOSYS;
        return true;
    case NR_CLONE:
        if (a[0] & CLONE_VM) {
            return false;
        }
        *ret = -ENOSYS;
        return true;
    }
    return false;
}
