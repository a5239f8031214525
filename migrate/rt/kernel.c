/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Kernel transport, home's side: one process on a Chimera machine.
 *
 * The memory is home's own; the kernels let threads on other nodes see it
 * (docs/fused-user.md).  A node takes part from the first time that a thread
 * wants to go there: noded starts the program there, too, with CHIMERA_STUB in
 * its environment, which makes it a peer (stub.c).  It says so when it is ready.
 *
 * Signals stay open while a thread is away: the kernel parks the remote end
 * while a handler runs here.
 */

#include "kernel.h"

#define NR_OPENAT           257
#define NR_READ             0
#define NR_WRITE            1
#define NR_CLOSE            3
#define NR_MMAP             9
#define NR_MPROTECT         10
#define NR_RT_SIGACTION     13
#define NR_RT_SIGPROCMASK   14
#define NR_IOCTL            16
#define NR_GETPID           39
#define NR_FCNTL            72
#define NR_READLINKAT       267
#define NR_GETTID           186
#define NR_FUTEX            202
#define NR_EXIT_GROUP       231
#define NR_TGKILL           234
#define NR_RT_TGSIGQUEUEINFO 297
#define NR_PRLIMIT64        302

#define AT_FDCWD        -100
#define O_RDWR          2
#define O_CLOEXEC       02000000
#define F_DUPFD_CLOEXEC 1030
#define FUTEX_WAIT      128     /* private */
#define FUTEX_WAKE      129
#define RLIMIT_STACK    3
#define SIG_UNBLOCK     1
#define SIG_SETMASK     2
#define SIGBUS          7
#define EINVAL          22
#define ENOTTY          25

/* Descriptors of ours stay away from those that programs count on. */
#define FD_FROM 700
#define STACK_DEFAULT_BYTES (8ul << 20)
#define STACK_MAX_BYTES (256ul << 20)
#define START_TIMEOUT_MS 30000
#define LAST_WORDS_MS 1000

enum node_state { NODE_UNKNOWN, NODE_READY, NODE_OUT };

static struct {
    uint32_t state;             /* enum node_state, changed under the lock */
    struct peer_process process;
    char name[32];
} nodes[MAX_NODES];

static int home_fd = -1;
static uint64_t home_id, home_secret;
static uint32_t lock_word;      /* 0 free, 1 held, 2 held and waited for */
static const char *passed_on[3];        /* settings that peers get */

static void lock(void)
{
    uint32_t was = 0;

    if (__atomic_compare_exchange_n(&lock_word, &was, 1, false,
                                    __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
        return;
    }
    while (__atomic_exchange_n(&lock_word, 2, __ATOMIC_ACQUIRE)) {
        sys(NR_FUTEX, (long)&lock_word, FUTEX_WAIT, 2, 0, 0, 0);
    }
}

static void unlock(void)
{
    if (__atomic_exchange_n(&lock_word, 0, __ATOMIC_RELEASE) == 2) {
        sys(NR_FUTEX, (long)&lock_word, FUTEX_WAKE, 1, 0, 0, 0);
    }
}

void chimera_node_read(int node, const char *what, char *to, uint64_t size)
{
    static const char dir[] = "/sys/devices/system/chimera/node";
    char path[sizeof(dir) + 32];
    char *p = chimera_put_number(chimera_put_text(path, dir), node);
    long fd, n;

    chimera_put_text(chimera_put_text(p, "/"), what);
    fd = sys(NR_OPENAT, AT_FDCWD, (long)path, O_CLOEXEC, 0, 0, 0);
    n = fd < 0 ? -1 : sys(NR_READ, fd, (long)to, size - 1, 0, 0, 0);
    if (fd >= 0) {
        sys(NR_CLOSE, fd, 0, 0, 0, 0, 0);
    }
    to[n < 0 ? 0 : n] = '\0';
    for (; *to; to++) {
        if (*to == '\n') {
            *to = '\0';
            break;
        }
    }
}

const char *chimera_node_name(int node)
{
    char *name = nodes[node].name;

    if (!*name) {
        chimera_node_read(node, "name", name, sizeof(nodes[node].name));
    }
    if (!*name) {
        chimera_put_number(name, node);
    }
    return name;
}

static void complain(int node, const char *what, const char *why)
{
    char text[1024], *p;

    p = chimera_put_text(text, "chimera: node ");
    p = chimera_put_text(p, chimera_node_name(node));
    p = chimera_put_text(p, ": ");
    p = chimera_put_text(p, what);
    if (why && *why) {
        p = chimera_put_text(p, ": ");
        p = chimera_put_text(p, why);
    }
    p = chimera_put_text(p, "\n");
    sys(NR_WRITE, 2, (long)text, p - text, 0, 0, 0);
}

/* --- starting peers ----------------------------------------------------------- */

static const char *error_text(long error)
{
    static char text[32];

    switch (-error) {
    case 1: return "not permitted";
    case 11: return "too many threads there";
    case 12: return "out of memory";
    case 17: return "the thread is there already";
    case 107: return "its process there has not joined";
    case 110: return "no answer";
    case 112: return "the node is down";
    }
    chimera_put_number(chimera_put_text(text, "error "), -error);
    return text;
}

/* The program's own file, by a name that is good on all nodes. */
static const char *program_file(void)
{
    long n;

    if (!*chimera_file) {
        n = sys(NR_READLINKAT, AT_FDCWD, (long)"/proc/self/exe",
                (long)chimera_file, sizeof(chimera_file) - 1, 0, 0);
        chimera_file[n < 0 ? 0 : n] = '\0';
    }
    return chimera_file;
}

static bool fuse(int node)
{
    struct chimera_fuse fuse = { 0 };
    long fd, home;

    if (home_fd >= 0) {
        return true;
    }
    fd = sys(NR_OPENAT, AT_FDCWD, (long)"/dev/chimera", O_RDWR | O_CLOEXEC, 0,
             0, 0);
    home = fd < 0 ? fd : sys(NR_IOCTL, fd, CHIMERA_IOC_FUSE, (long)&fuse, 0, 0,
                             0);
    if (fd >= 0) {
        sys(NR_CLOSE, fd, 0, 0, 0, 0, 0);
    }
    if (home < 0) {
        complain(node, "cannot share this process with it",
                 home == -ENOTTY ? "the kernel here cannot" : error_text(home));
        return false;
    }
    home_fd = sys(NR_FCNTL, home, F_DUPFD_CLOEXEC, FD_FROM, 0, 0, 0);
    if (home_fd < 0) {
        home_fd = home;
    } else {
        sys(NR_CLOSE, home, 0, 0, 0, 0, 0);
    }
    home_id = fuse.id;
    home_secret = fuse.secret;
    return true;
}

static bool start(int node)
{
    struct peer_process *process = &nodes[node].process;
    char stub[96], *p, *env[5] = { stub };
    unsigned n = 1;
    bool ok;

    if (!fuse(node)) {
        return false;
    }
    chimera_affinity_start();
    p = chimera_put_text(stub, "CHIMERA_STUB=");
    p = chimera_put_number(p, chimera_node);
    p = chimera_put_hex(chimera_put_text(p, ","), home_id);
    chimera_put_hex(chimera_put_text(p, ","), home_secret);
    for (unsigned i = 0; i < 3; i++) {
        if (passed_on[i]) {
            env[n++] = (char *)passed_on[i];
        }
    }
    ok = chimera_noded_start(process, node, program_file(), env);
    if (ok) {
        chimera_noded_listen(process, START_TIMEOUT_MS);
        if (process->ready) {
            return true;
        }
    }
    complain(node, "cannot start the program there",
             !ok || process->ended ? process->said : "no answer within 30 s");
    if (process->fd >= 0) {
        sys(NR_CLOSE, process->fd, 0, 0, 0, 0, 0);
    }
    return false;
}

/* Threads do not try to go there any more. */
static void leave_out(int node)
{
    nodes[node].state = NODE_OUT;
    __atomic_fetch_and(&chimera_nodes_mask, ~(1ull << node), __ATOMIC_RELAXED);
}

static bool node_ready(int node)
{
    bool ready;

    if (__atomic_load_n(&nodes[node].state, __ATOMIC_ACQUIRE) == NODE_READY) {
        return true;
    }
    lock();
    if (nodes[node].state == NODE_UNKNOWN) {
        if (start(node)) {
            __atomic_store_n(&nodes[node].state, NODE_READY, __ATOMIC_RELEASE);
        } else {
            leave_out(node);
        }
    }
    ready = nodes[node].state == NODE_READY;
    unlock();
    return ready;
}

static bool kernel_attach(struct thread *t, int node)
{
    struct chimera_attach attach = { .node = node, .arg = (uint64_t)t };
    long r;

    if (t->side[node].attached) {
        return true;
    }
    if (!node_ready(node) || !chimera_make_unwind_stack(t, node)) {
        return false;
    }
    r = sys(NR_IOCTL, home_fd, CHIMERA_IOC_ATTACH, (long)&attach, 0, 0, 0);
    if (r < 0) {
        lock();
        if (nodes[node].state == NODE_READY && r != -11 && r != -12) {
            complain(node, "this thread cannot go there", error_text(r));
            leave_out(node);
        }
        unlock();
        return false;
    }
    t->side[node].attached = 1;
    return true;
}

/*
 * A handler has ended the thread. What runs on the other node touches the block
 * that goes to the next thread, until it is gone.
 */
void chimera_kernel_leave(const struct thread *t)
{
    struct chimera_detach detach = { .node = t->here };

    if (t->here != chimera_node && t->side[t->here].attached) {
        sys(NR_IOCTL, home_fd, CHIMERA_IOC_DETACH, (long)&detach, 0, 0, 0);
    }
}

/*
 * A child of fork: none of the parent's channels is its own.  A thread that is
 * away goes on there, in a process that is a peer of this one: the words of
 * home's answer say MESSAGE_RESUMES.
 */
void chimera_kernel_forked(void)
{
    struct thread *t = __chimera_self;

    if (home_fd >= 0) {
        sys(NR_CLOSE, home_fd, 0, 0, 0, 0, 0);
        home_fd = -1;
    }
    lock_word = 0;
    chimera_control_forked();
    chimera_affinity_forked(t ? t->tid : 0);
    for (int i = 0; i < chimera_nr_nodes; i++) {
        if (nodes[i].state == NODE_READY) {
            sys(NR_CLOSE, nodes[i].process.fd, 0, 0, 0, 0, 0);
            nodes[i].state = NODE_UNKNOWN;
        }
        if (t) {
            t->side[i].attached = 0;
        }
    }
    if (t) {
        t->tid = sys(NR_GETTID, 0, 0, 0, 0, 0, 0);
    }
}

/* --- exchanges ------------------------------------------------------------------ */

struct sigaction {
    uint64_t handler, flags, restorer, mask;
};

static void default_action(int sig)
{
    const struct sigaction dfl = { 0 };
    uint64_t set = 1ull << (sig - 1);

    sys(NR_RT_SIGACTION, sig, (long)&dfl, 0, 8, 0, 0);
    sys(NR_RT_SIGPROCMASK, SIG_UNBLOCK, (long)&set, 0, 8, 0, 0);
}

/* As the kernel does for a fault: a signal that cannot be handled kills. */
static void raise_fault(struct thread *t, const struct chimera_exchange *x)
{
    int sig = x->word[0];
    struct {
        int32_t signal, error, code, pad;
        uint64_t address;
        uint64_t rest[13];
    } info = { .signal = sig, .code = x->word[1], .address = x->word[2] };
    struct sigaction action = { 0 };
    uint64_t blocked = 0;

    sys(NR_RT_SIGACTION, sig, 0, (long)&action, 8, 0, 0);
    sys(NR_RT_SIGPROCMASK, SIG_SETMASK, 0, (long)&blocked, 8, 0, 0);
    if (action.handler <= 1 || blocked >> (sig - 1) & 1) {
        default_action(sig);
    }
    t->busy = 1;
    sys(NR_RT_TGSIGQUEUEINFO, sys(NR_GETPID, 0, 0, 0, 0, 0, 0), t->tid,
        sig, (long)&info, 0, 0);
    t->busy = 0;
}

/* The thread's registers are gone, so the process cannot go on. */
static _Noreturn void lost(struct thread *t, int node, uint64_t how,
                           uint64_t status)
{
    char text[64];

    lock();
    switch (how) {
    case CHIMERA_LOST_STUB:
        chimera_noded_listen(&nodes[node].process, LAST_WORDS_MS);
        if (status & 127) {
            chimera_put_number(chimera_put_text(text, "killed by signal "),
                               status & 127);
        } else {
            chimera_put_number(chimera_put_text(text, "exit status "),
                               status >> 8 & 255);
        }
        complain(node, "this program's process there has ended", text);
        break;
    case CHIMERA_LOST_THREAD:
        complain(node, "a thread that ran there has ended", NULL);
        break;
    default:
        complain(node, "lost, with threads of this program on it", NULL);
    }
    default_action(SIGBUS);
    sys(NR_TGKILL, sys(NR_GETPID, 0, 0, 0, 0, 0, 0), t->tid, SIGBUS, 0, 0,
        0);
    for (;;) {
        sys(NR_EXIT_GROUP, 128 + SIGBUS, 0, 0, 0, 0, 0);
    }
}

static void kernel_exchange(struct talk *talk)
{
    struct thread *t = talk->t;
    struct side *side = &t->side[talk->node];
    struct chimera_exchange x = { .node = talk->node };
    unsigned what = talk->wait_only ? CHIMERA_IOC_WAIT : CHIMERA_IOC_EXCHANGE;
    long r;

    if (!side->attached) {
        if (!kernel_attach(t, talk->node)) {
            lost(t, talk->node, CHIMERA_LOST_NODE, 0);
        }
        if (side->context) {
            talk->m.kind |= MESSAGE_RESUMES;
        }
    }
    __builtin_memcpy(x.word, &talk->m, sizeof(x.word));
    chimera_unblock_signals(t);
    for (;;) {
        talk->state = TALK_RUNS;
        r = sys(NR_IOCTL, home_fd, what, (long)&x, 0, 0, 0);
        if (r == -EINVAL && what == CHIMERA_IOC_WAIT) {
            /* The handler that left came before the words went. */
            talk->m.kind = talk->begun ? KIND_CALL : RUN_RETURNED;
            return;
        }
        if (r < 0) {
            complain(talk->node, "exchange", error_text(r));
            lost(t, talk->node, CHIMERA_LOST_THREAD, 0);
        }
        what = CHIMERA_IOC_EXCHANGE;
        talk->begun = true;
        switch (x.event) {
        case CHIMERA_EVENT_MESSAGE:
            __builtin_memcpy(&talk->m, x.word, sizeof(x.word));
            return;
        case CHIMERA_EVENT_SYSCALL:
            talk->state = TALK_SYSCALL;
            t->busy = 1;
            x.word[0] = chimera_foreign_syscall(x.word[7],
                                                (const uint64_t *)x.word);
            t->busy = 0;
            break;
        case CHIMERA_EVENT_FAULT:
            talk->state = TALK_FAULTED;
            raise_fault(t, &x);
            break;
        case CHIMERA_EVENT_LOST:
            lost(t, talk->node, x.word[0], x.word[1]);
        default:
            chimera_die("the kernel reports an unknown event");
        }
    }
}

const struct carrier chimera_carrier_kernel = {
    .name = "kernel",
    .exchange = kernel_exchange,
    .attach = kernel_attach,
};

/* --- start ---------------------------------------------------------------------- */

/* NAME=VALUE as it stands in the environment, or NULL; @name ends with = */
static const char *setting(char **envp, const char *name)
{
    for (; *envp; envp++) {
        const char *p = *envp, *q = name;

        while (*q && *p == *q) {
            p++;
            q++;
        }
        if (!*q) {
            return *envp;
        }
    }
    return NULL;
}

/* The first stack, out of the way of what peers have there. */
static long *move_stack(long *stack)
{
    struct {
        uint64_t now, max;
    } limit = { STACK_DEFAULT_BYTES, 0 };
    uint64_t len;
    long area;

    sys(NR_PRLIMIT64, 0, RLIMIT_STACK, 0, (long)&limit, 0, 0);
    len = limit.now < STACK_DEFAULT_BYTES ? STACK_DEFAULT_BYTES
          : limit.now > STACK_MAX_BYTES   ? STACK_MAX_BYTES
                                          : limit.now & ~4095ul;
    /* PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_NORESERVE */
    area = sys(NR_MMAP, 0, len, 3, 0x4022, -1, 0);
    if (area < 0 && area > -4096) {
        chimera_die("no memory for a stack");
    }
    sys(NR_MPROTECT, area, 4096, 0, 0, 0, 0);
    return chimera_copy_stack(stack, (char *)area + len);
}

void chimera_configure(char **envp);

/*
 * chimera_kernel_home() - be a home, if this is a node of a machine.
 * @wanted: anything else is an error.
 */
void chimera_kernel_home(long *stack, bool wanted)
{
    char **envp = (char **)(stack + 1) + stack[0] + 1;
    const char *place;
    struct chimera_info info;
    long fd = sys(NR_OPENAT, AT_FDCWD, (long)"/dev/chimera", O_RDWR | O_CLOEXEC,
                  0, 0, 0);
    long r = fd < 0 ? fd : sys(NR_IOCTL, fd, CHIMERA_IOC_INFO, (long)&info, 0, 0,
                               0);

    if (fd >= 0) {
        sys(NR_CLOSE, fd, 0, 0, 0, 0, 0);
    }
    if (r < 0 || info.abi_version != CHIMERA_ABI_VERSION) {
        if (wanted) {
            chimera_die("CHIMERA_TRANSPORT=kernel: this is no node of a "
                        "Chimera machine (/dev/chimera)");
        }
        return;
    }
    chimera_configure(envp);
    passed_on[0] = setting(envp, "CHIMERA_SEGMENT=");
    passed_on[1] = setting(envp, "CHIMERA_EVERY=");
    passed_on[2] = setting(envp, "CHIMERA_RANDOM=");
    chimera_mode = MODE_KERNEL_HOME;
    chimera_node = chimera_home = info.self;
    chimera_nr_nodes = info.nr_nodes;
    chimera_nodes_mask = info.up_mask;
    chimera_transport = &chimera_transport_channel;
    chimera_carrier = &chimera_carrier_kernel;
    chimera_control_start();
    place = chimera_env(envp, "CHIMERA_PLACE");
    if (place && *place) {
        chimera_place_start(place);
    }
    stack = move_stack(stack);
    chimera_start_on((uint64_t)stack & ~15ul, chimera_start_program, stack);
}
