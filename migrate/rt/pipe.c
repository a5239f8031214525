/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pipe transport: the program's two images as two processes over one memfd.
 *
 * Home is the process that was started.  It moves its data, heap and stacks to
 * shared memory and starts the peer, the other ISA's image, under an emulator
 * where that is needed.  A thread of home that moves for the first time gets a
 * channel (a socket pair) and a thread of the peer to serve it; channel.c has
 * what is said there.
 *
 * Signals are home's.  While a thread is away its signals are blocked at home
 * and watched with a signalfd; when one is pending, `kick` makes the thread
 * call home at its next poll, and any CALL runs with the thread's own mask.
 */

#include "elf.h"
#include "thread.h"

#define NR_READ         0
#define NR_WRITE        1
#define NR_CLOSE        3
#define NR_PPOLL        271
#define NR_MMAP         9
#define NR_PREAD64      17
#define NR_SOCKETPAIR   53
#define NR_SENDMSG      46
#define NR_RECVMSG      47
#define NR_CLONE        56
#define NR_WAIT4        61
#define NR_EXECVE       59
#define NR_EXIT_GROUP   231
#define NR_FCNTL        72
#define NR_FTRUNCATE    77
#define NR_OPENAT       257
#define NR_PWRITE64     18
#define NR_SIGNALFD4    289
#define NR_MEMFD_CREATE 319
#define NR_RT_SIGPROCMASK 14
#define NR_RT_SIGPENDING 127

#define AT_FDCWD        -100
#define F_DUPFD         0
#define F_SETFD         2
#define FD_CLOEXEC      1
#define F_DUPFD_CLOEXEC 1030
#define O_CLOEXEC       02000000
#define AF_UNIX         1
#define SOCK_SEQPACKET  5
#define SOL_SOCKET      1
#define SCM_RIGHTS      1
#define POLLIN          1
#define MAP_SHARED_FIXED 0x11
#define MAP_NORESERVE   0x4000
#define SIGCHLD         17

/* Descriptors of ours stay away from those that programs count on. */
#define FD_FROM 700
#define STACK_BYTES (256ul << 20)

extern char __chimera_data_start[], __chimera_data_end[];
extern int __chimera_flag;

#define PEER_NODE 1

/* Passed to the peer with the end of a new channel. */
struct attach {
    struct thread *t;
};

static int memory_fd, control_fd, signal_fd;

static int raise_fd(int fd, bool cloexec)
{
    long high = sys(NR_FCNTL, fd, cloexec ? F_DUPFD_CLOEXEC : F_DUPFD, FD_FROM,
                    0, 0, 0);

    if (high < 0) {
        return fd;
    }
    sys(NR_CLOSE, fd, 0, 0, 0, 0, 0);
    return high;
}

static void send_message(struct thread *t, const struct message *m)
{
    if (sys(NR_WRITE, t->fd[ISA_HERE], (long)m, sizeof(*m), 0, 0, 0) !=
        sizeof(*m)) {
        chimera_die("pipe: the other process is gone");
    }
}

struct pollfd {
    int fd;
    short events, revents;
};

static void receive(struct thread *t, struct message *m)
{
    bool home = chimera_mode == MODE_PIPE_HOME;
    bool watch = home && !t->kick;
    int narrow_fd = -1;
    long n;

    while (watch) {
        struct pollfd p[2] = {
            { .fd = t->fd[ISA_HERE], .events = POLLIN },
            { .fd = narrow_fd < 0 ? signal_fd : narrow_fd, .events = POLLIN },
        };

        sys(NR_PPOLL, (long)p, 2, 0, 0, 0, 0);
        if (p[0].revents) {
            break;
        }
        if (p[1].revents) {
            uint64_t pending = 0;

            /* Pending and not blocked by the program itself? */
            chimera_native_syscall(NR_RT_SIGPENDING, (long)&pending, 8,
                                   0, 0, 0, 0);
            if (pending & ~t->sigmask) {
                __atomic_fetch_add(&__chimera_flag, 2, __ATOMIC_SEQ_CST);
                __atomic_store_n(&t->kick, 1, __ATOMIC_SEQ_CST);
                watch = false;
            } else if (pending && narrow_fd < 0) {
                /* Those that it blocks would wake us again and again. */
                uint64_t open = ~t->sigmask;

                narrow_fd = raise_fd(sys(NR_SIGNALFD4, -1, (long)&open, 8,
                                         O_CLOEXEC, 0, 0), true);
                watch = narrow_fd >= 0;
            }
            /* Else another thread has taken it. */
        }
    }
    if (narrow_fd >= 0) {
        sys(NR_CLOSE, narrow_fd, 0, 0, 0, 0, 0);
    }
    n = sys(NR_READ, t->fd[ISA_HERE], (long)m, sizeof(*m), 0, 0, 0);
    if (n != sizeof(*m)) {
        if (home) {
            chimera_die("pipe: the peer process ended unexpectedly");
        }
        sys(NR_EXIT_GROUP, 0, 0, 0, 0, 0, 0);
    }
}

static void pipe_exchange(struct talk *talk)
{
    send_message(talk->t, &talk->m);
    receive(talk->t, &talk->m);
}

/* --- descriptors over the control socket -------------------------------------- */

struct iovec {
    void *base;
    size_t len;
};

struct msghdr {
    void *name;
    uint32_t name_len;
    struct iovec *iov;
    size_t iov_len;
    void *control;
    size_t control_len;
    int flags;
};

struct fd_cmsg {
    size_t len;
    int level, type;
    int fd, pad;
};

static long pass(bool sending, struct attach *what, int *fd)
{
    struct iovec iov = { what, sizeof(*what) };
    struct fd_cmsg c = { 20, SOL_SOCKET, SCM_RIGHTS, *fd, 0 };
    struct msghdr h = { .iov = &iov, .iov_len = 1, .control = &c,
                        .control_len = sizeof(c) };
    long n = sys(sending ? NR_SENDMSG : NR_RECVMSG, control_fd, (long)&h, 0, 0,
                 0, 0);

    *fd = c.fd;
    return n == sizeof(*what) ? 0 : -1;
}

/* A channel for a thread of home.  False: out of descriptors. */
static bool pipe_attach(struct thread *t, int node)
{
    struct attach what = { t };
    int ends[2];
    long r;

    if (t->fd[ISA_HERE] >= 0) {
        return true;
    }
    if (sys(NR_SOCKETPAIR, AF_UNIX, SOCK_SEQPACKET | O_CLOEXEC, 0, (long)ends,
            0, 0) < 0) {
        return false;
    }
    r = pass(true, &what, &ends[1]);
    sys(NR_CLOSE, ends[1], 0, 0, 0, 0, 0);
    if (r < 0) {
        chimera_die("pipe: the peer process ended unexpectedly");
    }
    t->fd[ISA_HERE] = raise_fd(ends[0], true);
    return true;
}

/* --- the peer ------------------------------------------------------------------- */

static void serve(void *arg)
{
    struct thread *t = arg;
    struct message m;

    receive(t, &m);
    chimera_serve(t, &m);
}

static uint64_t pipe_server_stack(struct thread *t)
{
    return t->unwind_top[ISA_HERE];
}

const struct carrier chimera_carrier_pipe = {
    .name = "pipe",
    .exchange = pipe_exchange,
    .attach = pipe_attach,
    .server_stack = pipe_server_stack,
};

static void map_shared(void)
{
    uint64_t data = (uint64_t)__chimera_data_start;
    uint64_t len = (uint64_t)__chimera_data_end - data;
    long r;

    r = sys(NR_MMAP, ARENA_BASE, ARENA_BYTES, 3,
            MAP_SHARED_FIXED | MAP_NORESERVE, memory_fd, 0);
    if (r != (long)ARENA_BASE) {
        chimera_die("pipe: cannot map the shared memory");
    }
    r = sys(NR_MMAP, data, len, 3, MAP_SHARED_FIXED, memory_fd, ARENA_BYTES);
    if (r != (long)data) {
        chimera_die("pipe: cannot map the program's data");
    }
}

_Noreturn void chimera_pipe_peer(const char *where)
{
    const char *end;

    chimera_mode = MODE_PIPE_PEER;
    chimera_node = PEER_NODE;
    chimera_nr_nodes = 2;
    chimera_transport = &chimera_transport_channel;
    chimera_carrier = &chimera_carrier_pipe;
    memory_fd = chimera_number(where, &end);
    control_fd = *end == ',' ? (int)chimera_number(end + 1, &end) : -1;
    if (*end || control_fd < 0) {
        chimera_die("CHIMERA_PIPE_FDS is set by the library, not by hand");
    }
    map_shared();
    for (;;) {
        struct attach what;
        int fd = -1, tid;

        if (pass(false, &what, &fd) < 0) {
            break;
        }
        what.t->fd[ISA_HERE] = fd;
        what.t->side[PEER_NODE].unwind_top = what.t->unwind_top[ISA_HERE];
        chimera_guard(what.t);
        if (chimera_spawn((void *)what.t->unwind_top[ISA_HERE], serve, what.t,
                          &tid) < 0) {
            chimera_die("pipe: cannot make a thread");
        }
    }
    for (;;) {
        sys(NR_EXIT_GROUP, 0, 0, 0, 0, 0, 0);
    }
}

/* --- home ------------------------------------------------------------------------ */

#ifdef __x86_64__
#define PEER_SECTION ".chimera.aarch64"
#define PEER_COMMAND "qemu-aarch64"
#else
#define PEER_SECTION ".chimera.x86_64"
#define PEER_COMMAND ""
#endif

static void read_at(int fd, void *to, uint64_t len, uint64_t offset)
{
    if (sys(NR_PREAD64, fd, (long)to, len, offset, 0, 0) != (long)len) {
        chimera_die("pipe: cannot read the program file");
    }
}

/* A memfd with the other ISA's image, which our file carries in a section. */
static int peer_image(void)
{
    static const char name[] = PEER_SECTION;
    long fd = sys(NR_OPENAT, AT_FDCWD, (long)"/proc/self/exe", O_CLOEXEC, 0, 0,
                  0);
    struct ehdr eh;
    struct shdr strings, sh;
    char text[sizeof(name)];

    if (fd < 0) {
        chimera_die("pipe: cannot open /proc/self/exe");
    }
    read_at(fd, &eh, sizeof(eh), 0);
    read_at(fd, &strings, sizeof(strings),
            eh.shoff + (uint64_t)eh.shstrndx * sizeof(strings));
    for (unsigned i = 1; i < eh.shnum; i++) {
        unsigned k = 0;
        static char chunk[65536];
        long image;

        read_at(fd, &sh, sizeof(sh), eh.shoff + (uint64_t)i * sizeof(sh));
        if (sh.name + sizeof(name) > strings.size) {
            continue;
        }
        read_at(fd, text, sizeof(text), strings.offset + sh.name);
        while (k < sizeof(name) && text[k] == name[k]) {
            k++;
        }
        if (k < sizeof(name)) {
            continue;
        }
        image = sys(NR_MEMFD_CREATE, (long)"chimera-peer", 0, 0, 0, 0, 0);
        for (uint64_t at = 0; at < sh.size;) {
            uint64_t n = sh.size - at < sizeof(chunk) ? sh.size - at
                                                      : sizeof(chunk);

            read_at(fd, chunk, n, sh.offset + at);
            if (sys(NR_WRITE, image, (long)chunk, n, 0, 0, 0) != (long)n) {
                chimera_die("pipe: cannot write the peer's image");
            }
            at += n;
        }
        sys(NR_CLOSE, fd, 0, 0, 0, 0, 0);
        return image;
    }
    chimera_die("pipe: the program file has no section " PEER_SECTION);
}

#define MAX_ENV 4096

static _Noreturn void exec_peer(int image, int control, char **envp)
{
    const char *emulator = chimera_env(envp, "CHIMERA_PEER");
    static char fds[64], command[4096];
    static char *env[MAX_ENV];
    char *argv[] = { "sh", "-c", command, NULL };
    unsigned n = 0;
    char *p = chimera_put_text(fds, "CHIMERA_PIPE_FDS=");
    uint64_t none = 0;

    p = chimera_put_number(p, memory_fd);
    p = chimera_put_text(p, ",");
    chimera_put_number(p, control);
    while (envp[n] && n < MAX_ENV - 2) {
        env[n] = envp[n];
        n++;
    }
    env[n++] = fds;
    env[n] = NULL;

    p = chimera_put_text(command, "exec ");
    if (!emulator) {
        emulator = PEER_COMMAND;
    }
    for (unsigned i = 0; emulator[i] && i < 4000; i++) {
        *p++ = emulator[i];
    }
    p = chimera_put_text(p, " /proc/self/fd/");
    chimera_put_number(p, image);
    chimera_native_syscall(NR_RT_SIGPROCMASK, 2, (long)&none, 0, 8, 0, 0);
    chimera_native_syscall(NR_EXECVE, (long)"/bin/sh", (long)argv, (long)env,
                           0, 0, 0);
    chimera_die("pipe: cannot run /bin/sh");
}

void chimera_pipe_home(long *stack)
{
    char **envp = (char **)(stack + 1) + stack[0] + 1;
    uint64_t data_len = __chimera_data_end - __chimera_data_start;
    uint64_t all = ~0ull;
    int ends[2], image;
    long pid, *copy;
    char *area;

    chimera_mode = MODE_PIPE_HOME;
    chimera_nr_nodes = 2;
    chimera_nodes_mask = 3;
    chimera_transport = &chimera_transport_channel;
    chimera_carrier = &chimera_carrier_pipe;
    image = peer_image();
    memory_fd = raise_fd(sys(NR_MEMFD_CREATE, (long)"chimera", 0, 0, 0, 0, 0),
                         false);
    if (memory_fd < 0 ||
        sys(NR_FTRUNCATE, memory_fd, ARENA_BYTES + data_len, 0, 0, 0, 0) < 0 ||
        sys(NR_PWRITE64, memory_fd, (long)__chimera_data_start, data_len,
            ARENA_BYTES, 0, 0) != (long)data_len) {
        chimera_die("pipe: cannot make the shared memory");
    }
    if (sys(NR_SOCKETPAIR, AF_UNIX, SOCK_SEQPACKET, 0, (long)ends, 0, 0) < 0) {
        chimera_die("pipe: cannot make a socket pair");
    }
    /* A grandchild: the program never waits for a child it did not make. */
    pid = sys(NR_CLONE, SIGCHLD, 0, 0, 0, 0, 0);
    if (pid == 0) {
        if (sys(NR_CLONE, SIGCHLD, 0, 0, 0, 0, 0) == 0) {
            sys(NR_CLOSE, ends[0], 0, 0, 0, 0, 0);
            exec_peer(image, ends[1], envp);
        }
        sys(NR_EXIT_GROUP, 0, 0, 0, 0, 0, 0);
    }
    if (pid < 0 || sys(NR_WAIT4, pid, 0, 0, 0, 0, 0) != pid) {
        chimera_die("pipe: cannot start the peer process");
    }
    sys(NR_CLOSE, ends[1], 0, 0, 0, 0, 0);
    sys(NR_CLOSE, image, 0, 0, 0, 0, 0);
    control_fd = raise_fd(ends[0], true);
    signal_fd = raise_fd(sys(NR_SIGNALFD4, -1, (long)&all, 8, O_CLOEXEC, 0, 0),
                         true);
    map_shared();
    sys(NR_FCNTL, memory_fd, F_SETFD, FD_CLOEXEC, 0, 0, 0);
    area = chimera_arena_alloc(STACK_BYTES);
    if (!area) {
        chimera_die("pipe: out of shared memory");
    }
    copy = chimera_copy_stack(stack, area + STACK_BYTES);
    chimera_start_on((uint64_t)copy & ~15ul, chimera_start_program, copy);
}
