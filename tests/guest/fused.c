/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Processes on two nodes. The leader's process is the home: its threads make
 * channels, and what is at the other end of one is a hand that peeks, pokes
 * and calls where it is told, one order an exchange. The follower starts and
 * ends the processes that the hands belong to.
 */
#include "harness.h"

#include <linux/virtio_fabric.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <sys/mount.h>
#include <sys/syscall.h>

#define BASE 0x100000000000ul /* mirrored, and nothing else's on any ISA */
#define SPAN (1ul << 30)
#define R (PROT_READ)
#define RW (PROT_READ | PROT_WRITE)
#define AT(page) ((volatile uint64_t *)(BASE + PAGE * (page)))

/* ---- orders to the follower ---- */

enum {
    DO_STUB = 1000, /* a = id, b = secret, c = uid, d = bad -> 0 or -errno */
    DO_STUB_END,    /* a = signal -> wait status */
    DO_THREADS,     /* a = wanted number of the stub's threads -> number */
    DO_LIE,         /* a = class, b = bytes; name = the message */
    DO_HASTE,       /* a = id, b = secret: a stub that is killed as it joins */
};

/* ---- messages as a kernel would send them ---- */

#define INJECT "/sys/kernel/debug/chimera/inject"
#define FUSED_SERVICE 5
#define FUSED_TYPES 16

struct lie {
    struct virtio_fabric_hdr fabric;
    uint8_t service, type, flags, reserved;
    uint32_t status;
    uint64_t cookie;
    uint64_t id;
    uint32_t channel, arg;
    uint64_t word[11];
};

static int inject_fd = -1;

/* Return: 0 or -errno; -ENOENT: the kernel has no such thing. */
static long lie_send(const void *lie, size_t len, unsigned cls)
{
    struct virtio_fabric_hdr head = { .node = peer, .cls = cls };
    uint8_t buf[256];

    if (inject_fd < 0) {
        mount("debugfs", "/sys/kernel/debug", "debugfs", 0, NULL);
        inject_fd = open(INJECT, O_WRONLY | O_CLOEXEC);
    }
    if (inject_fd < 0) {
        return -errno;
    }
    memcpy(buf, lie, len);
    memcpy(buf, &head, sizeof(head));
    return sys(write(inject_fd, buf, len)) < 0 ? -errno : 0;
}

/* ---- hands ---- */

enum hand {
    HAND_PEEK,   /* address -> 0, value */
    HAND_POKE,   /* address, value */
    HAND_ADD,    /* address, times */
    HAND_FILL,   /* address, bytes, seed */
    HAND_VERIFY, /* address, bytes, seed -> words that differ */
    HAND_RISING, /* address, flag: read until flag -> times it fell */
    HAND_COUNT,  /* address, flag: add until flag -> how often */
    HAND_CALL,   /* nr, 5 arguments, from text that is not the stub's */
    HAND_OFF,    /* spin in text that is not the stub's, for good */
    HAND_LATE,   /* address: the same when the word there is not 0 */
    HAND_OWN,    /* nr, 5 arguments, from the stub's text */
    HAND_STAY,   /* address: say so there, then wait for other words */
    HAND_TOUCH,  /* address, pages -> 0: reads one word of each */
    HAND_EXIT,   /* the thread ends */
};

extern char __executable_start[], etext[];
extern const char remote_call[], remote_spin[], remote_end[];

#ifdef __x86_64__
__asm__(".pushsection .rodata\n"
        "remote_call: mov %rdi, %rax; mov %rsi, %rdi; mov %rdx, %rsi\n"
        "mov %rcx, %rdx; mov %r8, %r10; mov %r9, %r8; mov 8(%rsp), %r9\n"
        "syscall; ret\n"
        "remote_spin: jmp remote_spin\n"
        "remote_end: .popsection\n");
#else
__asm__(".pushsection .rodata\n.balign 4\n"
        "remote_call: mov x8, x0; mov x0, x1; mov x1, x2; mov x2, x3\n"
        "mov x3, x4; mov x4, x5; mov x5, x6; svc #0; ret\n"
        "remote_spin: b remote_spin\n"
        "remote_end: .popsection\n");
#endif

typedef long remote_fn(long nr, long a, long b, long c, long d, long e, long f);

static int stub_fd = -1;
static char *remote_text;
static __thread sigjmp_buf hand_jump;
static __thread volatile sig_atomic_t hand_armed;

static void hand_fault(int sig, siginfo_t *si, void *context)
{
    struct chimera_faulted f = { .signal = sig,
                                 .code = si->si_code,
                                 .address = (uintptr_t)si->si_addr,
                                 .pc = 1 };

    (void)context;
    if (!hand_armed || ioctl(stub_fd, CHIMERA_IOC_FAULTED, &f)) {
        _exit(99);
    }
    siglongjmp(hand_jump, sig);
}

static uint64_t rising(volatile uint64_t *at, volatile uint64_t *flag)
{
    uint64_t last = 0, fell = 0, now;

    while (!__atomic_load_n(flag, __ATOMIC_SEQ_CST)) {
        now = __atomic_load_n(at, __ATOMIC_SEQ_CST);
        fell += now < last;
        last = now;
    }
    return fell;
}

static uint64_t counting(volatile uint64_t *at, volatile uint64_t *flag)
{
    uint64_t n = 0;

    while (!__atomic_load_n(flag, __ATOMIC_SEQ_CST)) {
        __atomic_fetch_add(at, 1, __ATOMIC_SEQ_CST);
        n++;
    }
    return n;
}

static void hand_do(struct chimera_words *w, const struct chimera_words *o)
{
    volatile uint64_t *at = (volatile uint64_t *)(uintptr_t)o->word[1];
    const __u64 *a = o->word + 2;

    memset(w, 0, sizeof(*w));
    switch (o->word[0]) {
    case HAND_PEEK:
        w->word[1] = __atomic_load_n(at, __ATOMIC_SEQ_CST);
        break;
    case HAND_POKE:
        __atomic_store_n(at, a[0], __ATOMIC_SEQ_CST);
        break;
    case HAND_ADD:
        for (uint64_t i = 0; i < a[0]; i++) {
            __atomic_fetch_add(at, 1, __ATOMIC_SEQ_CST);
        }
        break;
    case HAND_FILL:
        fill(at, a[0], a[1]);
        break;
    case HAND_VERIFY:
        w->word[1] = verify(at, a[0], a[1]);
        break;
    case HAND_RISING:
        w->word[1] = rising(at, (volatile uint64_t *)(uintptr_t)a[0]);
        break;
    case HAND_COUNT:
        w->word[1] = counting(at, (volatile uint64_t *)(uintptr_t)a[0]);
        break;
    case HAND_CALL:
        w->word[1] = ((remote_fn *)remote_text)(o->word[1], a[0], a[1], a[2],
                                                a[3], a[4], 0);
        break;
    case HAND_LATE:
        while (!__atomic_load_n(at, __ATOMIC_SEQ_CST)) {
        }
        /* fall through */
    case HAND_OFF:
        ((void (*)(void))(remote_text + (remote_spin - remote_call)))();
        break;
    case HAND_OWN:
        w->word[1] = sys(syscall(o->word[1], a[0], a[1], a[2], a[3], a[4]));
        break;
    case HAND_STAY:
        __atomic_fetch_add(at, 1, __ATOMIC_SEQ_CST);
        break;
    case HAND_TOUCH:
        for (uint64_t i = 0; i < a[0]; i++) {
            w->word[1] += at[i * PAGE / 8];
        }
        break;
    case HAND_EXIT:
        syscall(SYS_exit, 0);
        break;
    default:
        w->word[0] = 1;
    }
}

static void *hand(void *arg)
{
    struct chimera_serve s = { .channel = (uintptr_t)arg };
    struct chimera_words in, out;

    if (ioctl(stub_fd, CHIMERA_IOC_SERVE, &s)) {
        return NULL;
    }
    memcpy(in.word, s.word, sizeof(in.word));
    do {
        if (!sigsetjmp(hand_jump, 1)) {
            hand_armed = 1;
            hand_do(&out, &in);
        } else {
            memset(&out, 0, sizeof(out));
            out.word[0] = 2; /* it has been told of */
        }
        hand_armed = 0;
        in = out;
    } while (!ioctl(stub_fd, CHIMERA_IOC_CALL, &in));
    return NULL;
}

static long stub_join(const struct order_msg *m)
{
    int fd = open("/dev/chimera", O_RDWR | O_CLOEXEC);
    struct chimera_join join = { .home = peer, .id = m->a, .secret = m->b };
    struct chimera_native native = { (uintptr_t)__executable_start,
                                     (uintptr_t)etext };
    struct sigaction sa = { .sa_sigaction = hand_fault,
                            .sa_flags = SA_SIGINFO | SA_NODEFER };

    if (m->c && setresuid(m->c, m->c, m->c)) {
        return -errno;
    }
    stub_fd = ioctl(fd, CHIMERA_IOC_JOIN, &join);
    if (stub_fd < 0) {
        return -errno;
    }
    if (mmap((void *)BASE, SPAN, RW, MAP_SHARED | MAP_FIXED, stub_fd, BASE) !=
            (void *)BASE ||
        ioctl(stub_fd, CHIMERA_IOC_NATIVE, &native)) {
        return -errno;
    }
    remote_text = mmap(NULL, PAGE, RW | PROT_EXEC,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(remote_text, remote_call, remote_end - remote_call);
    __builtin___clear_cache(remote_text, remote_text + PAGE);
    sigaction(SIGSEGV, &sa, NULL);
    sigaction(SIGBUS, &sa, NULL);
    return 0;
}

/* What JOIN and its descriptor refuse, seen from a stub. */
static long stub_refusals(const struct order_msg *m)
{
    int fd = open("/dev/chimera", O_RDWR | O_CLOEXEC);
    struct chimera_join again = { .home = peer, .id = m->a, .secret = m->b };
    struct chimera_fuse fuse = { 0 };
    struct chimera_serve serve = { .channel = 12345 };
    struct chimera_native native = { 2, 1 };
    struct chimera_words words = { 0 };
    struct chimera_faulted faulted = { .signal = 1000 };
    void *addr = (void *)(BASE + SPAN);
    pid_t pid;
    int status;

    check_is(sys(ioctl(fd, CHIMERA_IOC_JOIN, &again)), -EALREADY, "again");
    again.reserved[1] = 1;
    check_is(sys(ioctl(fd, CHIMERA_IOC_JOIN, &again)), -EINVAL, "reserved");
    check_is(sys(ioctl(fd, CHIMERA_IOC_FUSE, &fuse)), -EBUSY, "FUSE of a stub");
    check(mmap(addr, PAGE, RW, MAP_SHARED | MAP_FIXED, stub_fd, BASE) ==
                  MAP_FAILED &&
              errno == EINVAL,
          "mirror elsewhere");
    check(mmap(addr, PAGE, RW, MAP_PRIVATE | MAP_FIXED, stub_fd,
               (uintptr_t)addr) == MAP_FAILED &&
              errno == EINVAL,
          "private mirror");
    check(mmap(addr, PAGE, R | PROT_EXEC, MAP_SHARED | MAP_FIXED, stub_fd,
               (uintptr_t)addr) == MAP_FAILED &&
              errno == EACCES,
          "executable mirror");
    check_is(sys(mprotect((void *)BASE, PAGE, R | PROT_EXEC)), -EACCES,
             "mprotect to executable");
    check_is(sys(ioctl(stub_fd, CHIMERA_IOC_SERVE, &serve)), -EINVAL,
             "SERVE no channel");
    check_is(sys(ioctl(stub_fd, CHIMERA_IOC_CALL, &words)), -EINVAL,
             "CALL without SERVE");
    check_is(sys(ioctl(stub_fd, CHIMERA_IOC_FAULTED, &faulted)), -EINVAL,
             "FAULTED of no signal");
    check_is(sys(ioctl(stub_fd, CHIMERA_IOC_NATIVE, &native)), -EINVAL,
             "NATIVE upside down");
    check_is(sys(ioctl(stub_fd, CHIMERA_IOC_ATTACH, &words)), -ENOTTY,
             "home's ioctl");
    /* who does not serve gets nothing of home's */
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        uint64_t value;

        _exit(sys(ioctl(stub_fd, CHIMERA_IOC_SERVE, &serve)) == -EPERM &&
                      peek((void *)BASE, &value) == SIGNALLED(SIGSEGV)
                  ? 0
                  : 1);
    }
    check(pid > 0 && waitpid(pid, &status, 0) == pid && !status,
          "a child of the stub");
    return failed ? -EPROTO : 0;
}

static void stub(const struct order_msg *m, int report)
{
    struct chimera_accept accept;
    pthread_t thread;
    long err;

    catch_faults();
    err = stub_join(m);
    if (!err && m->d) {
        catch_faults();
        err = stub_refusals(m);
    }
    if (write(report, &err, sizeof(err)) != sizeof(err) || err) {
        _exit(98);
    }
    while (!ioctl(stub_fd, CHIMERA_IOC_ACCEPT, &accept)) {
        if (accept.arg != 4711) {
            _exit(97);
        }
        if (pthread_create(&thread, NULL, hand,
                           (void *)(uintptr_t)accept.channel)) {
            _exit(96);
        }
        pthread_detach(thread);
    }
    _exit(95);
}

static pid_t stub_pid;

static long stub_start(const struct order_msg *m)
{
    int fds[2];
    long err = -EPIPE;
    pid_t pid;

    if (pipe(fds)) {
        return -errno;
    }
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        close(fds[0]);
        stub(m, fds[1]);
    }
    close(fds[1]);
    if (read(fds[0], &err, sizeof(err)) != sizeof(err)) {
        err = -EPIPE;
    }
    close(fds[0]);
    if (err) {
        waitpid(pid, NULL, 0);
    } else {
        stub_pid = pid;
    }
    return err;
}

/* Wait at most 20 s for the stub to go. */
static long stub_end(int sig)
{
    int64_t until = now_ns() + patience(20);
    struct pollfd none = { .fd = -1 };
    int status = 0;
    pid_t pid;

    if (sig) {
        kill(stub_pid, sig);
    }
    while (!(pid = waitpid(stub_pid, &status, WNOHANG))) {
        if (now_ns() > until) {
            return -ETIMEDOUT;
        }
        poll(&none, 1, 5);
    }
    stub_pid = 0;
    return pid < 0 ? -errno : status;
}

/* Wait at most 5 s until the stub has so many. */
static long stub_threads(long wanted)
{
    int64_t until = now_ns() + patience(5);
    struct pollfd none = { .fd = -1 };
    const char *line;
    long n;

    do {
        poll(&none, 1, 5);
        line = strstr(slurp("/proc/%d/status", stub_pid), "Threads:");
        n = line ? atol(line + 8) : -ESRCH;
    } while (n != wanted && now_ns() < until);
    return n;
}

/*
 * Home's kernel is busy with what it is asked for first, so the stub is likely
 * to go before its JOIN is looked at. What is asked last is answered after it.
 */
static long stub_haste(const struct order_msg *m)
{
    int fd = open("/dev/chimera", O_RDWR | O_CLOEXEC), fds[2], status = -1;
    struct chimera_join join = { .home = peer, .id = m->a, .secret = m->b };
    pid_t reader, pid;
    char byte = 0;

    if (fd < 0 || pipe(fds)) {
        return -errno;
    }
    fflush(stdout);
    reader = fork();
    while (reader == 0) {
        slurp("/proc/chimera/cpuinfo");
    }
    pid = fork();
    if (pid == 0) {
        if (write(fds[1], &byte, 1) == 1) {
            ioctl(fd, CHIMERA_IOC_JOIN, &join);
        }
        for (;;) {
            pause();
        }
    }
    close(fds[1]);
    if (read(fds[0], &byte, 1) != 1) {
        status = -EPIPE;
    }
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    kill(reader, SIGKILL);
    waitpid(reader, NULL, 0);
    close(fds[0]);
    close(fd);
    slurp("/proc/chimera/cpuinfo");
    return status == SIGKILL ? 0 : -ECHILD;
}

/*
 * @bury: the leader's node is going to be lost. So the stub must be killed
 * by the kernel; then we report.
 */
static int fused_follow(bool bury)
{
    unsigned node = 0, port = 0;
    struct order_msg m;

    dev = endpoint(FOLLOW_PORT);
    for (;;) {
        struct result_msg r = { 0 };
        long n = msg_recv(dev, &m, sizeof(m), &node, &port, 0, patience(300));

        if (n != sizeof(m)) {
            die("no order: %ld", n);
        }
        peer = node;
        if (m.op == DO_EXIT) {
            return failed ? 1 : 0;
        }
        if (m.op == DO_STUB) {
            r.ret = stub_start(&m);
        } else if (m.op == DO_STUB_END) {
            r.ret = stub_end(m.a);
        } else if (m.op == DO_LIE) {
            r.ret = lie_send(m.name, m.b, m.a);
        } else if (m.op == DO_THREADS) {
            r.ret = stub_threads(m.a);
        } else if (m.op == DO_HASTE) {
            r.ret = stub_haste(&m);
        } else {
            carry_out(&m, &r);
        }
        n = msg_send(dev, node, port, &r, sizeof(r), 0, patience(20));
        if (n) {
            die("cannot report to node %u port %u: %ld", node, port, n);
        }
        if (bury && m.op == DO_STUB) {
            int status = 0;

            check(waitpid(stub_pid, &status, 0) == stub_pid, "waitpid");
            check_is(status, SIGKILL, "the stub of a lost home");
            return report();
        }
    }
}

/* ---- home ---- */

static int home = -1;
static struct chimera_fuse ident;

static long exchange(struct chimera_exchange *x, unsigned long cmd)
{
    x->node = peer;
    return sys(ioctl(home, cmd, x));
}

static long attach(void)
{
    struct chimera_attach a = { .node = peer, .arg = 4711 };

    return sys(ioctl(home, CHIMERA_IOC_ATTACH, &a));
}

/* The last fault that was told of. */
static __thread struct chimera_exchange fault;

/* An order of the current thread's hand; its word 1, or what it died of. */
static long hand_order(const uint64_t *o)
{
    struct chimera_exchange x = { 0 };
    long err;

    memcpy(x.word, o, sizeof(x.word));
    err = exchange(&x, CHIMERA_IOC_EXCHANGE);
    if (err) {
        return err;
    }
    fault.event = 0;
    if (x.event == CHIMERA_EVENT_FAULT) {
        fault = x;
        memset(x.word, 0, sizeof(x.word));
        err = exchange(&x, CHIMERA_IOC_EXCHANGE);
        if (err || x.event != CHIMERA_EVENT_MESSAGE || x.word[0] != 2) {
            return -EPROTO;
        }
        return SIGNALLED((long)fault.word[0]);
    }
    if (x.event == CHIMERA_EVENT_LOST) {
        return -2000 - (long)x.word[0];
    }
    if (x.event == CHIMERA_EVENT_SYSCALL) {
        fault = x;
        return -3000;
    }
    return x.word[0] ? -EPROTO : (long)x.word[1];
}

#define order_hand(...)                                                        \
    hand_order((uint64_t[CHIMERA_WORDS]){ __VA_ARGS__ })
#define u(p) ((uint64_t)(uintptr_t)(p))

static void *map_at(volatile void *at, size_t pages, int prot, int flags, int fd)
{
    void *p = mmap((void *)at, pages * PAGE, prot, flags | MAP_FIXED, fd, 0);

    if (p == MAP_FAILED) {
        die("cannot map at %p: %s", (void *)at, strerror(errno));
    }
    return p;
}

static void *anon_at(volatile void *at, size_t pages)
{
    return map_at(at, pages, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

static void expect_fault(uint64_t op, volatile uint64_t *at, int sig, int code,
                         int line)
{
    long got = order_hand(op, u(at), 1);

    check_at(line,
             got == SIGNALLED(sig) && (int)fault.word[1] == code &&
                 fault.word[2] == u(at),
             "%s at %p: result %ld, code %d, address %#llx; wanted signal %d, "
             "code %d",
             op == HAND_PEEK ? "read" : "write", (void *)at, got,
             (int)fault.word[1], (unsigned long long)fault.word[2], sig, code);
}
#define refuse(op, at, sig, code) expect_fault(op, at, sig, code, __LINE__)

static long start(uint64_t uid, uint64_t bad)
{
    return there(DO_STUB, .a = ident.id, .b = ident.secret, .c = uid, .d = bad);
}

static void begin(void)
{
    home = sys(ioctl(dev, CHIMERA_IOC_FUSE, &ident));
    check(home >= 0, "FUSE: %d", home);
    check_is(start(0, 0), 0, "JOIN");
    check_is(attach(), 0, "ATTACH");
}

/* Close the home: its stub is killed. */
static void finish(void)
{
    close(home);
    check_is(there(DO_STUB_END, .a = 0), SIGKILL, "the stub after its home");
}

/* The same pages, in both directions. */
static void test_memory(void)
{
    volatile uint64_t *at = anon_at(AT(0), 64);

    fill(at, 64 * PAGE, 1);
    check_is(order_hand(HAND_VERIFY, u(at), 64 * PAGE, 1), 0, "differ there");
    check_is(order_hand(HAND_FILL, u(at), 64 * PAGE, 2), 0, "fill there");
    check_is(verify(at, 64 * PAGE, 2), 0, "words that differ here");
    for (int i = 0; i < 200; i++) {
        at[i] = i;
        if (order_hand(HAND_PEEK, u(&at[i])) != i ||
            order_hand(HAND_POKE, u(&at[i]), i + 1) ||
            at[i] != (uint64_t)i + 1) {
            check(false, "round %d", i);
            return;
        }
    }

    /* memory that only the other one touches first */
    anon_at(AT(64), 64);
    check_is(order_hand(HAND_PEEK, u(AT(64))), 0, "fresh memory");
    check_is(order_hand(HAND_FILL, u(AT(64)), 64 * PAGE, 3), 0, "fill there");
    check_is(verify(AT(64), 64 * PAGE, 3), 0, "words that differ here");

    /* the zero page: read there, written here, and the other way round */
    anon_at(AT(128), 2);
    check_is(order_hand(HAND_PEEK, u(AT(128))), 0, "zero page");
    check(*AT(129) == 0, "zero page here");
    *AT(128) = 5;
    check_is(order_hand(HAND_PEEK, u(AT(128))), 5, "after the zero page");
    check_is(order_hand(HAND_PEEK, u(AT(129))), 0, "zero page");
    check_is(order_hand(HAND_POKE, u(AT(129)), 6), 0, "poke on zero page");
    check_is(*AT(129), 6, "after poke on zero page");

    /* huge pages */
    at = (volatile uint64_t *)(BASE + (64ul << 20));
    anon_at(at, 1024);
    madvise((void *)at, 1024 * PAGE, MADV_HUGEPAGE);
    fill(at, 1024 * PAGE, 4);
    check_is(order_hand(HAND_VERIFY, u(at), 1024 * PAGE, 4), 0, "huge, there");
    check_is(order_hand(HAND_FILL, u(at), 1024 * PAGE, 5), 0, "huge, fill");
    check_is(verify(at, 1024 * PAGE, 5), 0, "huge, here");
    munmap((void *)(u(at) + PAGE), PAGE);
    refuse(HAND_PEEK, at + PAGE / 8, SIGSEGV, SEGV_MAPERR);
    check_is(order_hand(HAND_PEEK, u(at + 2 * PAGE / 8)), at[2 * PAGE / 8],
             "beside a hole");
    munmap((void *)at, 1024 * PAGE);

    /* a stack grows */
    map_at(AT(1000), 4, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN, -1);
    check_is(order_hand(HAND_POKE, u(AT(990)), 7), 0, "below a stack");
    check_is(*AT(990), 7, "below a stack");
    munmap((void *)AT(0), 1024 * PAGE);
}

struct adder {
    pthread_t thread;
    bool remote;
    volatile uint64_t *at;
    uint64_t times;
    long result;
};

static void *adder_main(void *arg)
{
    struct adder *a = arg;

    if (!a->remote) {
        for (uint64_t i = 0; i < a->times; i++) {
            __atomic_fetch_add(a->at, 1, __ATOMIC_SEQ_CST);
        }
        return NULL;
    }
    a->result = attach();
    if (!a->result) {
        a->result = order_hand(HAND_ADD, u(a->at), a->times);
    }
    return NULL;
}

/* Two threads here and two there on one word. */
static void test_atomics(void)
{
    struct adder a[4];
    volatile uint64_t *at = anon_at(AT(0), 1);

    for (int i = 0; i < 4; i++) {
        a[i] = (struct adder){ .remote = i & 1, .at = at, .times = 100000 };
        pthread_create(&a[i].thread, NULL, adder_main, &a[i]);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(a[i].thread, NULL);
        check_is(a[i].result, 0, "thread %d", i);
    }
    check_is(*at, 400000, "sum");
}

/* After fork() memory is shared until somebody writes: he gets a copy. */
static void test_fork(void)
{
    volatile uint64_t *at = anon_at(AT(0), 2);
    int status, fds[2], back[2];
    char byte = 0;
    pid_t pid;

    at[0] = 1;
    check_is(order_hand(HAND_POKE, u(&at[1]), 1), 0, "poke");
    if (pipe(fds) || pipe(back)) {
        die("pipe: %s", strerror(errno));
    }
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        struct chimera_exchange x = { .node = peer };
        bool same;

        close(fds[1]);
        if (read(fds[0], &byte, 1) != 1) {
            _exit(1);
        }
        same = at[0] == 1 && at[1] == 1;
        at[2] = 9;
        if (write(back[1], &byte, 1) != 1) {
            _exit(2);
        }
        if (sys(ioctl(home, CHIMERA_IOC_WAIT, &x)) != -EPERM) {
            _exit(3);
        }
        _exit(same ? 0 : 4);
    }
    check_is(order_hand(HAND_PEEK, u(&at[1])), 1, "peek after fork");
    check_is(order_hand(HAND_POKE, u(&at[1]), 2), 0, "poke after fork");
    check_is(at[1], 2, "poke after fork");
    at[0] = 3;
    check_is(order_hand(HAND_PEEK, u(&at[0])), 3, "write here after fork");
    check(write(fds[1], &byte, 1) == 1 && read(back[0], &byte, 1) == 1,
          "the child is silent");
    check_is(order_hand(HAND_PEEK, u(&at[2])), 0, "the child's write");
    waitpid(pid, &status, 0);
    check_is(status, 0, "the child's view");
    check_is(order_hand(HAND_POKE, u(&at[0]), 4), 0, "poke after its end");
    check_is(at[0], 4, "poke after its end");
    close(fds[0]);
    close(fds[1]);
    close(back[0]);
    close(back[1]);
}

static void test_files(void)
{
    int fd = memfd_create("fused", MFD_CLOEXEC);
    volatile uint64_t *shared = AT(0), *private = AT(16);
    uint64_t value = 0;

    check_is(sys(ftruncate(fd, 8 * PAGE)), 0, "ftruncate");
    map_at(shared, 8, RW, MAP_SHARED, fd);
    map_at(private, 8, RW, MAP_PRIVATE, fd);
    check_is(order_hand(HAND_FILL, u(shared), 8 * PAGE, 6), 0, "fill a file");
    check_is(verify(private, 8 * PAGE, 6), 0, "file through another mapping");
    check_is(pread(fd, &value, 8, 8), 8, "pread");
    check_is(value, pattern(6, 1), "pread");
    value = 77;
    check_is(pwrite(fd, &value, 8, 8), 8, "pwrite");
    check_is(order_hand(HAND_PEEK, u(&shared[1])), 77, "pwrite seen there");
    check_is(order_hand(HAND_PEEK, u(&private[1])), 77, "pwrite, private");
    check_is(order_hand(HAND_POKE, u(&private[1]), 78), 0, "poke private");
    check_is(shared[1], 77, "poke of a private mapping in the file");
    check_is(private[1], 78, "poke private");
    check_is(sys(ftruncate(fd, 4 * PAGE)), 0, "truncate");
    refuse(HAND_PEEK, shared + 5 * PAGE / 8, SIGBUS, BUS_ADRERR);
    refuse(HAND_POKE, shared + 5 * PAGE / 8, SIGBUS, BUS_ADRERR);
    check_is(sys(ftruncate(fd, 8 * PAGE)), 0, "extend");
    check_is(order_hand(HAND_PEEK, u(shared + 5 * PAGE / 8)), 0, "extended");
    check_is(sys(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                           PAGE)),
             0, "punch a hole");
    check_is(order_hand(HAND_PEEK, u(&shared[1])), 0, "in a hole");
    munmap((void *)shared, 8 * PAGE);
    map_at(shared, 8, R, MAP_SHARED, fd);
    refuse(HAND_POKE, shared, SIGSEGV, SEGV_ACCERR);
    munmap((void *)AT(0), 32 * PAGE);
    close(fd);
}

/* Every change of the address space here is seen there at once. */
static void test_changes(void)
{
    volatile uint64_t *at = AT(0), *to = AT(4096);
    long wrong = 0;

    refuse(HAND_PEEK, at, SIGSEGV, SEGV_MAPERR);
    for (uint64_t i = 1; i <= 60; i++) {
        anon_at(at, 4);
        at[0] = i;
        wrong += order_hand(HAND_PEEK, u(at)) != (long)i;
        wrong += order_hand(HAND_POKE, u(&at[1]), i) != 0;
        wrong += at[1] != i;

        mprotect((void *)at, PAGE, R);
        wrong += order_hand(HAND_POKE, u(at), 1) != SIGNALLED(SIGSEGV);
        wrong += order_hand(HAND_PEEK, u(at)) != (long)i;
        mprotect((void *)at, PAGE, PROT_NONE);
        wrong += order_hand(HAND_PEEK, u(at)) != SIGNALLED(SIGSEGV);
        mprotect((void *)at, PAGE, RW);
        wrong += order_hand(HAND_POKE, u(at), i + 1) != 0;
        wrong += at[0] != i + 1;

        madvise((void *)at, PAGE, MADV_DONTNEED);
        wrong += order_hand(HAND_PEEK, u(at)) != 0;
        wrong += order_hand(HAND_POKE, u(at), i) != 0;

        if (mremap((void *)at, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
                   (void *)to) != (void *)to) {
            die("mremap: %s", strerror(errno));
        }
        wrong += order_hand(HAND_PEEK, u(at)) != SIGNALLED(SIGSEGV);
        wrong += order_hand(HAND_PEEK, u(to)) != (long)i;
        wrong += order_hand(HAND_POKE, u(to), i + 5) != 0;
        wrong += *to != i + 5;
        munmap((void *)to, PAGE);
        wrong += order_hand(HAND_PEEK, u(to)) != SIGNALLED(SIGSEGV);
        munmap((void *)at, 4 * PAGE);
        if (wrong) {
            break;
        }
    }
    check_is(wrong, 0, "wrong results");
    anon_at(at, 1);
    mprotect((void *)at, PAGE, R);
    refuse(HAND_POKE, at, SIGSEGV, SEGV_ACCERR);
    mprotect((void *)at, PAGE, PROT_NONE);
    refuse(HAND_PEEK, at + 3, SIGSEGV, SEGV_ACCERR);
    munmap((void *)at, PAGE);
    refuse(HAND_PEEK, at + 3, SIGSEGV, SEGV_MAPERR);
}

static void *rising_main(void *arg)
{
    struct adder *a = arg;

    a->result = attach();
    if (!a->result) {
        a->result = order_hand(a->remote ? HAND_COUNT : HAND_RISING, u(a->at),
                               u(AT(100)));
    }
    return NULL;
}

/* Changes while hands read and write the very pages. */
static void test_stress(void)
{
    struct adder a[3] = { { .at = AT(1) },
                          { .at = AT(2), .remote = true },
                          { .at = AT(513), .remote = true } };
    int64_t until = now_ns() + 2 * SECOND;
    long forks = 0;

    anon_at(AT(0), 1024);
    madvise((void *)AT(0), 1024 * PAGE, MADV_HUGEPAGE);
    for (int i = 0; i < 3; i++) {
        pthread_create(&a[i].thread, NULL, rising_main, &a[i]);
    }
    while (now_ns() < until || forks < 12) {
        pid_t pid;

        for (int i = 0; i < 50; i++) {
            __atomic_fetch_add(a[0].at, 1, __ATOMIC_SEQ_CST);
        }
        pid = fork();
        if (pid == 0) {
            _exit(0);
        }
        __atomic_fetch_add(a[0].at, 1, __ATOMIC_SEQ_CST);
        waitpid(pid, NULL, 0);
        forks++;
        mprotect((void *)AT(1), PAGE, R);
        mprotect((void *)AT(1), PAGE, RW);
        madvise((void *)AT(4), 400 * PAGE, MADV_DONTNEED);
        *AT(5 + forks % 300) = forks;
        madvise((void *)AT(1), 2 * PAGE, forks % 2 ? MADV_PAGEOUT : MADV_COLD);
    }
    *AT(100) = 1;
    for (int i = 0; i < 3; i++) {
        pthread_join(a[i].thread, NULL);
    }
    check_is(a[0].result, 0, "values that fell");
    check(a[1].result > 0, "hand counted %ld", a[1].result);
    check_is(*AT(2), a[1].result, "counted");
    check_is(*AT(513), a[2].result, "counted");
    munmap((void *)AT(0), 1024 * PAGE);
}

/* System calls of text that is not the stub's come home. */
static void test_syscalls(void)
{
    bool there_is_arm = !strcmp(slurp(SYSFS "/node%d/arch", peer), "aarch64");

    for (int i = 0; i < 100; i++) {
        long nr = 1000 + i, want = i % 2 ? i : -i;
        struct chimera_exchange x = { .word = { want } };

        check_is(order_hand(HAND_CALL, nr, 11, 22, 33, 44, 55), -3000,
                 "a call comes home");
        if (fault.word[0] != (uint64_t)nr || fault.word[1] != 11 ||
            fault.word[2] != 22 || fault.word[5] != 55 ||
            fault.word[7] != (there_is_arm ? 183 : 62)) {
            check(false, "call %llu(%llu, %llu) of machine %llu",
                  (unsigned long long)fault.word[0],
                  (unsigned long long)fault.word[1],
                  (unsigned long long)fault.word[2],
                  (unsigned long long)fault.word[7]);
            return;
        }
        check_is(exchange(&x, CHIMERA_IOC_EXCHANGE), 0, "answer");
        check(x.event == CHIMERA_EVENT_MESSAGE && !x.word[0] &&
                  (long)x.word[1] == want,
              "result %lld, not %ld", (long long)x.word[1], want);
    }
    /* done there: sched_yield, getcpu; refused there: rseq */
    check_is(order_hand(HAND_CALL, there_is_arm ? 124 : 24), 0, "sched_yield");
    check_is(order_hand(HAND_CALL, there_is_arm ? 168 : 309, 0, 0, 0), 0,
             "getcpu");
    check_is(order_hand(HAND_CALL, there_is_arm ? 293 : 334), -ENOSYS, "rseq");
    /* the stub's own are its own */
    check(order_hand(HAND_OWN, there_is_arm ? 172 : 39) > 0, "stub's getpid");
}

/* ---- signals ---- */

static volatile uint64_t *sig_count; /* what the remote end counts */
static volatile sig_atomic_t sig_moved, sig_seen, sig_exchange;

static void on_signal(int sig)
{
    struct chimera_exchange x = { 0 };
    uint64_t before = *sig_count;
    int64_t until = now_ns() + SECOND / 200;

    (void)sig;
    while (now_ns() < until) {
    }
    sig_moved += *sig_count != before;
    sig_exchange = exchange(&x, CHIMERA_IOC_EXCHANGE);
    sig_seen++;
}

static void on_leave(int sig)
{
    (void)sig;
    pthread_exit(NULL);
}

/* Lines of our process in the list of threads, and how many run at @at. */
static int listed(unsigned at, int *ret_there)
{
    const char *line = slurp("/proc/chimera/tasks");
    unsigned node, where;
    int pid, tid, n = 0;

    *ret_there = 0;
    while ((line = strchr(line, '\n'))) {
        line++;
        if (sscanf(line, "%u %d %d %u", &node, &pid, &tid, &where) == 4 &&
            node == self_node() && pid == getpid()) {
            n++;
            *ret_there += where == at;
        }
    }
    return n;
}

/* No handler runs here while its thread runs there; nobody sees EINTR. */
static void test_signals(void)
{
    struct sigaction sa = { .sa_handler = on_signal };
    struct adder a = { .at = AT(0), .remote = true };
    int64_t until;
    uint64_t last;
    int running;

    anon_at(AT(0), 101);
    sig_count = AT(0);
    sigaction(SIGUSR1, &sa, NULL);
    pthread_create(&a.thread, NULL, rising_main, &a);
    for (int i = 0; i < 20; i++) {
        last = *sig_count;
        until = now_ns() + patience(10);
        while (*sig_count == last && now_ns() < until) {
            sched_yield();
        }
        check(*sig_count != last, "it stands still after %d signals", i);
        pthread_kill(a.thread, SIGUSR1);
        while (sig_seen <= i && now_ns() < until) {
            sched_yield();
        }
        check_is(sig_seen, i + 1, "handled");
    }
    check_is(listed(peer, &running), 2, "threads in the list");
    check_is(running, 1, "threads there in the list");
    check_is(sig_moved, 0, "handlers that saw it run");
    check_is(sig_exchange, -EBUSY, "EXCHANGE from a handler");
    *AT(100) = 1;
    pthread_join(a.thread, NULL);
    check(a.result > 0 && *AT(0) == (uint64_t)a.result,
          "counted %ld, is %llu", a.result, (unsigned long long)*AT(0));
}

static void *off_main(void *arg)
{
    if (!attach()) {
        order_hand(HAND_STAY, u(AT(0)));
        order_hand(arg ? HAND_LATE : HAND_OFF, u(&AT(0)[8]));
    }
    return NULL;
}

static void wait_word(volatile uint64_t *at, uint64_t value)
{
    int64_t until = now_ns() + patience(10);

    while (*at != value && now_ns() < until) {
        sched_yield();
    }
    check_is(*at, value, "word %ld", (long)(at - AT(0)));
}

/* A thread that ends here ends there, wherever it is. */
static void test_thread_end(void)
{
    struct sigaction sa = { .sa_handler = on_leave };
    pthread_t thread[4];
    long before = there(DO_THREADS, .a = -1);

    sigaction(SIGUSR2, &sa, NULL);
    anon_at(AT(0), 2);
    for (int i = 0; i < 4; i++) {
        pthread_create(&thread[i], NULL, off_main, i & 1 ? thread : NULL);
    }
    wait_word(AT(0), 4);
    check_is(there(DO_THREADS, .a = before + 4), before + 4, "threads there");
    for (int i = 0; i < 4; i++) {
        pthread_kill(thread[i], SIGUSR2);
        pthread_join(thread[i], NULL);
    }
    /* two of them may still be in the stub's text, and leave it now */
    AT(0)[8] = 1;
    check_is(there(DO_THREADS, .a = before), before, "threads there afterwards");
}

/* ---- ends ---- */

/* In a process of its own: a home of its own. */
static pid_t in_child(void (*run)(void))
{
    pid_t pid;

    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        passed = failed = 0;
        run();
        if (failed) {
            fflush(stdout);
        }
        _exit(failed ? 1 : 0);
    }
    return pid;
}

static void check_child(pid_t pid, int want, const char *what)
{
    int status = -1;

    waitpid(pid, &status, 0);
    check_is(status, want, "%s", what);
}

static void refusals(void)
{
    int fd = open("/dev/chimera", O_RDWR | O_CLOEXEC);
    struct chimera_fuse fuse = { .flags = 1 };
    struct chimera_attach to = { .node = self_node() };
    struct chimera_exchange x = { .node = peer };
    struct chimera_join join = { .home = peer, .id = 1 };

    check_is(sys(ioctl(fd, CHIMERA_IOC_FUSE, &fuse)), -EINVAL, "flags");
    home = sys(ioctl(fd, CHIMERA_IOC_FUSE, &ident));
    check(home >= 0, "FUSE: %d", home);
    fuse.flags = 0;
    check_is(sys(ioctl(fd, CHIMERA_IOC_FUSE, &fuse)), -EBUSY, "FUSE again");
    check_is(sys(ioctl(fd, CHIMERA_IOC_JOIN, &join)), -EPERM, "JOIN of a home");
    check_is(attach(), -ENOTCONN, "ATTACH without a stub");
    check_is(sys(ioctl(home, CHIMERA_IOC_ATTACH, &to)), -EINVAL, "to itself");
    to.node = 60;
    check_is(sys(ioctl(home, CHIMERA_IOC_ATTACH, &to)), -EINVAL, "nowhere");
    check_is(exchange(&x, CHIMERA_IOC_EXCHANGE), -ENOTCONN, "no channel");
    ident.secret ^= 1;
    check_is(start(0, 0), -EACCES, "JOIN with a wrong secret");
    ident.secret ^= 1;
    check_is(start(1000, 0), -EACCES, "JOIN of another user");
    ident.id += 1000;
    check_is(start(0, 0), -ESRCH, "JOIN to nothing");
    ident.id -= 1000;
    check_is(start(0, 1), 0, "JOIN, and what a stub may not");
    check_is(start(0, 0), -EALREADY, "a second stub");
    check_is(attach(), 0, "ATTACH");
    check_is(attach(), -EEXIST, "ATTACH again");
    check_is(exchange(&x, CHIMERA_IOC_WAIT), -EINVAL, "WAIT before words");
    x.reserved = 1;
    check_is(exchange(&x, CHIMERA_IOC_EXCHANGE), -EINVAL, "reserved");
    check_is(sys(ioctl(home, CHIMERA_IOC_ACCEPT, &x)), -ENOTTY, "stub's ioctl");
    anon_at(AT(0), 1);
    check_is(order_hand(HAND_POKE, u(AT(0)), 3), 0, "works after all that");
    finish();
}

static void losses(void)
{
    struct chimera_exchange x = { 0 };

    begin();
    anon_at(AT(0), 200);
    check_is(order_hand(HAND_FILL, u(AT(0)), 200 * PAGE, 1), 0, "fill");
    check_is(order_hand(HAND_EXIT), -2000 - CHIMERA_LOST_THREAD, "it ends");
    check_is(exchange(&x, CHIMERA_IOC_EXCHANGE), -ENOTCONN, "after that");
    for (int i = 0; i < 600; i++) {
        if (attach() || order_hand(HAND_EXIT) != -2000 - CHIMERA_LOST_THREAD) {
            check(false, "channel %d", i);
            break;
        }
    }
    check_is(attach(), 0, "ATTACH again");
    check_is(order_hand(HAND_POKE, u(AT(0)), 2), 0, "poke");
    check_is(there(DO_STUB_END, .a = SIGKILL), SIGKILL, "kill the stub");
    check_is(order_hand(HAND_POKE, u(AT(0)), 3), -2000 - CHIMERA_LOST_STUB,
             "without a stub");
    check_is(AT(0)[0], 2, "memory after the stub");
    check_is(attach(), -ENOTCONN, "ATTACH without a stub");
    munmap((void *)AT(100), 100 * PAGE);
    check_is(start(0, 0), 0, "another stub");
    check_is(attach(), 0, "ATTACH to it");
    check_is(order_hand(HAND_PEEK, u(AT(0))), 2, "peek");
    check_is(order_hand(HAND_POKE, u(AT(0)), 4), 0, "poke");
    check_is(AT(0)[0], 4, "poke");
    finish();
}

/* A JOIN that comes after the word that its stub has left is nothing. */
static void hasty(void)
{
    home = sys(ioctl(dev, CHIMERA_IOC_FUSE, &ident));
    check(home >= 0, "FUSE: %d", home);
    for (int i = 0; i < 40 && !failed; i++) {
        check_is(there(DO_HASTE, .a = ident.id, .b = ident.secret), 0,
                 "a stub that is killed as it joins");
        check_is(attach(), -ENOTCONN, "ATTACH to stub %d, which is gone", i);
    }
    if (!failed) {
        check_is(start(0, 0), 0, "JOIN after that");
        check_is(attach(), 0, "ATTACH after that");
        anon_at(AT(0), 1);
        check_is(order_hand(HAND_POKE, u(AT(0)), 5), 0, "poke");
        check_is(AT(0)[0], 5, "poke");
        finish();
    }
}

static uint64_t rnd(void)
{
    static uint64_t seed = 88172645463325252ull;

    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

/* Right in many ways, and wrong in some. */
static unsigned lie_make(struct lie *l, size_t *len)
{
    static const uint8_t body[FUSED_TYPES] = { 32, 24, 8,  80, 80, 104, 32, 16,
                                               16, 16, 16, 16, 40, 32,  16, 40 };
    unsigned cls;

    memset(l, 0, sizeof(*l));
    l->service = FUSED_SERVICE;
    l->type = rnd() % (FUSED_TYPES + 1);
    l->cookie = l->type ? 0 : rnd() % 4;
    l->id = rnd() % 8 ? ident.id : rnd();
    l->channel = rnd() % 2 ? rnd() % 4 : rnd();
    l->arg = rnd() % 2 ? rnd() % 6 : rnd();
    for (int i = 0; i < 11; i++) {
        l->word[i] = rnd() % 2 ? rnd() : BASE + rnd() % 100 * PAGE;
    }
    *len = offsetof(struct lie, id) +
           (rnd() % 4 && l->type < FUSED_TYPES ? body[l->type]
                                               : rnd() % 104);
    cls = l->type == 12 || l->type == 13 ? VIRTIO_FABRIC_CLASS_REPLY
          : l->type == 14                ? VIRTIO_FABRIC_CLASS_ACK
                                         : VIRTIO_FABRIC_CLASS_REQUEST;
    return rnd() % 16 ? cls : rnd() % 4;
}

/* To the stub's kernel from home's, and the other way round. */
static void liar(void)
{
    struct order_msg m = { .op = DO_LIE };
    struct lie l;
    size_t len;
    unsigned cls;
    long err = 0;

    begin();
    anon_at(AT(0), 100);
    check_is(order_hand(HAND_FILL, u(AT(0)), 90 * PAGE, 1), 0, "fill");
    for (int i = 0; i < 3000 && !err; i++) {
        cls = lie_make(&l, &len);
        if (i % 2) {
            err = lie_send(&l, len, cls);
        } else {
            memcpy(m.name, &l, sizeof(l));
            m.a = cls;
            m.b = len;
            err = order_ret(m);
        }
    }
    if (err == -ENOENT) {
        printf("skipped: no " INJECT "\n");
    } else {
        check_is(err, 0, "a message");
    }
    /* who was killed or lost by that is open; that all of it ends is not */
    munmap((void *)AT(0), 100 * PAGE);
    check_is(there(DO_STUB_END, .a = SIGKILL), SIGKILL, "the stub");
    close(home);
}

static volatile uint64_t *meeting; /* shared with a child */

static void *meet_main(void *arg)
{
    (void)arg;
    if (!attach()) {
        order_hand(HAND_STAY, u(meeting));
        order_hand(HAND_OFF);
    }
    return NULL;
}

static void off_in_child(void)
{
    pthread_t thread;

    begin();
    for (int i = 0; i < 3; i++) {
        pthread_create(&thread, NULL, meet_main, NULL);
    }
    wait_word(meeting, 3);
}

static void killed(void)
{
    off_in_child();
    meeting[1] = 1;
    for (;;) {
        pause();
    }
}

static void executes(void)
{
    off_in_child();
    execl("/bin/true", "true", NULL);
    execl("/bin/busybox", "true", NULL);
}

static void exits(void)
{
    off_in_child();
    _exit(7);
}

static void test_ends(void)
{
    pid_t pid;

    check_child(in_child(refusals), 0, "refusals");
    check_child(in_child(losses), 0, "losses");
    check_child(in_child(hasty), 0, "stubs in haste");
    check_child(in_child(liar), 0, "kernels that lie");
    check_child(in_child(losses), 0, "losses after that");

    meeting = map_at(AT(0), 1, RW, MAP_SHARED | MAP_ANONYMOUS, -1);
    pid = in_child(killed);
    wait_word(&meeting[1], 1);
    kill(pid, SIGKILL);
    check_child(pid, SIGKILL, "a home that is killed");
    check_is(there(DO_STUB_END, .a = 0), SIGKILL, "its stub");
    meeting[0] = 0;
    check_child(in_child(executes), 0, "a home that executes");
    check_is(there(DO_STUB_END, .a = 0), SIGKILL, "its stub");
    meeting[0] = 0;
    check_child(in_child(exits), 7 << 8, "a home that exits");
    check_is(there(DO_STUB_END, .a = 0), SIGKILL, "its stub");
    munmap((void *)meeting, PAGE);
}

/* ---- figures ---- */

static int by_value(const void *a, const void *b)
{
    const int64_t *x = a, *y = b;

    return *x < *y ? -1 : *x > *y;
}

/* Median of an exchange, of first touches alone and in sequence. */
static void figures(void)
{
    enum { N = 1000 };
    static int64_t t[N];
    int64_t begun;

    begin();
    anon_at(AT(0), 1);
    for (int i = 0; i < N; i++) {
        begun = now_ns();
        order_hand(HAND_PEEK, u(AT(0)));
        t[i] = now_ns() - begun;
    }
    qsort(t, N, sizeof(t[0]), by_value);
    printf("exchange, there and back: median %.1f us\n", t[N / 2] / 1e3);
    /* one page in 64: nothing comes along */
    anon_at(AT(0), 64 * N);
    for (int i = 0; i < N; i++) {
        *AT(64 * i) = i;
    }
    begun = now_ns();
    for (int i = 0; i < N; i++) {
        int64_t at = now_ns();

        order_hand(HAND_PEEK, u(AT(64 * i)));
        t[i] = now_ns() - at;
    }
    qsort(t, N, sizeof(t[0]), by_value);
    printf("exchange with a page fault: median %.1f us\n", t[N / 2] / 1e3);
    munmap((void *)AT(0), 64 * N * PAGE);
    anon_at(AT(0), 16 * N);
    fill(AT(0), 16 * N * PAGE, 1);
    begun = now_ns();
    order_hand(HAND_TOUCH, u(AT(0)), 16 * N);
    printf("first touch in sequence: %.2f us a page\n",
           (now_ns() - begun) / 1e3 / (16 * N));
    begun = now_ns();
    order_hand(HAND_TOUCH, u(AT(0)), 16 * N);
    printf("second touch: %.2f us a page\n", (now_ns() - begun) / 1e3 / (16 * N));
    begun = now_ns();
    mprotect((void *)AT(0), 16 * N * PAGE, R);
    printf("mprotect of it all: %.1f us\n", (now_ns() - begun) / 1e3);
    finish();
}

static void exit_well(void)
{
}

/* The follower's node is killed when we say so. */
static void lose(void)
{
    struct adder a[2] = { { .at = AT(0), .remote = true },
                          { .at = AT(1) } };
    int64_t begun;

    begin();
    anon_at(AT(0), 200);
    order_hand(HAND_FILL, u(AT(4)), 90 * PAGE, 1);
    for (int i = 0; i < 2; i++) {
        pthread_create(&a[i].thread, NULL, rising_main, &a[i]);
    }
    while (!*AT(0)) {
        sched_yield();
    }
    printf("kill node %d now\n", peer);
    fflush(stdout);
    for (int i = 0; i < 2; i++) {
        pthread_join(a[i].thread, NULL);
        check_is(a[i].result, -2000 - CHIMERA_LOST_NODE, "thread %d", i);
    }
    check_is(order_hand(HAND_PEEK, u(AT(0))), -2000 - CHIMERA_LOST_NODE,
             "the main thread");
    check_is(verify_lost(AT(4), 90 * PAGE, 1),
             strcmp(slurp(SYSFS "/coherence"), "shared") ? 90 : 0,
             "lost pages");
    begun = now_ns();
    check_child(in_child(exit_well), 0, "fork");
    mprotect((void *)AT(0), 100 * PAGE, R);
    munmap((void *)AT(0), 200 * PAGE);
    check(now_ns() - begun < 5 * SECOND, "letting go took %lld ms",
          (long long)((now_ns() - begun) / 1000000));
    check_is(attach(), -EHOSTDOWN, "ATTACH to a lost node");
    close(home);
}

/* ---- memory pressure ---- */

static volatile bool squeezed_enough;

static void put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd >= 0) {
        check(write(fd, text, strlen(text)) > 0, "%s: %s", path,
              strerror(errno));
        close(fd);
    }
}

static void *squeeze_main(void *arg)
{
    struct pollfd none = { .fd = -1 };

    (void)arg;
    while (!squeezed_enough) {
        if (squeeze()) {
            return "the squeezer died";
        }
        put("/proc/sys/vm/compact_memory", "1");
        /* so that the others get on as well */
        poll(&none, 1, 500);
    }
    return NULL;
}

static long swapped_out(void)
{
    const char *line = strstr(slurp("/proc/vmstat"), "pswpout ");

    return line ? atol(line + 8) : -1;
}

/* Pages are swapped out, merged and moved while both sides use them. */
static void pressed(int seconds)
{
    const size_t pages = 4096, bytes = pages * PAGE;
    int64_t until = now_ns() + seconds * SECOND;
    long before = swapped_out(), wrong = 0;
    uint64_t round = 0;
    pthread_t thread;
    void *died;

    begin();
    anon_at(AT(0), pages);
    anon_at(AT(pages), 48);
    madvise((void *)AT(pages), 48 * PAGE, MADV_MERGEABLE);
    put("/sys/kernel/mm/ksm/sleep_millisecs", "5");
    put("/sys/kernel/mm/ksm/run", "1");
    pthread_create(&thread, NULL, squeeze_main, NULL);
    while (now_ns() < until && !wrong) {
        round += 2;
        wrong += order_hand(HAND_FILL, u(AT(0)), bytes, round);
        wrong += verify(AT(0), bytes, round);
        fill(AT(0), bytes, round + 1);
        wrong += order_hand(HAND_VERIFY, u(AT(0)), bytes, round + 1);
        /* all alike: one page; then each its own again */
        for (int i = 0; i < 48; i++) {
            wrong += order_hand(HAND_FILL, u(AT(pages + i)), PAGE, round);
        }
        for (int i = 0; i < 48; i += 3) {
            wrong += order_hand(HAND_POKE, u(AT(pages + i)), round + i);
        }
        for (int i = 0; i < 48; i++) {
            wrong += *AT(pages + i) !=
                     (i % 3 ? pattern(round, 0) : round + (uint64_t)i);
            wrong += order_hand(HAND_PEEK, u(AT(pages + i) + 5)) !=
                     (long)pattern(round, 5);
        }
    }
    squeezed_enough = true;
    pthread_join(thread, &died);
    check(!died, "%s", died ? (char *)died : "");
    check_is(wrong, 0, "words that differ in round %ld", (long)round / 2);
    check(swapped_out() > before, "nothing was swapped");
    printf("%ld rounds, %ld pages swapped out\n", (long)round / 2,
           swapped_out() - before);
    finish();
}

int main(int argc, char **argv)
{
    if (argc == 2 &&
        (!strcmp(argv[1], "follow") || !strcmp(argv[1], "bury"))) {
        return fused_follow(argv[1][0] == 'b');
    }
    if (argc == 4 && !strcmp(argv[1], "press")) {
        lead(argv[2]);
        pressed(atoi(argv[3]));
        dismiss();
        return report();
    }
    if (argc != 3 ||
        (strcmp(argv[1], "lead") && strcmp(argv[1], "figures") &&
         strcmp(argv[1], "lose"))) {
        fprintf(stderr, "usage: %s follow | bury | lead NODE | figures NODE | "
                        "lose NODE | press NODE SECONDS\n",
                argv[0]);
        return 2;
    }
    lead(argv[2]);
    if (!strcmp(argv[1], "figures")) {
        figures();
        dismiss();
        return report();
    }
    if (!strcmp(argv[1], "lose")) {
        lose();
        return report();
    }
    begin();
    test_memory();
    test_atomics();
    test_fork();
    test_files();
    test_changes();
    test_syscalls();
    test_signals();
    test_thread_end();
    test_stress();
    finish();
    test_ends();
    dismiss();
    return report();
}
