/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guest tests: counting, and a peer to order about.
 *
 * A two-node test runs the same binary on both nodes:
 *
 *   PROGRAM follow          on one
 *   PROGRAM lead NODE       on the other, NODE being the first one's index
 *
 * The follower is a hand on its node: it does what it is told, one system call
 * at a time, and reports the result; all of a test stands in the leader. They
 * talk by messages between two fixed ports. Each waits for the other, so the
 * order in which they start does not matter.
 */
#ifndef TESTS_GUEST_HARNESS_H
#define TESTS_GUEST_HARNESS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <linux/chimera.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SYSFS "/sys/devices/system/chimera"
#define PAGE 4096ul
#define LEAD_PORT 2000
#define FOLLOW_PORT 2001
#define SECOND 1000000000ll

static int passed, failed;
static int dev = -1; /* /dev/chimera, also the endpoint of orders */
static int peer = -1;

/*
 * Time enough for what takes @seconds at most where nodes are near each other;
 * CHIMERA_TEST_SLOWER says how many times longer where they are not.
 */
static inline int64_t patience(int seconds)
{
    const char *slower = getenv("CHIMERA_TEST_SLOWER");

    return seconds * SECOND * (slower ? atoi(slower) : 1);
}

/* A check: the text says what must hold. */
#define check(cond, ...) check_at(__LINE__, (cond), __VA_ARGS__)

static inline __attribute__((format(printf, 3, 4))) bool
check_at(int line, bool ok, const char *fmt, ...)
{
    va_list ap;

    if (ok) {
        passed++;
        return true;
    }
    failed++;
    printf("FAILED line %d: ", line);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    printf("\n");
    fflush(stdout);
    return false;
}

/* The result of a call, as the kernel gives it: -errno. */
#define sys(expr)                                                              \
    ({                                                                         \
        long ret_ = (expr);                                                    \
        ret_ < 0 ? -errno : ret_;                                              \
    })

#define check_is(got, want, ...)                                               \
    ({                                                                         \
        long got_ = (got), want_ = (want);                                     \
        char what_[160];                                                       \
        snprintf(what_, sizeof(what_), __VA_ARGS__);                           \
        check_at(__LINE__, got_ == want_, "%s: got %ld, want %ld", what_,      \
                 got_, want_);                                                 \
    })

static inline int report(void)
{
    printf("%d passed, %d failed\n", passed, failed);
    fflush(stdout);
    return failed ? 1 : 0;
}

static inline __attribute__((noreturn, format(printf, 1, 2))) void
die(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    printf("\n");
    failed++;
    exit(report());
}

static inline int64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * SECOND + ts.tv_nsec;
}

/* ---- thin wrappers: 0 or more, or -errno ---- */

/* As much of a name as there is room for, NUL or not: the kernel checks. */
static inline void put_name(char *to, const char *name)
{
    size_t len = strlen(name);

    memcpy(to, name,
           len < CHIMERA_SEG_NAME_BYTES ? len : CHIMERA_SEG_NAME_BYTES);
}

static inline long seg_create(const char *name, uint64_t size, unsigned mode,
                              unsigned flags)
{
    struct chimera_seg_create req = {
        .size = size, .mode = mode, .flags = flags
    };

    put_name(req.name, name);
    return sys(ioctl(dev, CHIMERA_IOC_SEG_CREATE, &req));
}

static inline long seg_open(const char *name, unsigned flags)
{
    struct chimera_seg_open req = { .flags = flags };

    put_name(req.name, name);
    return sys(ioctl(dev, CHIMERA_IOC_SEG_OPEN, &req));
}

static inline long seg_unlink(const char *name)
{
    struct chimera_seg_unlink req = { 0 };

    put_name(req.name, name);
    return sys(ioctl(dev, CHIMERA_IOC_SEG_UNLINK, &req));
}

static inline long seg_stat(int fd, struct chimera_seg_stat *st)
{
    return sys(ioctl(fd, CHIMERA_IOC_SEG_STAT, st));
}

static inline long port_bind(int fd, unsigned *port)
{
    struct chimera_bind req = { .port = *port };
    long err = sys(ioctl(fd, CHIMERA_IOC_BIND, &req));

    *port = req.port;
    return err;
}

static inline long msg_send(int fd, unsigned node, unsigned port,
                            const void *buf, size_t len, unsigned flags,
                            int64_t timeout_ns)
{
    struct chimera_msg msg = { .buf = (uintptr_t)buf,
                               .len = len,
                               .port = port,
                               .node = node,
                               .flags = flags,
                               .timeout_ns = timeout_ns };

    return sys(ioctl(fd, CHIMERA_IOC_SEND, &msg));
}

/* Return: length, or -errno. */
static inline long msg_recv(int fd, void *buf, size_t room, unsigned *node,
                            unsigned *port, unsigned flags, int64_t timeout_ns)
{
    struct chimera_msg msg = { .buf = (uintptr_t)buf,
                               .len = room,
                               .flags = flags,
                               .timeout_ns = timeout_ns };
    long err = sys(ioctl(fd, CHIMERA_IOC_RECV, &msg));

    if (err) {
        return err;
    }
    if (node) {
        *node = msg.node;
    }
    if (port) {
        *port = msg.port;
    }
    return msg.len;
}

static inline int endpoint(unsigned port)
{
    int fd = open("/dev/chimera", O_RDWR | O_CLOEXEC);
    long err;

    if (fd < 0) {
        die("/dev/chimera: %s", strerror(errno));
    }
    err = port_bind(fd, &port);
    if (err) {
        die("bind: %s", strerror(-err));
    }
    return fd;
}

static inline unsigned self_node(void)
{
    struct chimera_info info;

    if (ioctl(dev, CHIMERA_IOC_INFO, &info)) {
        die("INFO: %s", strerror(errno));
    }
    return info.self;
}

/* Contents of a file without its last newline; "" if it cannot be read. */
static inline const char *slurp(const char *fmt, ...)
{
    static char text[4][8192];
    static unsigned next;
    char path[256], *t = text[next++ % 4];
    ssize_t n = -1;
    va_list ap;
    int fd;

    va_start(ap, fmt);
    vsnprintf(path, sizeof(path), fmt, ap);
    va_end(ap);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        n = read(fd, t, sizeof(text[0]) - 1);
        close(fd);
    }
    t[n > 0 ? n : 0] = 0;
    if (n > 0 && t[n - 1] == '\n') {
        t[n - 1] = 0;
    }
    return t;
}

/* ---- memory that may answer with a signal ---- */

static sigjmp_buf fault_jump;
static volatile sig_atomic_t fault_armed;

static inline void on_fault(int sig)
{
    if (!fault_armed) {
        signal(sig, SIG_DFL);
        raise(sig);
    }
    siglongjmp(fault_jump, sig);
}

static inline void catch_faults(void)
{
    struct sigaction sa = { .sa_handler = on_fault, .sa_flags = SA_NODEFER };

    sigaction(SIGBUS, &sa, NULL);
    sigaction(SIGSEGV, &sa, NULL);
}

/* Return: 0, or minus 1000 and the signal. */
static inline long peek(const volatile void *at, uint64_t *value)
{
    int sig = sigsetjmp(fault_jump, 1);

    if (!sig) {
        fault_armed = 1;
        *value = __atomic_load_n((const volatile uint64_t *)at,
                                 __ATOMIC_SEQ_CST);
    }
    fault_armed = 0;
    return sig ? -1000 - sig : 0;
}

static inline long poke(volatile void *at, uint64_t value)
{
    int sig = sigsetjmp(fault_jump, 1);

    if (!sig) {
        fault_armed = 1;
        __atomic_store_n((volatile uint64_t *)at, value, __ATOMIC_SEQ_CST);
    }
    fault_armed = 0;
    return sig ? -1000 - sig : 0;
}

#define SIGNALLED(sig) (-1000 - (sig))

/* Memory pressure: fill and drop as much memory as there is free and some more. */
static inline int squeeze(void)
{
    const size_t more = 40 << 20;
    struct sysinfo si;
    size_t size;
    int status;
    pid_t pid;

    sysinfo(&si);
    size = (si.freeram + si.bufferram) * si.mem_unit;
    size += si.freeswap * si.mem_unit / 2 < more
                ? si.freeswap * si.mem_unit / 2
                : more;
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        volatile char *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        if (p == MAP_FAILED) {
            _exit(1);
        }
        for (size_t i = 0; i < size; i += PAGE) {
            *(volatile size_t *)(p + i) = i + 1;
        }
        _exit(0);
    }
    if (waitpid(pid, &status, 0) != pid) {
        return -1;
    }
    return status;
}

/* ---- orders ---- */

enum order {
    DO_NOTHING,
    DO_CREATE,  /* name, a = size, b = mode, c = flags -> descriptor */
    DO_OPEN,    /* name, a = flags -> descriptor */
    DO_UNLINK,  /* name */
    DO_CLOSE,   /* a = descriptor */
    DO_MAP,     /* a = descriptor, b = bytes, c = prot, d = offset -> address */
    DO_UNMAP,   /* a = address, b = bytes */
    DO_PEEK,    /* a = address -> 0; value */
    DO_POKE,    /* a = address, b = value */
    DO_FILL,    /* a = address, b = bytes, c = seed */
    DO_VERIFY,  /* a = address, b = bytes, c = seed -> words that differ */
    DO_ADD,     /* a = address, b = times: atomic increments */
    DO_UID,     /* a = uid and gid to take on, for good in a child */
    DO_CHILD,   /* name, a = size: a child creates, touches and is killed */
    DO_STAT,    /* a = descriptor -> 0; value = size */
    DO_BIND,    /* a = port -> descriptor of an endpoint */
    DO_SEND,    /* a = endpoint, b = node << 16 | port, c = count, d = bytes */
    DO_RECV,    /* a = endpoint, b = how many -> bytes of the last; value = sum */
    DO_RACE,    /* name, a = not before (a word becomes != 0): create -> descriptor */
    DO_SYSFS,   /* name = path below SYSFS -> 0; text */
    DO_EXIT,
};

struct order_msg {
    uint64_t op;
    int64_t a, b, c, d;
    char name[128];
};

struct result_msg {
    int64_t ret; /* or -errno */
    uint64_t value;
    char text[256];
};

static inline uint64_t pattern(uint64_t seed, uint64_t i)
{
    uint64_t x = seed * 0x9e3779b97f4a7c15ull + i * 0xbf58476d1ce4e5b9ull;

    return x ^ (x >> 29) ^ (i << 1 | 1);
}

static inline void fill(volatile uint64_t *at, size_t bytes, uint64_t seed)
{
    for (size_t i = 0; i < bytes / 8; i++) {
        at[i] = pattern(seed, i);
    }
}

static inline long verify(const volatile uint64_t *at, size_t bytes,
                          uint64_t seed)
{
    long wrong = 0;

    for (size_t i = 0; i < bytes / 8; i++) {
        wrong += at[i] != pattern(seed, i);
    }
    return wrong;
}

/*
 * What a lost node has filled: with the page protocol each page is lost with
 * it or has what was written, without it no page is lost.
 * Return: pages that are lost, or -1: there is something else.
 */
static inline long verify_lost(const volatile uint64_t *at, size_t bytes,
                               uint64_t seed)
{
    bool dsm = strcmp(slurp(SYSFS "/coherence"), "shared");
    long lost = 0, sig;
    uint64_t value;

    for (size_t i = 0; i < bytes / 8; i++) {
        sig = i % (PAGE / 8) ? 0 : peek(at + i, &value);
        if (sig == SIGNALLED(SIGBUS) && dsm) {
            lost++;
            i += PAGE / 8 - 1;
        } else if (sig || at[i] != pattern(seed, i)) {
            return -1;
        }
    }
    return lost;
}

/* A stream of messages: each carries its number, then a pattern. */
static inline long send_stream(int fd, unsigned node, unsigned port, long count,
                               size_t bytes)
{
    uint64_t buf[CHIMERA_MSG_BYTES / 8];
    long err = 0;

    for (long i = 0; i < count && !err; i++) {
        fill(buf, sizeof(buf), i);
        buf[0] = i;
        err = msg_send(fd, node, port, buf, bytes, 0, patience(20));
    }
    return err;
}

/* Return: 0, -errno, or -2000 - number of the first message that is wrong. */
static inline long recv_stream(int fd, long first, long count, size_t bytes)
{
    uint64_t buf[CHIMERA_MSG_BYTES / 8], want[CHIMERA_MSG_BYTES / 8];
    long n;

    for (long i = first; i < first + count; i++) {
        n = msg_recv(fd, buf, sizeof(buf), NULL, NULL, 0, patience(20));
        if (n < 0) {
            return n;
        }
        fill(want, sizeof(want), i);
        want[0] = i;
        if ((size_t)n != bytes || memcmp(buf, want, bytes)) {
            return -2000 - i;
        }
    }
    return 0;
}

/* A child that makes a segment, touches it and dies without cleaning up. */
static inline long child_creates(const char *name, size_t size)
{
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        long fd = seg_create(name, size, 0600, 0);
        uint64_t *at;

        if (fd < 0) {
            _exit(1);
        }
        at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (at == MAP_FAILED) {
            _exit(2);
        }
        at[0] = 1;
        kill(getpid(), SIGKILL);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid) {
        return -errno;
    }
    return WIFSIGNALED(status) ? 0 : -1;
}

static inline void carry_out(const struct order_msg *m, struct result_msg *r)
{
    volatile uint64_t *at = (volatile uint64_t *)(uintptr_t)m->a;

    switch (m->op) {
    case DO_NOTHING:
        break;
    case DO_CREATE:
        r->ret = seg_create(m->name, m->a, m->b, m->c);
        break;
    case DO_OPEN:
        r->ret = seg_open(m->name, m->a);
        break;
    case DO_UNLINK:
        r->ret = seg_unlink(m->name);
        break;
    case DO_CLOSE:
        r->ret = sys(close(m->a));
        break;
    case DO_MAP: {
        void *p = mmap(NULL, m->b, m->c, MAP_SHARED, m->a, m->d);

        r->ret = p == MAP_FAILED ? -errno : (intptr_t)p;
        break;
    }
    case DO_UNMAP:
        r->ret = sys(munmap((void *)at, m->b));
        break;
    case DO_PEEK:
        r->ret = peek(at, &r->value);
        break;
    case DO_POKE:
        r->ret = poke(at, m->b);
        break;
    case DO_FILL:
        fill(at, m->b, m->c);
        break;
    case DO_VERIFY:
        r->ret = verify(at, m->b, m->c);
        break;
    case DO_ADD:
        for (int64_t i = 0; i < m->b; i++) {
            __atomic_fetch_add(at, 1, __ATOMIC_SEQ_CST);
        }
        break;
    case DO_UID:
        if (setegid(m->a) || seteuid(m->a)) {
            r->ret = -errno;
        }
        break;
    case DO_CHILD:
        r->ret = child_creates(m->name, m->a);
        break;
    case DO_STAT: {
        struct chimera_seg_stat st;

        r->ret = seg_stat(m->a, &st);
        r->value = st.size;
        snprintf(r->text, sizeof(r->text), "%s %u %u %o %u", st.name, st.uid,
                 st.gid, st.mode, st.home);
        break;
    }
    case DO_BIND:
        r->ret = endpoint(m->a);
        break;
    case DO_SEND:
        r->ret = send_stream(m->a, m->b >> 16, m->b & 0xffff, m->c, m->d);
        break;
    case DO_RECV:
        r->ret = recv_stream(m->a, m->b, m->c, m->d);
        break;
    case DO_RACE:
        /* both sides spin on a word in a segment: as close as it gets */
        while (!__atomic_load_n(at, __ATOMIC_SEQ_CST)) {
        }
        r->ret = seg_create(m->name, PAGE, 0600, 0);
        break;
    case DO_SYSFS:
        snprintf(r->text, sizeof(r->text), "%s", slurp(SYSFS "/%s", m->name));
        break;
    default:
        r->ret = -ENOSYS;
    }
}

static inline int follow(void)
{
    unsigned node = 0, port = 0;
    struct order_msg m;

    dev = endpoint(FOLLOW_PORT);
    catch_faults();
    for (;;) {
        struct result_msg r = { 0 };
        long n = msg_recv(dev, &m, sizeof(m), &node, &port, 0, patience(300));

        if (n != sizeof(m)) {
            die("no order: %ld", n);
        }
        peer = node;
        if (m.op == DO_EXIT) {
            return 0;
        }
        carry_out(&m, &r);
        n = msg_send(dev, node, port, &r, sizeof(r), 0, patience(20));
        if (n) {
            die("cannot report to node %u port %u: %ld", node, port, n);
        }
    }
}

static inline void order_send(struct order_msg m)
{
    long err = msg_send(dev, peer, FOLLOW_PORT, &m, sizeof(m), 0, patience(20));

    if (err) {
        die("cannot give orders to node %d: %s", peer, strerror(-err));
    }
}

static inline struct result_msg order_result(void)
{
    struct result_msg r;
    long n = msg_recv(dev, &r, sizeof(r), NULL, NULL, 0, patience(60));

    if (n != sizeof(r)) {
        die("no report from node %d: %ld", peer, n);
    }
    return r;
}

static inline struct result_msg order(struct order_msg m)
{
    order_send(m);
    return order_result();
}

#define NAMED(order_name, ...)                                                 \
    ({                                                                         \
        struct order_msg m_ = { .op = __VA_ARGS__ };                           \
        snprintf(m_.name, sizeof(m_.name), "%s", order_name);                  \
        m_;                                                                    \
    })

/* Do it there; the number that comes back. */
static inline int64_t order_ret(struct order_msg m)
{
    return order(m).ret;
}

#define there(...) order_ret((struct order_msg){ .op = __VA_ARGS__ })
#define there_named(name, ...) order_ret(NAMED(name, __VA_ARGS__))

/* The follower may not be there yet: wait until it answers. */
static inline void lead(const char *node)
{
    struct order_msg hello = { .op = DO_NOTHING };
    int64_t until = now_ns() + patience(60);
    struct pollfd none = { .fd = -1 };
    long err;

    dev = endpoint(LEAD_PORT);
    peer = atoi(node);
    catch_faults();
    while ((err = msg_send(dev, peer, FOLLOW_PORT, &hello, sizeof(hello), 0,
                           SECOND)) &&
           now_ns() < until) {
        /* nothing tells that a port gets bound */
        poll(&none, 1, 20);
    }
    if (err) {
        die("nobody follows on node %d: %s", peer, strerror(-err));
    }
    order_result();
}

static inline void dismiss(void)
{
    order_send((struct order_msg){ .op = DO_EXIT });
}

static inline int usage(const char *prog)
{
    fprintf(stderr, "usage: %s follow | lead NODE\n", prog);
    return 2;
}

#endif /* TESTS_GUEST_HARNESS_H */
