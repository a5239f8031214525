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

/* Offsets used by assembly; checked below. */
#define T_CTX       0
#define T_USP       192
#define T_RESULT    448
#define T_RUN       224
#define T_BUSY      284
#define CTX_PC      0
#define CTX_SP      8
#define CTX_REGS    16

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
#define ISA_HERE CHIMERA_ISA_X86_64
#define ISA_REGS 6      /* rbx rbp r12 r13 r14 r15 */
#else
#define ISA_HERE CHIMERA_ISA_AARCH64
#define ISA_REGS 20     /* x19..x30, d8..d15 */
#endif

/* The machine state of a suspended frame: what a call preserves. */
struct context {
    uint64_t pc;
    uint64_t sp;
    uint64_t reg[20];
    uint64_t pad[2];
};

struct record {
    uint32_t fn;
    uint32_t site;
    uint32_t flags;
    uint32_t reserved;
    struct record *inner;
    uint64_t low[CHIMERA_ISA_COUNT];
    uint64_t pad;
};

_Static_assert(offsetof(struct record, flags) == REC_FLAGS, "abi.h");
_Static_assert(offsetof(struct record, inner) == REC_INNER, "abi.h");
_Static_assert(offsetof(struct record, low) == REC_LOW, "abi.h");
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
};

enum run_end {
    RUN_RETURNED = 1,           /* the result is in thread->result */
    RUN_CAPTURED = 2,           /* its frames are in the buffer again */
    RUN_JUMPED = 3,             /* left by longjmp: thread->jump */
    RUN_EXITED = 4,             /* the thread ends: thread->dead */
};

struct thread {
    struct context ctx;         /* the frame being captured */
    uint64_t usp[CHIMERA_ISA_COUNT];    /* next capture works from here */
    /* Lowest native stack address that must be kept, while not running there */
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
};

_Static_assert(offsetof(struct thread, ctx) == T_CTX, "assembly");
_Static_assert(offsetof(struct thread, usp) == T_USP, "assembly");
_Static_assert(offsetof(struct thread, run) == T_RUN, "assembly");
_Static_assert(offsetof(struct thread, busy) == T_BUSY, "assembly");
_Static_assert(offsetof(struct thread, result) == T_RESULT, "assembly");
_Static_assert(offsetof(struct context, reg) == CTX_REGS, "assembly");


/*
 * Variables of the library are private to a process (an ISA), except those that
 * stand in a section of the program's own data.
 */
#define SHARED_DATA __attribute__((section("chimera_data")))

extern __thread struct thread *__chimera_self;
extern __thread char *__chimera_dsp;

enum mode { MODE_PLAIN, MODE_SELF, MODE_PIPE_HOME, MODE_PIPE_PEER };
extern enum mode chimera_mode;
extern int chimera_node;        /* of this process */

/* thread.c */
struct thread *chimera_thread(void);
void chimera_thread_exit(void);
void chimera_guard(const struct thread *t);
/* False: nested so deep that the unwind stacks cannot take another segment. */
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
uint64_t chimera_landing_pad(uint64_t pc);

/* transports */
struct transport {
    const char *name;
    /*
     * Carries the captured frames elsewhere and returns when the segment has
     * returned; its result is then in t->result.
     */
    void (*carry)(struct thread *t, uint64_t base_sp, struct record *outer);
};
extern const struct transport *chimera_transport;
extern const struct transport chimera_transport_self;
extern const struct transport chimera_transport_pipe;

/* pipe.c */
void chimera_pipe_home(long *stack);
_Noreturn void chimera_pipe_peer(const char *where);
/* What the side away from home asks home to do; the arguments are words. */
enum home_call {
    HOME_NOTHING,               /* let pending signals be delivered */
    HOME_SYSCALL,               /* __chimera_syscall */
    HOME_CLONE,                 /* chimera_home_clone */
};
long chimera_pipe_call(enum home_call what, const long arg[7]);
bool chimera_pipe_attach(struct thread *t);

/* arena.c: the shared address space of pipe mode */
#define ARENA_BASE  0x4000000000ul
#define ARENA_BYTES (64ul << 30)
void *chimera_arena_alloc(uint64_t len);
bool chimera_arena_syscall(long n, const long a[6], long *ret);

/* syscall.c and ISA files */
long chimera_native_syscall(long n, long a, long b, long c, long d, long e,
                            long f);
long chimera_raw_syscall(long n, long a, long b, long c, long d, long e,
                         long f);
/* Run at home for a thread that is away; all take seven words. */
_Noreturn void chimera_exit_home(uint64_t base, uint64_t len);
long __chimera_syscall(long n, long a, long b, long c, long d, long e, long f);
long chimera_home_clone(long fn, long stack, long flags, long arg, long ptid,
                        long tls, long ctid);
/* What the thread register holds for a thread pointer. */
uint64_t chimera_tp_register(uint64_t tp);
void chimera_set_tp(uint64_t tp);
uint64_t chimera_get_tp(void);
_Noreturn void chimera_die(const char *text);
uint64_t chimera_number(const char *s, const char **ret_end);
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
long chimera_spawn(void *stack_top, void (*fn)(void *), void *arg,
                   int32_t *ret_tid);

#endif
#endif
