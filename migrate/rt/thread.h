/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the run-time library keeps for a thread that has ever moved.
 *
 * The block lies in memory that every ISA of the program sees at the same
 * address.  Only the side on which the thread runs touches it.
 *
 * Each ISA has two stacks for a thread: the native one, on which compiled code
 * runs, and the unwind stack, on which the library works while frames of the
 * native stack must stay as they are.
 */
#ifndef CHIMERA_RT_THREAD_H
#define CHIMERA_RT_THREAD_H

#include "abi.h"

/* Between a stack pointer and the lower one that __chimera_resume() sets. */
#define SHIFT_BYTES 32

/* Offsets used by assembly; checked below. */
#define T_CTX       0
#define T_USP       192
#define T_RESULT    448
#define T_RUN       224
#define T_BUSY      284
#define CTX_PC      0
#define CTX_SP      8
#define CTX_REGS    16
#define CTX_PAD     176

/* jmp_buf words; the first 22 hold registers. */
#define JB_ISA      176
#define JB_RUN      184
#define JB_DSP      192
#define JB_FLAG     256
#define JB_MASK     264

#ifndef __ASSEMBLER__

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __x86_64__
#define JB_SP 48
#define ISA_HERE CHIMERA_ISA_X86_64
#define ISA_REGS 6      /* rbx rbp r12 r13 r14 r15 */
#else
#define JB_SP 160
#define ISA_HERE CHIMERA_ISA_AARCH64
#define ISA_REGS 20     /* x19..x30, d8..d15 */
#endif

/* The machine state of a suspended frame: what a call preserves. */
struct context {
    uint64_t pc;
    uint64_t sp;
    uint64_t reg[20];
    uint64_t pad;               /* of a poll, to which its slow call goes */
    uint64_t reserved;
};

struct record {
    uint32_t fn;
    uint32_t site;
    uint32_t flags;
    uint32_t reserved;
    struct record *inner;
    uint64_t low[CHIMERA_ISA_COUNT];
    uint64_t place[CHIMERA_ISA_COUNT];
    uint64_t at;
};

_Static_assert(offsetof(struct record, flags) == REC_FLAGS, "abi.h");
_Static_assert(offsetof(struct record, inner) == REC_INNER, "abi.h");
_Static_assert(offsetof(struct record, low) == REC_LOW, "abi.h");
_Static_assert(offsetof(struct record, place) == REC_PLACE, "abi.h");
_Static_assert(offsetof(struct record, at) == REC_AT, "abi.h");
_Static_assert(sizeof(struct record) == REC_VALUES, "abi.h");

struct table_row {
    void *(*resume)(struct record *rec);
    void (*entry)(struct record *rec, void *result);
    void (*return_value)(const void *result);
};

_Static_assert(sizeof(struct table_row) == TABLE_ROW, "abi.h");

/* A segment running on this ISA, entered from the library. */
struct run {
    uint64_t sp;                /* unwind stack where chimera_call_on() left */
    struct run *up;
    bool asked;                 /* a peer asked for it and waits */
    bool away;                  /* none: frames run elsewhere meanwhile */
    struct run *theirs;         /* what stood in its place, of another node */
    uint64_t limit[CHIMERA_ISA_COUNT];  /* of the thread, when it ends */
};

enum run_end {
    RUN_RETURNED = 1,           /* the result is in thread->result */
    RUN_CAPTURED = 2,           /* its frames are in the buffer again */
    RUN_JUMPED = 3,             /* left by longjmp: thread->jump */
    RUN_EXITED = 4,             /* the thread ends: thread->dead */
};

/*
 * What a thread has on a node that is not home.  Nodes of one ISA share the
 * thread's native stack of that ISA, but each works on an unwind stack of its
 * own.
 */
struct side {
    uint64_t unwind_top;        /* 0: never been there */
    uint64_t server;            /* the peer's own: what serves the thread */
    uint64_t context;           /* jump buffer of its last exchange, or 0 */
    uint32_t attached;
    uint32_t end;               /* enum run_end of the run that is answered */
};

#define MAX_NODES 64

struct thread {
    struct context ctx;         /* the frame being captured */
    uint64_t usp[CHIMERA_ISA_COUNT];    /* next capture works from here */
    /*
     * Lowest native stack address that must be kept, while not running there,
     * but for what the records in the buffer keep (low).
     */
    uint64_t limit[CHIMERA_ISA_COUNT];
    struct run *run[CHIMERA_ISA_COUNT]; /* innermost on each ISA */
    unsigned char *buffer;
    uint64_t buffer_bytes;
    struct record *record;      /* being filled */
    uint64_t low[CHIMERA_ISA_COUNT];    /* over the records of the capture */
    uint32_t nr_frames;
    uint32_t busy;              /* no capture now: frames are in flight */
    uint64_t tp;                /* thread pointer, as on x86_64 */
    uint64_t sigmask;           /* of the thread, while all are blocked */
    uint64_t unwind_top[CHIMERA_ISA_COUNT];
    uint64_t native_top;        /* native stack on the ISA that is not home */
    char *dynamic_top;          /* stack of dynamic allocas grows down */
    char *dynamic_low;
    int32_t want;               /* node asked for by chimera_migrate() */
    uint32_t kick;              /* home has a signal to deliver */
    int32_t here;               /* node on which the thread runs */
    int32_t fd[CHIMERA_ISA_COUNT];      /* channel: home's end, peer's end */
    struct {
        uint64_t buf;
        int64_t value;
    } jump;
    struct {
        uint64_t base, len;     /* its stack, to be freed; 0: not by itself */
    } dead;
    uint64_t polls;             /* slow polls taken, for the test policies */
    uint64_t random;
    uint64_t hops;
    uint64_t frames;
    struct thread *next;        /* free list */
    uint64_t map_bytes;
    unsigned char result[256] __attribute__((aligned(16)));
    int32_t target;             /* node to which the captured frames go */
    uint32_t blocked;           /* home has blocked the thread's signals */
    uint32_t jumped;            /* a handler of a remote fault left by longjmp */
    int32_t tid;                /* at home */
    struct run *away;           /* home's, while the thread runs elsewhere */
    uint32_t pinned;            /* t->want comes from outside of the program */
    uint64_t stamp;             /* of the requests it has looked through */
    struct side side[MAX_NODES];
};

_Static_assert(offsetof(struct thread, ctx) == T_CTX, "assembly");
_Static_assert(offsetof(struct thread, usp) == T_USP, "assembly");
_Static_assert(offsetof(struct thread, run) == T_RUN, "assembly");
_Static_assert(offsetof(struct thread, busy) == T_BUSY, "assembly");
_Static_assert(offsetof(struct thread, result) == T_RESULT, "assembly");
_Static_assert(offsetof(struct context, reg) == CTX_REGS, "assembly");
_Static_assert(offsetof(struct context, pad) == CTX_PAD, "assembly");
_Static_assert(sizeof(struct thread) <= 4096, "threads.c");

/*
 * Variables of the library are private to a process (an ISA), except those that
 * stand in a section of the program's own data.
 */
#define SHARED_DATA __attribute__((section("chimera_data")))

extern __thread struct thread *__chimera_self;
extern __thread char *__chimera_dsp;

enum mode {
    MODE_PLAIN, MODE_SELF, MODE_PIPE_HOME, MODE_KERNEL_HOME,
    MODE_PIPE_PEER, MODE_KERNEL_PEER,
};
extern enum mode chimera_mode;
extern int chimera_node;        /* of this process */
extern int chimera_home;        /* the node of the home process */
extern int chimera_nr_nodes;
extern uint64_t chimera_nodes_mask;     /* those to which threads can move */

extern char chimera_file[4096];         /* the program's file, if not what runs */

/* Whether this process is the one that serves home's threads. */
static inline bool chimera_is_peer(void)
{
    return chimera_mode >= MODE_PIPE_PEER;
}

int chimera_request(int node);

/* thread.c */
struct thread *chimera_thread(void);
void chimera_thread_exit(void);
/* A child of fork: the calling thread is its only one. */
void chimera_threads_forked(void);
void chimera_guard(const struct thread *t);
/* Home: what a thread needs to run on another node.  False: no memory. */
bool chimera_make_unwind_stack(struct thread *t, int node);
/* False: nested so deep that the unwind stacks cannot take another segment, or
   on one of them. */
bool chimera_has_room(const struct thread *t);

/* capture.c */
enum run_end chimera_run(struct thread *t, uint64_t start, bool asked);
_Noreturn void chimera_jump(uint64_t buf, int64_t value);
_Noreturn void chimera_jump_arrived(struct thread *t);
_Noreturn void chimera_exit_away(uint64_t base, uint64_t len);
void chimera_block_signals(struct thread *t);
void chimera_unblock_signals(struct thread *t);

/* unwind.c */
bool chimera_unwind(struct context *ctx);
void chimera_unwind_shift(struct context *ctx);
uint64_t chimera_landing_pad(uint64_t pc);

/* transports */
struct transport {
    const char *name;
    /*
     * Carries the captured frames to t->target and returns when the segment
     * has returned; its result is then in t->result.
     */
    void (*carry)(struct thread *t, uint64_t base_sp, struct record *outer);
};
extern const struct transport *chimera_transport;
extern const struct transport chimera_transport_self;
extern const struct transport chimera_transport_channel;

/* channel.c: what is said between home and its peers, and how it gets there */
enum message_kind {             /* enum run_end are kinds, too */
    KIND_RUN = 10,              /* run the frames in the buffer */
    KIND_CALL,                  /* do something at home */
    KIND_ANSWER,                /* arg[0] is the result */
};

struct message {
    uint32_t kind;
    uint32_t what;              /* enum home_call */
    int64_t arg[7];
};

/* What the side away from home asks home to do; the arguments are words. */
enum home_call {
    HOME_NOTHING,               /* let pending signals be delivered */
    HOME_SYSCALL,               /* __chimera_syscall */
    HOME_CLONE,                 /* chimera_home_clone */
};

/* A side that has let another one run, and what that one does. */
enum talk_state { TALK_RUNS, TALK_CALLS, TALK_FAULTED, TALK_SYSCALL };

struct talk {
    struct thread *t;
    int node;
    struct message m;           /* what is said, then what was answered */
    struct run *away;           /* the run for the time of the talk */
    struct run *their_run;      /* of a node of the same ISA that still runs */
    uint64_t their_usp;
    enum talk_state state;
    bool begun;                 /* the other end has heard of it */
    bool wait_only;             /* say nothing: it runs already */
    bool idle;                  /* peer: a run has ended, nothing is under way */
};

struct carrier {
    const char *name;
    /* Gives talk->m to the other end and waits for what it says next. */
    void (*exchange)(struct talk *talk);
    /* Home: makes a channel of the thread to a node.  False: cannot be. */
    bool (*attach)(struct thread *t, int node);
    /* Peer: the stack of what serves the thread, to start there anew. */
    uint64_t (*server_stack)(struct thread *t);
};
extern const struct carrier *chimera_carrier;
extern const struct carrier chimera_carrier_pipe, chimera_carrier_kernel;

long chimera_call_home(enum home_call what, const long arg[7]);
void chimera_end_kick(struct thread *t);
/* Answers home with what a run ended with, and does what home says then. */
_Noreturn void chimera_serve(struct thread *t, struct message *m);
_Noreturn void chimera_served(struct thread *t, enum run_end end);
void chimera_home_call(struct talk *talk);

/* pipe.c */
void chimera_pipe_home(long *stack);
_Noreturn void chimera_pipe_peer(const char *where);

/* kernel.c: home in a Chimera machine; stub.c: its processes on other nodes */
void chimera_kernel_home(long *stack, bool wanted);
_Noreturn void chimera_kernel_peer(const char *where);
void chimera_kernel_forked(void);

/* noded.c: starting a program on another node */
struct peer_process {
    int fd;                     /* to noded, -1: none */
    bool ready;                 /* it wrote to its standard output */
    bool ended;
    char said[512];             /* why it ended */
};
/* False: it could not be started; ->said has why. */
bool chimera_noded_start(struct peer_process *p, int node, const char *file,
                         char *const env[]);
/*
 * Reads what it says, until it is ready, has ended, or says nothing for
 * @timeout_ms.  What it writes as errors we write, too.
 */
void chimera_noded_listen(struct peer_process *p, int timeout_ms);

const char *chimera_node_name(int node);

/* A file of the node's in sysfs, without the newline; empty if there is none */
void chimera_node_read(int node, const char *what, char *to, uint64_t size);

/* place.c: CHIMERA_PLACE */
void chimera_place_start(const char *how);
void chimera_place_expect(uint64_t tp);
void chimera_place_take(struct thread *t);
/* Whether the calling thread, which has no block, will look for a place */
bool chimera_place_looks(void);

/* control.c: requests from outside */
void chimera_control_start(void);
void chimera_control_forked(void);
bool chimera_control_pending(void);
int chimera_control_take(struct thread *t);

/* trace.c */
extern bool chimera_tracing;
void chimera_trace_start(void);
void chimera_trace(struct thread *t, int from, int to, const char *how);

/*
 * arena.c: the shared address space of pipe mode. Not larger than programs
 * need: qemu-user keeps a record of every page that is mapped, used or not.
 */
#define ARENA_BASE  0x4000000000ul
#define ARENA_BYTES (8ul << 30)
void *chimera_arena_alloc(uint64_t len);
bool chimera_arena_syscall(long n, const long a[6], long *ret);

/* syscall.c and ISA files */
long chimera_native_syscall(long n, long a, long b, long c, long d, long e,
                            long f);

#define EINTR 4

/* For the library's own system calls: made again when a signal interrupts. */
static inline long sys(long n, long a, long b, long c, long d, long e, long f)
{
    long r;

    do {
        r = chimera_native_syscall(n, a, b, c, d, e, f);
    } while (r == -EINTR);
    return r;
}

long chimera_raw_syscall(long n, long a, long b, long c, long d, long e,
                         long f);
/* Run at home for a thread that is away; all take seven words. */
_Noreturn void chimera_exit_home(uint64_t base, uint64_t len);
long __chimera_syscall(long n, long a, long b, long c, long d, long e, long f);
long chimera_home_clone(long fn, long stack, long flags, long arg, long ptid,
                        long tls, long ctid);
/* A system call of the peer's own kind, with its numbers and structures. */
long chimera_foreign_syscall(unsigned machine, const uint64_t nr_and_args[7]);
/* Flags of openat() and fcntl(), as an ISA's kernel has them */
long chimera_open_flags(long flags, int from_isa, int to_isa);
/* What the thread register holds for a thread pointer. */
uint64_t chimera_tp_register(uint64_t tp);
void chimera_set_tp(uint64_t tp);
uint64_t chimera_get_tp(void);
_Noreturn void chimera_die(const char *text);
_Noreturn void chimera_start_program(void *stack);
/* Copies arguments, environment and auxiliary vector below @top. */
long *chimera_copy_stack(long *stack, char *top);
uint64_t chimera_number(const char *s, const char **ret_end);
uint64_t chimera_hex(const char *s, const char **ret_end);
char *chimera_put_text(char *p, const char *s);
char *chimera_put_number(char *p, uint64_t v);
char *chimera_put_hex(char *p, uint64_t v);
const char *chimera_env(char **envp, const char *name);

/* ISA assembly */
int chimera_call_on(void (*entry)(struct record *, void *), struct record *rec,
                    void *result, uint64_t sp, uint64_t *save_sp,
                    uint64_t *usp);
_Noreturn void chimera_leave(uint64_t sp, int how);
_Noreturn void chimera_enter_pad(const struct context *ctx, uint64_t pad,
                                 struct record *rec);
_Noreturn void chimera_return(const struct context *ctx,
                              void (*return_value)(const void *),
                              const void *result);
_Noreturn void chimera_restore_jump(uint64_t buf, int64_t value);
_Noreturn void chimera_start_on(uint64_t sp, void (*fn)(void *), void *arg);
void chimera_sigreturn(void);
int setjmp(uint64_t buf[32]) __attribute__((returns_twice));
long chimera_spawn(void *stack_top, void (*fn)(void *), void *arg,
                   int32_t *ret_tid);

#endif
#endif
