/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Named segments between two nodes: names, memory, rights, lifetime.
 *
 *   segments follow | lead NODE [MIB]
 *
 * MIB: size of the segment whose memory must come back (64); on a slow wire
 * every page of it takes its time.
 */
#include "harness.h"

#define R (PROT_READ)
#define RW (PROT_READ | PROT_WRITE)

static void *map(long fd, size_t len, int prot, off_t offset)
{
    void *p = fd < 0 ? MAP_FAILED
                     : mmap(NULL, len, prot, MAP_SHARED, fd, offset);

    if (p == MAP_FAILED) {
        die("cannot map descriptor %ld: %s", fd, strerror(errno));
    }
    return p;
}

static bool shown(const char *name)
{
    return slurp(SYSFS "/segments/%s/size", name)[0];
}

static bool shown_there(const char *name)
{
    struct order_msg m = { .op = DO_SYSFS };

    snprintf(m.name, sizeof(m.name), "segments/%s/size", name);
    return order(m).text[0];
}

/* What the kernel does behind our back must become true within seconds. */
static bool eventually(bool (*cond)(const char *), const char *name, bool want)
{
    int64_t until = now_ns() + 5 * SECOND;
    struct pollfd none = { .fd = -1 };

    while (cond(name) != want) {
        if (now_ns() > until) {
            return false;
        }
        poll(&none, 1, 10);
    }
    return true;
}

/* What is not allowed, at home and elsewhere. */
static void refusals(const char *name, long fd, uint64_t *at, size_t size)
{
    char link[64];
    uint64_t value, *part;
    long ro;

    if (!strcmp(slurp(SYSFS "/executable_segments"), "0")) {
        check(mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0) ==
                      MAP_FAILED &&
                  errno == EACCES,
              "executable mapping");
        check_is(sys(mprotect(at, PAGE, PROT_READ | PROT_EXEC)), -EACCES,
                 "mprotect to executable");
    }
    check(mmap(NULL, PAGE, R, MAP_PRIVATE, fd, 0) == MAP_FAILED &&
              errno == EINVAL,
          "private mapping");
    check(mremap(at, size, 2 * size, MREMAP_MAYMOVE) == MAP_FAILED,
          "mremap grew it");
    check_is(sys(ftruncate(fd, PAGE)), -EPERM, "truncate");
    check(read(fd, &value, 8) < 0, "read() works");
    check(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE),
          "fallocate() works");
    check(madvise(at, PAGE, MADV_REMOVE), "MADV_REMOVE works");
    snprintf(link, sizeof(link), "/proc/self/fd/%ld", fd);
    check_is(sys(open(link, O_RDWR)), -ENXIO, "reopen");

    ro = seg_open(name, O_RDONLY);
    check(ro >= 0, "open read only: %ld", ro);
    check(mmap(NULL, PAGE, RW, MAP_SHARED, ro, 0) == MAP_FAILED &&
              errno == EACCES,
          "writable mapping of a read only descriptor");
    part = map(ro, PAGE, R, 0);
    check_is(part[1], at[1], "read only mapping");
    check_is(sys(mprotect(part, PAGE, RW)), -EACCES, "mprotect to writable");
    check_is(poke(part, 1), SIGNALLED(SIGSEGV), "write to read only");
    munmap(part, PAGE);
    close(ro);
}

/* Made here, used there. */
static void test_home_here(void)
{
    const size_t size = 40 * PAGE;
    struct chimera_seg_stat st;
    long fd = seg_create("alpha", size - 100, 0640, 0), rfd;
    uint64_t *at, value;
    int64_t rat;

    check(fd >= 0, "create: %ld", fd);
    check_is(seg_stat(fd, &st), 0, "stat");
    check(!strcmp(st.name, "alpha") && st.size == size && st.mode == 0640 &&
              st.home == self_node() && st.resident == 0,
          "stat is %s %llu %o %u %llu", st.name, (unsigned long long)st.size,
          st.mode, st.home, (unsigned long long)st.resident);
    check(shown("alpha") && shown_there("alpha"), "not in sysfs");
    check_is(atoi(slurp(SYSFS "/segments/alpha/home")), self_node(), "home");
    check_is(seg_create("alpha", PAGE, 0600, 0), -EEXIST, "second create");
    check_is(there_named("alpha", DO_CREATE, .a = PAGE, .b = 0600), -EEXIST,
             "create there");

    rfd = there_named("alpha", DO_OPEN, .a = O_RDWR);
    check(rfd >= 0, "open there: %ld", rfd);
    at = map(fd, size, RW, 0);
    rat = there(DO_MAP, .a = rfd, .b = size, .c = RW);
    check(rat > 0, "map there: %ld", (long)rat);

    check_is(there(DO_PEEK, .a = rat + 7 * PAGE), 0, "first touch there");
    check_is(peek(&at[7 * PAGE / 8], &value), 0, "peek");
    check_is(value, 0, "fresh memory");
    check_is(seg_stat(fd, &st), 0, "stat");
    check(st.resident >= PAGE && st.resident < size,
          "resident %llu: not allocated at first touch",
          (unsigned long long)st.resident);

    fill(at, size, 1);
    check_is(there(DO_VERIFY, .a = rat, .b = size, .c = 1), 0,
             "words that differ there");
    check_is(there(DO_FILL, .a = rat, .b = size, .c = 2), 0, "fill there");
    check_is(verify(at, size, 2), 0, "words that differ here");

    /* both at once on one word */
    at[0] = 0;
    order_send((struct order_msg){ .op = DO_ADD, .a = rat, .b = 200000 });
    for (int i = 0; i < 200000; i++) {
        __atomic_fetch_add(&at[0], 1, __ATOMIC_SEQ_CST);
    }
    order_result();
    check_is(at[0], 400000, "increments");

    refusals("alpha", fd, at, size);
    check_is(there(DO_UNMAP, .a = rat, .b = size), 0, "unmap there");
    check_is(there(DO_CLOSE, .a = rfd), 0, "close there");
    munmap(at, size);
    close(fd);
    check(eventually(shown_there, "alpha", false), "name stays after close");
    check(!shown("alpha"), "name stays here after close");
    check_is(seg_open("alpha", O_RDWR), -ENOENT, "open after close");
}

/* Made there, used here; every way of mapping. */
static void test_home_there(void)
{
    const size_t size = 300 * PAGE;
    long rfd = there_named("beta", DO_CREATE, .a = size, .b = 0644), fd;
    int64_t rat = there(DO_MAP, .a = rfd, .b = size, .c = RW);
    struct chimera_seg_stat st;
    uint64_t *at, value, *part;
    int status;
    pid_t pid;
    void *moved;

    fd = seg_open("beta", O_RDWR);
    check(fd >= 0, "open: %ld", fd);
    check_is(seg_stat(fd, &st), 0, "stat");
    check(st.size == size && (int)st.home == peer && st.resident == 0,
          "stat %llu %u", (unsigned long long)st.size, st.home);

    check_is(there(DO_FILL, .a = rat, .b = size, .c = 3), 0, "fill");
    at = map(fd, size, RW, 0);
    check_is(verify(at, size, 3), 0, "words that differ");
    fill(at, size, 4);
    check_is(there(DO_VERIFY, .a = rat, .b = size, .c = 4), 0,
             "words that differ there");

    /* an offset, and one beyond the end */
    part = map(fd, 4 * PAGE, RW, 298 * PAGE);
    check_is(verify(part, 1, 0), 0, "part");
    check_is(part[0], at[298 * PAGE / 8], "offset");
    check_is(peek(&part[2 * PAGE / 8], &value), SIGNALLED(SIGBUS),
             "touch behind the end");
    munmap(part, 4 * PAGE);

    refusals("beta", fd, at, size);

    /* mprotect back and forth keeps the data */
    check_is(sys(mprotect(at, size, R)), 0, "mprotect");
    check_is(poke(at, 1), SIGNALLED(SIGSEGV), "write after mprotect");
    check_is(sys(mprotect(at, size, RW)), 0, "mprotect");
    check_is(poke(at, 77), 0, "write after mprotect");
    check_is(there(DO_PEEK, .a = rat), 0, "peek there");

    /* fork: the child's mapping is the same memory, not a copy */
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        bool ok = at[0] == 77;

        at[1] = 78;
        at[250 * PAGE / 8] = 79;
        _exit(ok ? 0 : 1);
    }
    waitpid(pid, &status, 0);
    check_is(status, 0, "child");
    check(at[1] == 78 && at[250 * PAGE / 8] == 79, "child wrote a copy");
    check_is(order((struct order_msg){ .op = DO_PEEK, .a = rat + 8 }).value, 78,
             "child's write there");

    /* mremap moves, and does not grow */
    moved = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    moved = mremap(at, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, moved);
    check(moved != MAP_FAILED, "mremap: %s", strerror(errno));
    at = moved;
    check_is(at[1], 78, "after mremap");
    at[2] = 80;
    check_is(order((struct order_msg){ .op = DO_PEEK, .a = rat + 16 }).value, 80,
             "write after mremap there");

    /* system calls take such memory */
    {
        int fds[2];
        uint64_t word;

        check_is(sys(pipe(fds)), 0, "pipe");
        check_is(write(fds[1], &at[2], 8), 8, "write() from a segment");
        check_is(read(fds[0], &at[3], 8), 8, "read() into a segment");
        word = at[3];
        check_is(word, 80, "read() into a segment");
        close(fds[0]);
        close(fds[1]);
    }

    munmap(at, size);
    close(fd);
    check_is(there(DO_UNMAP, .a = rat, .b = size), 0, "unmap there");
    check_is(there(DO_CLOSE, .a = rfd), 0, "close there");
    check(eventually(shown, "beta", false), "name stays");
}

/* First touches by the other node only, page by page, up and at random. */
static void test_sparse(void)
{
    const size_t pages = 3000, size = pages * PAGE;
    long rfd = there_named("sparse", DO_CREATE, .a = size, .b = 0600), fd;
    int64_t rat = there(DO_MAP, .a = rfd, .b = size, .c = RW);
    uint64_t *at, wrong = 0;
    size_t p = 1;

    fd = seg_open("sparse", O_RDWR);
    at = map(fd, size, RW, 0);
    for (size_t i = 0; i < 1000; i++, p = (p * 5 + 3) % pages) {
        at[p * PAGE / 8] = p;
    }
    for (size_t i = 0; i < pages; i++) {
        at[i * PAGE / 8 + 1] = i;
    }
    p = 1;
    for (size_t i = 0; i < 1000; i++, p = (p * 5 + 3) % pages) {
        wrong += at[p * PAGE / 8] != p;
    }
    for (size_t i = 0; i < pages; i++) {
        wrong += at[i * PAGE / 8 + 1] != i;
    }
    check_is(wrong, 0, "words that differ");
    for (size_t i = 0; i < pages; i += 100) {
        wrong += order((struct order_msg){ .op = DO_PEEK,
                                           .a = rat + (int64_t)(i * PAGE + 8) })
                     .value != i;
    }
    check_is(wrong, 0, "words that differ there");
    munmap(at, size);
    close(fd);
    there(DO_UNMAP, .a = rat, .b = size);
    there(DO_CLOSE, .a = rfd);
}

/* The memory outlives the name, the name not its creator. */
static void test_lifetime(long size)
{
    long fd = seg_create("gamma", PAGE, 0600, 0), rfd;
    uint64_t *at;
    int64_t rat;
    const long want = size / 2 >> 10;
    long used = 0, freed = 0;

    rfd = there_named("gamma", DO_OPEN, .a = O_RDWR);
    rat = there(DO_MAP, .a = rfd, .b = PAGE, .c = RW);
    check_is(there(DO_POKE, .a = rat, .b = 5), 0, "poke there");
    check_is(seg_unlink("gamma"), 0, "unlink");
    check(!shown("gamma"), "shown after unlink");
    check_is(seg_open("gamma", O_RDWR), -ENOENT, "open after unlink");
    check_is(there_named("gamma", DO_OPEN, .a = O_RDWR), -ENOENT,
             "open there after unlink");
    check_is(seg_unlink("gamma"), -ENOENT, "second unlink");
    at = map(fd, PAGE, RW, 0);
    check_is(at[0], 5, "after unlink");

    /* a new one of that name is another one */
    rfd = there_named("gamma", DO_CREATE, .a = PAGE, .b = 0600);
    check(rfd >= 0, "create again there: %ld", rfd);
    long again = seg_open("gamma", O_RDWR);
    uint64_t *other = map(again, PAGE, RW, 0);
    check_is(other[0], 0, "new segment");
    /* unlink from where it does not live */
    check_is(seg_unlink("gamma"), 0, "unlink from afar");
    check_is(seg_open("gamma", O_RDWR), -ENOENT, "open after that");
    check_is(there_named("gamma", DO_OPEN, .a = O_RDWR), -ENOENT,
             "open there after that");
    other[0] = 6;
    munmap(other, PAGE);
    close(again);
    there(DO_CLOSE, .a = rfd);

    /* the first one's last user is there: its home's descriptor goes */
    munmap(at, PAGE);
    close(fd);
    check_is(order((struct order_msg){ .op = DO_PEEK, .a = rat }).value, 5,
             "memory after its creator closed it");
    there(DO_UNMAP, .a = rat, .b = PAGE);

    /* PERSIST: the name stays */
    fd = seg_create("delta", PAGE, 0600, CHIMERA_SEG_PERSIST);
    at = map(fd, PAGE, RW, 0);
    at[0] = 9;
    munmap(at, PAGE);
    close(fd);
    check(shown("delta"), "persistent name gone");
    rfd = there_named("delta", DO_OPEN, .a = O_RDWR);
    rat = there(DO_MAP, .a = rfd, .b = PAGE, .c = RW);
    check_is(order((struct order_msg){ .op = DO_PEEK, .a = rat }).value, 9,
             "persistent memory");
    there(DO_UNMAP, .a = rat, .b = PAGE);
    there(DO_CLOSE, .a = rfd);
    check_is(there_named("delta", DO_UNLINK), 0, "unlink there");
    check(!shown("delta"), "shown after unlink there");

    /* a creator that is killed */
    check_is(child_creates("epsilon", PAGE), 0, "child");
    check(eventually(shown, "epsilon", false), "killed creator's name stays");
    check_is(there_named("epsilon", DO_CHILD, .a = PAGE), 0, "child there");
    check(eventually(shown, "epsilon", false),
          "name of a creator killed there stays");

    /*
     * The memory comes back. Processors keep free pages of their own, which
     * are in no sum, so it is asked for often and only half is expected.
     */
    for (int round = 0; round < 8; round++) {
        fd = seg_create("big", size, 0600, 0);
        rfd = there_named("big", DO_OPEN, .a = O_RDWR);
        rat = there(DO_MAP, .a = rfd, .b = size, .c = RW);
        check_is(there(DO_FILL, .a = rat, .b = size, .c = 1), 0, "fill there");
        check_is(atol(slurp(SYSFS "/segments/big/resident")), size,
                 "resident");
        if (round == 0) {
            used = atol(slurp(SYSFS "/node%u/mem_free_kb", self_node()));
        }
        close(fd);
        there(DO_UNMAP, .a = rat, .b = size);
        there(DO_CLOSE, .a = rfd);
        check(eventually(shown, "big", false), "name stays");
    }
    for (int64_t until = now_ns() + 5 * SECOND;
         freed < want && now_ns() < until;) {
        freed = atol(slurp(SYSFS "/node%u/mem_free_kb", self_node())) - used;
    }
    check(freed >= want, "of %ld kB only %ld were freed", size >> 10, freed);
}

/* Who may. The follower becomes another user and back. */
static void test_rights(void)
{
    long fd = seg_create("mine", PAGE, 0640, 0);
    long pub = seg_create("ours", PAGE, 0604, 0);

    check(fd >= 0 && pub >= 0, "create");
    check_is(there(DO_UID, .a = 1000), 0, "become another user");
    check_is(there_named("mine", DO_OPEN, .a = O_RDONLY), -EACCES, "open");
    check_is(there_named("mine", DO_UNLINK), -EPERM, "unlink");
    check_is(there_named("ours", DO_OPEN, .a = O_RDWR), -EACCES, "open rw");
    long rfd = there_named("ours", DO_OPEN, .a = O_RDONLY);
    check(rfd >= 0, "open ro: %ld", rfd);
    check_is(there(DO_MAP, .a = rfd, .b = PAGE, .c = RW), -EACCES, "map rw");
    check(there(DO_MAP, .a = rfd, .b = PAGE, .c = R) > 0, "map ro");
    there(DO_CLOSE, .a = rfd);
    rfd = there_named("theirs", DO_CREATE, .a = PAGE, .b = 0600);
    check(rfd >= 0, "create as another user: %ld", rfd);
    check_is(atoi(slurp(SYSFS "/segments/theirs/uid")), 1000, "owner");
    check(seg_open("theirs", O_RDWR) >= 0, "root may not open");
    check_is(there_named("theirs", DO_UNLINK), 0, "owner's unlink");
    there(DO_CLOSE, .a = rfd);
    check_is(there(DO_UID, .a = 0), 0, "become root again");
    check_is(there_named("mine", DO_UNLINK), 0, "root's unlink");
    close(fd);
    close(pub);
}

/* Both create the same name at once, many times: one of them gets it. */
static void test_race(void)
{
    long flag = seg_create("flag", PAGE, 0600, 0), rfd;
    uint64_t *at = map(flag, PAGE, RW, 0);
    int here = 0, far = 0, both = 0, none = 0;
    char name[32];

    rfd = there_named("flag", DO_OPEN, .a = O_RDWR);
    int64_t rat = there(DO_MAP, .a = rfd, .b = PAGE, .c = RW);
    for (int i = 0; i < 60; i++) {
        struct order_msg m = { .op = DO_RACE, .a = rat };
        long a, b;

        at[0] = 0;
        snprintf(name, sizeof(name), "race-%d", i);
        strcpy(m.name, name);
        order_send(m);
        /* now and then one is a little earlier */
        for (volatile int spin = 0; spin < (i % 7) * 2000; spin++) {
        }
        at[0] = 1;
        for (volatile int spin = 0; spin < (i % 6) * 30000; spin++) {
        }
        a = seg_create(name, PAGE, 0600, 0);
        b = order_result().ret;
        if (a >= 0 && b >= 0) {
            both++;
        } else if (a < 0 && b < 0) {
            none++;
        } else if (a >= 0) {
            here++;
        } else {
            far++;
        }
        check(a >= 0 || a == -EEXIST, "create: %ld", a);
        check(b >= 0 || b == -EEXIST, "create there: %ld", b);
        if (a >= 0) {
            close(a);
        }
        if (b >= 0) {
            there(DO_CLOSE, .a = b);
        }
    }
    check(!both, "%d names were given twice", both);
    check(!none, "%d names were given to nobody", none);
    printf("race: %d here, %d there\n", here, far);
    munmap(at, PAGE);
    close(flag);
    there(DO_UNMAP, .a = rat, .b = PAGE);
    there(DO_CLOSE, .a = rfd);
}

/* Open, touch and close again and again: attach and detach in any order. */
static void test_churn(void)
{
    long rfd = there_named("churn", DO_CREATE, .a = 64 * PAGE, .b = 0600);
    int64_t rat = there(DO_MAP, .a = rfd, .b = 64 * PAGE, .c = RW);
    int status;

    check_is(there(DO_FILL, .a = rat, .b = 64 * PAGE, .c = 8), 0, "fill");
    fflush(stdout);
    for (int c = 0; c < 3; c++) {
        if (fork() == 0) {
            for (int i = 0; i < 100; i++) {
                long fd = seg_open("churn", O_RDWR);
                uint64_t *at;

                if (fd < 0) {
                    _exit(1);
                }
                at = mmap(NULL, 64 * PAGE, RW, MAP_SHARED, fd, 0);
                close(fd);
                if (at == MAP_FAILED || verify(at, 64 * PAGE, 8)) {
                    _exit(2);
                }
                munmap(at, 64 * PAGE);
            }
            _exit(0);
        }
    }
    for (int c = 0; c < 3; c++) {
        check(wait(&status) > 0 && !status, "a child ended with status %#x",
              status);
    }
    there(DO_UNMAP, .a = rat, .b = 64 * PAGE);
    there(DO_CLOSE, .a = rfd);
}

static void test_bad_input(void)
{
    static const char *const bad[] = { "", ".", "..", "a/b", "a b", "\xc3\xa4",
                                       "a\n" };
    struct chimera_seg_create create = { .name = "x", .size = PAGE };
    struct chimera_seg_open open_req = { .name = "x" };
    char longest[CHIMERA_SEG_NAME_BYTES + 1];
    long fd;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        check_is(seg_create(bad[i], PAGE, 0600, 0), -EINVAL, "create '%s'",
                 bad[i]);
        check_is(seg_open(bad[i], O_RDWR), -EINVAL, "open '%s'", bad[i]);
        check_is(seg_unlink(bad[i]), -EINVAL, "unlink '%s'", bad[i]);
    }
    memset(longest, 'x', sizeof(longest));
    longest[CHIMERA_SEG_NAME_BYTES] = 0;
    check_is(seg_create(longest, PAGE, 0600, 0), -EINVAL, "no NUL");
    longest[CHIMERA_SEG_NAME_BYTES - 1] = 0;
    fd = seg_create(longest, PAGE, 0600, 0);
    check(fd >= 0, "longest name: %ld", fd);
    check(there_named(longest, DO_OPEN, .a = O_RDWR) >= 0, "longest name");
    close(fd);
    check_is(seg_create("x", 0, 0600, 0), -EINVAL, "size 0");
    check_is(seg_create("x", PAGE, 01777, 0), -EINVAL, "mode");
    check_is(seg_create("x", PAGE, 0600, 2), -EINVAL, "flags");
    check_is(seg_create("x", 1ull << 40, 0600, 0), -ENOSPC, "huge");
    check_is(seg_create("x", ~0ull, 0600, 0), -ENOSPC, "hugest");
    create.reserved[1] = 1;
    check_is(sys(ioctl(dev, CHIMERA_IOC_SEG_CREATE, &create)), -EINVAL,
             "reserved");
    open_req.reserved = 1;
    check_is(sys(ioctl(dev, CHIMERA_IOC_SEG_OPEN, &open_req)), -EINVAL,
             "reserved");
    check_is(seg_open("x", O_WRONLY), -EINVAL, "write only");
    check_is(seg_open("nowhere", O_RDWR), -ENOENT, "no such name");
    check_is(sys(ioctl(dev, CHIMERA_IOC_SEG_CREATE, (void *)8)), -EFAULT,
             "bad pointer");
    check(!shown("x"), "left behind");
}

int main(int argc, char **argv)
{
    long mib = 64;

    if (argc == 2 && !strcmp(argv[1], "follow")) {
        return follow();
    }
    if (argc > 3) {
        mib = atol(argv[3]);
    }
    if (argc < 3 || argc > 4 || strcmp(argv[1], "lead") || mib < 1 ||
        mib > 64) {
        return usage(argv[0]);
    }
    lead(argv[2]);
    test_home_here();
    test_home_there();
    test_sparse();
    test_lifetime(mib << 20);
    test_rights();
    test_race();
    test_churn();
    test_bad_input();
    dismiss();
    return report();
}
