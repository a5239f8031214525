/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Kernel transport, a peer's side: this process lends its CPUs and its kernel to
 * a process of another node, whose memory it sees as its own.
 *
 * Address space:
 *
 *   private part of the image (text, unwind tables, the library's data)   ours
 *   common text and read-only data                                        ours
 *   everything else up to MIRROR_END                                      home's
 *   from MIRROR_END: the stack of the main thread, and a slot for each thread
 *   that serves one of home: | guard | signal stack | stack |             ours
 *
 * Only threads that serve may touch home's memory, and only while home's thread
 * waits for them: it resolves their page faults.
 */

#include "kernel.h"

#define NR_WRITE            1
#define NR_MMAP             9
#define NR_RT_SIGACTION     13
#define NR_IOCTL            16
#define NR_EXIT             60
#define NR_SIGALTSTACK      131
#define NR_EXIT_GROUP       231
#define NR_SET_TID_ADDRESS  218
#define NR_OPENAT           257

#define AT_FDCWD        -100
#define O_RDWR          2
#define O_CLOEXEC       02000000
#define MAP_SHARED_FIXED 0x4011         /* with MAP_NORESERVE */
#define MAP_OWN         0x104022        /* PRIVATE|ANONYMOUS|NORESERVE and
                                           FIXED_NOREPLACE */
#define PROT_RW         3
#define SA_SIGINFO      4
#define SA_RESTORER     0x04000000
#define SA_ONSTACK      0x08000000
#define SA_NODEFER      0x40000000
#define SIGILL          4
#define SIGTRAP         5
#define SIGBUS          7
#define SIGFPE          8
#define SIGSEGV         11
#define EPIPE           32

#define PAGE            4096ul
#define SIGNAL_STACK    (32ul << 10)
#define SLOT_BYTES      (64ul << 10)
#define OWN_END         0x7ffffff00000ul        /* on both ISAs */

/* From the linker script: what follows the library's text is the program's. */
extern char __chimera_library_end[], __chimera_data_start[];

/*
 * At the top of its slot, above the stack. The kernel clears @busy when the thread
 * has ended, however it did, and uses the stack no more.
 */
struct slot {
    struct slot *next;
    uint32_t busy;
    struct thread *t;
    uint32_t channel;
    struct message resumed;     /* home's words for a thread in an exchange */
};

static int stub_fd;
static struct slot *slots;      /* all; only the main thread takes one */
static uint64_t next_slot = MIRROR_END;
static struct chimera_join join;

static _Noreturn void fail(const char *what, long error)
{
    char text[160];

    chimera_put_number(chimera_put_text(chimera_put_text(text, what),
                                        ": error "), -error);
    chimera_die(text);
}

/* A slot's memory, above all that is home's. */
static uint64_t make_slot(void)
{
    while (next_slot < OWN_END) {
        uint64_t at = next_slot;
        long p = sys(NR_MMAP, at + PAGE, SLOT_BYTES - PAGE, PROT_RW, MAP_OWN,
                     -1, 0);

        next_slot += SLOT_BYTES;
        if (p == (long)(at + PAGE)) {
            return at;
        }
        if (p > 0 || p < -4095) {
            fail("the kernel put a stack elsewhere", 0);
        }
    }
    return 0;
}

static uint64_t slot_base(const struct slot *s)
{
    return (uint64_t)s & ~(SLOT_BYTES - 1);
}

/* --- serving --------------------------------------------------------------------- */

/* Home's thread is gone; so is what its memory held. */
static _Noreturn void end_thread(void *unused)
{
    for (;;) {
        sys(NR_EXIT, 0, 0, 0, 0, 0, 0);
    }
}

static struct slot *slot_of(struct thread *t)
{
    return (struct slot *)t->side[chimera_node].server;
}

static _Noreturn void gone(struct slot *s)
{
    chimera_start_on((uint64_t)s & ~15ul, end_thread, NULL);
}

/* Home may be a child of fork when this returns, and we another process. */
static void stub_exchange(struct talk *talk)
{
    struct thread *t = talk->t;
    struct slot *s = slot_of(t);
    struct chimera_words w;
    uint64_t context[32];
    long r;

    if (talk->idle) {
        t->side[chimera_node].context = 0;
    } else if (setjmp(context)) {
        talk->m = slot_of(t)->resumed;
        return;
    } else {
        t->side[chimera_node].context = (uint64_t)context;
    }
    __builtin_memcpy(w.word, &talk->m, sizeof(w.word));
    r = sys(NR_IOCTL, stub_fd, CHIMERA_IOC_CALL, (long)&w, 0, 0, 0);
    if (r == -EPIPE) {
        gone(s);
    }
    if (r < 0) {
        fail("call of home", r);
    }
    __builtin_memcpy(&talk->m, w.word, sizeof(w.word));
}

static uint64_t stub_server_stack(struct thread *t)
{
    return t->side[chimera_node].server & ~15ul;
}

static const struct carrier carrier_stub = {
    .name = "kernel",
    .exchange = stub_exchange,
    .server_stack = stub_server_stack,
};

static void serve(void *arg)
{
    struct slot *s = arg;
    struct chimera_serve serve = { .channel = s->channel };
    struct {
        uint64_t base;
        int flags;
        uint64_t len;
    } signal_stack = { slot_base(s) + PAGE, 0, SIGNAL_STACK };
    struct thread *t = s->t;
    struct message m;
    long r;

    sys(NR_SET_TID_ADDRESS, (long)&s->busy, 0, 0, 0, 0, 0);
    sys(NR_SIGALTSTACK, (long)&signal_stack, 0, 0, 0, 0, 0);
    r = sys(NR_IOCTL, stub_fd, CHIMERA_IOC_SERVE, (long)&serve, 0, 0, 0);
    if (r == -EPIPE) {
        end_thread(s);
    }
    if (r < 0) {
        fail("cannot serve a thread", r);
    }
    /* From here on home's thread waits, so its memory can be used. */
    t->side[chimera_node].server = (uint64_t)s;
    chimera_affinity_arrived(t, true);
    __builtin_memcpy(&m, serve.word, sizeof(m));
    if (m.kind & MESSAGE_RESUMES) {
        m.kind &= ~MESSAGE_RESUMES;
        s->resumed = m;
        chimera_set_tp(t->tp);
        chimera_restore_jump(t->side[chimera_node].context, 1);
    }
    chimera_serve(t, &m);
}

/* --- faults of home's threads ------------------------------------------------------ */

/* Where in a signal's ucontext the pc stands */
#ifdef __x86_64__
#define UCONTEXT_PC 168
#else
#define UCONTEXT_PC 440
#endif

struct siginfo {
    int32_t signal, error, code, pad;
    uint64_t address;
};

static void on_fault(int sig, struct siginfo *info, void *ucontext)
{
    uint64_t here = (uint64_t)__builtin_frame_address(0);
    struct slot *s = (struct slot *)((here & ~(SLOT_BYTES - 1)) + SLOT_BYTES -
                                     sizeof(struct slot));
    struct chimera_faulted f = { .signal = sig, .code = info->code,
                                 .address = info->address,
                                 .pc = *(uint64_t *)((char *)ucontext +
                                                     UCONTEXT_PC) };
    struct thread *t;
    long r;

    r = sys(NR_IOCTL, stub_fd, CHIMERA_IOC_FAULTED, (long)&f, 0, 0, 0);
    if (r == -EPIPE) {
        gone(s);
    }
    if (r < 0) {
        char text[128], *p = text;

        p = chimera_put_number(chimera_put_text(p, "signal "), sig);
        p = chimera_put_hex(chimera_put_text(p, " outside of the program, at "),
                            f.pc);
        chimera_put_hex(chimera_put_text(p, ", address "), f.address);
        chimera_die(text);
    }
    t = s->t;
    if (t->jumped) {
        t->jumped = 0;
        chimera_jump_arrived(t);
    }
}

static void catch_faults(void)
{
    static const int signals[] = { SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV };
    struct {
        void (*handler)(int, struct siginfo *, void *);
        uint64_t flags;
        void (*restorer)(void);
        uint64_t mask;
    } action = {
        .handler = on_fault,
        .flags = SA_SIGINFO | SA_RESTORER | SA_ONSTACK | SA_NODEFER,
        .restorer = chimera_sigreturn,
    };

    for (unsigned i = 0; i < sizeof(signals) / sizeof(*signals); i++) {
        sys(NR_RT_SIGACTION, signals[i], (long)&action, 0, 8, 0, 0);
    }
}

/* --- the main thread ----------------------------------------------------------------- */

static void mirror(uint64_t start, uint64_t end)
{
    long r = sys(NR_MMAP, start, end - start, PROT_RW, MAP_SHARED_FIXED, stub_fd,
                 start);

    if (r != (long)start) {
        fail("cannot map the memory of home", r);
    }
}

/* One whose thread has ended, or a new one. NULL: no room. */
static struct slot *take_slot(void)
{
    struct slot *s = slots;
    uint64_t base;

    while (s && __atomic_load_n(&s->busy, __ATOMIC_ACQUIRE)) {
        s = s->next;
    }
    if (!s) {
        base = make_slot();
        if (!base) {
            return NULL;
        }
        s = (struct slot *)(base + SLOT_BYTES - sizeof(*s));
        s->next = slots;
        slots = s;
    }
    s->busy = 1;
    return s;
}

/* Runs above MIRROR_END, so everything below can go. */
static void stub_main(void *arg)
{
    struct chimera_native native = { IMAGE_PRIVATE_BASE,
                                     (uint64_t)__chimera_library_end };
    long r;

    mirror(MIRROR_START, IMAGE_PRIVATE_BASE);
    mirror((uint64_t)__chimera_data_start, MIRROR_END);
    r = sys(NR_IOCTL, stub_fd, CHIMERA_IOC_NATIVE, (long)&native, 0, 0, 0);
    if (r < 0) {
        fail("cannot tell own text from the program's", r);
    }
    catch_faults();
    /* Home waits for this. */
    sys(NR_WRITE, 1, (long)"ready\n", 6, 0, 0, 0);
    for (;;) {
        struct chimera_accept accept = { 0 };
        struct slot *s;
        int32_t tid;

        r = sys(NR_IOCTL, stub_fd, CHIMERA_IOC_ACCEPT, (long)&accept, 0, 0, 0);
        if (r == -EPIPE) {
            sys(NR_EXIT_GROUP, 0, 0, 0, 0, 0, 0);
        }
        if (r < 0) {
            fail("cannot accept a thread", r);
        }
        s = take_slot();
        if (!s) {
            fail("too many threads", 0);
        }
        s->t = (struct thread *)accept.arg;
        s->channel = accept.channel;
        r = chimera_spawn((void *)((uint64_t)s & ~15ul), serve, s, &tid);
        if (r < 0) {
            fail("cannot make a thread", r);
        }
    }
}

static void parse(const char *where)
{
    const char *end;

    join.home = chimera_number(where, &end);
    if (*end == ',') {
        join.id = chimera_hex(end + 1, &end);
        if (*end == ',') {
            join.secret = chimera_hex(end + 1, &end);
            if (!*end) {
                return;
            }
        }
    }
    chimera_die("CHIMERA_STUB is set by the library, not by hand");
}

/* chimera_kernel_peer() - be a peer of the process that @where names. */
_Noreturn void chimera_kernel_peer(const char *where)
{
    struct chimera_info info;
    uint64_t stack;
    long fd, r;

    parse(where);
    fd = sys(NR_OPENAT, AT_FDCWD, (long)"/dev/chimera", O_RDWR | O_CLOEXEC, 0, 0,
             0);
    r = fd < 0 ? fd : sys(NR_IOCTL, fd, CHIMERA_IOC_INFO, (long)&info, 0, 0, 0);
    if (r < 0) {
        fail("/dev/chimera", r);
    }
    chimera_mode = MODE_KERNEL_PEER;
    chimera_node = info.self;
    chimera_home = join.home;
    chimera_nr_nodes = info.nr_nodes;
    chimera_transport = &chimera_transport_channel;
    chimera_carrier = &carrier_stub;
    stub_fd = sys(NR_IOCTL, fd, CHIMERA_IOC_JOIN, (long)&join, 0, 0, 0);
    if (stub_fd < 0) {
        fail("cannot join its home", stub_fd);
    }
    stack = make_slot();
    if (!stack) {
        fail("no room for a stack", 0);
    }
    chimera_start_on(stack + SLOT_BYTES, stub_main, NULL);
}
