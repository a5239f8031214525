/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Capturing the frames of a thread, and running captured ones.
 *
 *   poll ----------> __chimera_poll_slow: shall it move?
 *     | if so, on to the poll's pad, which saves the innermost frame
 *     v
 *   __chimera_next, from every pad
 *     | on the unwind stack: chimera_captured() unwinds one frame and
 *     | enters the next pad
 *     v
 *   end of the segment: a native frame, or enough frames
 *     | frames entered from chimera_run():  leave that run  (RUN_CAPTURED)
 *     | else: transport->carry(); then return the result to the native frame
 *
 * Invariants:
 *  1. From the first save to the end of the segment nothing runs on the native
 *     stack but pads, which do not write below their frames:
 *     objects in the captured frames stay as they are.  Signals are blocked.
 *  2. Code that runs while frames are away starts below t->limit[ISA], which is
 *     at or below every frame that stays and, while a run lasts, all that is kept
 *     of the frames that it was given (REC_LOW): their objects, and the places of
 *     their clones.
 *  3. The buffer may be overwritten once the innermost frame has been resumed
 *     (__chimera_arrived); until then t->busy keeps polls from capturing.
 *  4. A clone is called where it was called before on the ISA (REC_PLACE), so
 *     that the stack does not grow with the number of hops.  The place was free
 *     when it was given, and what has been put on the stack since lies below it,
 *     for it is kept like an object (2).  A frame that has no place on the ISA, or
 *     one that is not inside its caller's, gets one below all that is kept of the
 *     captured frames, and so do all frames inside it.
 *  5. Signals stay blocked until the innermost clone runs (__chimera_arrived):
 *     below the clones outside of it lies what is kept of the frames inside.
 */

#include "thread.h"

extern const struct table_row __chimera_table[];
extern char __start_chimera_thunks[], __stop_chimera_thunks[];

/* Read by every poll, so shared like the program's own data. */
SHARED_DATA int __chimera_flag;
static uint32_t max_frames = 16;
/* Test policies: move at every k-th slow poll, or at random ones. */
static uint64_t every;
static uint64_t mean;
static uint64_t seed;
const struct transport *chimera_transport;

#define SIG_BLOCK_ALL (~0ull)
#define NR_RT_SIGPROCMASK 14    /* canonical numbers are those of x86_64 */
#define SIG_SETMASK 2

/* More than the frame of an f$entry and what __chimera_resume() needs. */
#define ENTRY_BYTES (96 + SHIFT_BYTES)

void chimera_block_signals(struct thread *t)
{
    uint64_t all = SIG_BLOCK_ALL;

    if (chimera_is_peer() || t->blocked) {
        return;
    }
    t->blocked = 1;
    chimera_native_syscall(NR_RT_SIGPROCMASK, SIG_SETMASK, (long)&all,
                           (long)&t->sigmask, 8, 0, 0);
}

void chimera_unblock_signals(struct thread *t)
{
    if (chimera_is_peer() || !t->blocked) {
        return;
    }
    t->blocked = 0;
    chimera_native_syscall(NR_RT_SIGPROCMASK, SIG_SETMASK, (long)&t->sigmask,
                           0, 8, 0, 0);
}

/* chimera_configure() - read CHIMERA_SEGMENT, _EVERY, _RANDOM and _TRACE */
void chimera_configure(char **envp)
{
    const char *s, *end;

    if ((s = chimera_env(envp, "CHIMERA_SEGMENT"))) {
        uint64_t n = chimera_number(s, &end);

        if (*end || n == 0 || n > 65535) {
            chimera_die("CHIMERA_SEGMENT: a number of frames, 1 to 65535");
        }
        max_frames = n;
    }
    if ((s = chimera_env(envp, "CHIMERA_EVERY"))) {
        every = chimera_number(s, &end);
        if (*end || every == 0) {
            chimera_die("CHIMERA_EVERY: a number of polls, at least 1");
        }
    }
    if ((s = chimera_env(envp, "CHIMERA_RANDOM"))) {
        seed = chimera_number(s, &end);
        if (*end != ',' || (mean = chimera_number(end + 1, &end)) == 0 ||
            *end) {
            chimera_die("CHIMERA_RANDOM: SEED,MEAN");
        }
    }
    s = chimera_env(envp, "CHIMERA_TRACE");
    if (s && *s) {
        if ((*s != '0' && *s != '1') || s[1]) {
            chimera_die("CHIMERA_TRACE: 0 or 1");
        }
        chimera_tracing = *s == '1';
        if (chimera_tracing) {
            chimera_trace_start();
        }
    }
    if (every || mean) {
        __chimera_flag = 1;
    }
}

/* A node other than this one, the @skip-th after it; -1: there is none.  Self
   migration has no other and goes from this one to this one. */
static int other_node(uint64_t skip)
{
    uint64_t mask = __atomic_load_n(&chimera_nodes_mask, __ATOMIC_RELAXED) &
                    ~(1ull << chimera_node);
    int node = chimera_node;

    if (chimera_mode == MODE_SELF) {
        return node;
    }
    if (!mask) {
        return -1;
    }
    for (skip %= (uint64_t)__builtin_popcountll(mask);; skip--) {
        do {
            node = (node + 1) % MAX_NODES;
        } while (!(mask >> node & 1));
        if (!skip) {
            return node;
        }
    }
}

/* Whether the thread shall move now; where to is then in t->target. */
static bool policy_moves(struct thread *t)
{
    if (chimera_control_pending()) {
        int node = chimera_control_take(t);

        if (node >= 0 && node < chimera_nr_nodes) {
            chimera_request(node);
            t->pinned = 1;
        }
    }
    if (t->pinned && t->want == chimera_home && t->here == chimera_home) {
        chimera_request(-1);    /* it came back, and is its own master again */
    }
    if (t->want >= 0) {
        t->target = t->want;
        return t->want != t->here;
    }
    if (every) {
        if (++t->polls % every) {
            return false;
        }
        t->target = other_node(0);
        return t->target >= 0;
    }
    if (mean) {
        if (!t->polls++) {
            t->random = seed * 0x9e3779b97f4a7c15ull + 1;
        }
        t->random ^= t->random << 13;
        t->random ^= t->random >> 7;
        t->random ^= t->random << 17;
        if (t->random % mean) {
            return false;
        }
        t->target = other_node(t->random >> 40);
        return t->target >= 0;
    }
    return false;
}

static void start_record(struct thread *t, struct record *rec,
                         struct record *inner)
{
    rec->inner = inner;
    for (int i = 0; i < CHIMERA_ISA_COUNT; i++) {
        rec->low[i] = REC_LOW_NONE;
        rec->place[i] = 0;
    }
    t->record = rec;
}

/*
 * Called by the assembly of __chimera_poll_slow, which has been called from @pc.
 * Null: go on there; else the record for t->ctx.pad.
 */
void *chimera_poll_slow(uint64_t pc)
{
    struct thread *t;

    if (chimera_mode == MODE_PLAIN) {
        return NULL;
    }
    t = chimera_thread();
    if (!t || t->busy || t->here != chimera_node) {
        return NULL;            /* the latter: a handler, at home */
    }
    if (t->kick && chimera_is_peer()) {
        const long none[7] = { 0 };

        /* Home delivers its signals while this thread waits for the answer. */
        chimera_call_home(HOME_NOTHING, none);
    }
    if (!policy_moves(t) || !chimera_has_room(t)) {
        return NULL;
    }
    t->busy = 1;
    chimera_block_signals(t);
    /* Only now: a handler may move, and use the context and the table of pads. */
    t->ctx.pc = pc;
    t->ctx.pad = chimera_landing_pad(pc);
    if (!t->ctx.pad) {
        chimera_die("a poll has no landing pad");
    }
    t->nr_frames = 0;
    t->low[0] = t->low[1] = REC_LOW_NONE;
    start_record(t, (struct record *)t->buffer, NULL);
    return t->record;
}

void __chimera_arrived(void)
{
    struct thread *t = __chimera_self;

    t->busy = 0;
    t->hops++;
    chimera_unblock_signals(t);
}

/* Nothing moves out of a native function. */
void __chimera_point(void)
{
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

_Noreturn static void finish_segment(struct thread *t, struct record *outer)
{
    struct context base = t->ctx;
    uint64_t pc = base.pc;

    t->frames += t->nr_frames;
    if (pc >= (uint64_t)__start_chimera_thunks &&
        pc < (uint64_t)__stop_chimera_thunks) {
        struct run *run = t->run[ISA_HERE];

        t->record = outer;
        chimera_leave(run->sp, RUN_CAPTURED);
    }
    t->limit[ISA_HERE] = base.sp;
    void (*ret)(const void *) = __chimera_table[outer->fn].return_value;

    t->record = outer;
    chimera_transport->carry(t, base.sp, outer);
    t = __chimera_self;
    t->usp[ISA_HERE] = t->run[ISA_HERE] ? t->run[ISA_HERE]->sp
                                        : t->unwind_top[ISA_HERE];
    /* A handler that runs now must not capture: chimera_return() clears it. */
    t->busy = 1;
    chimera_unblock_signals(t);
    chimera_return(&base, ret, t->result);
}

/* A frame has been saved, up to @end; go on with the next outer one. */
_Noreturn void chimera_captured(struct thread *t, void *end)
{
    struct record *rec = t->record;
    uint64_t pad;

    if (rec->flags & (REC_F_FRAME | REC_F_CLONE)) {
        rec->low[ISA_HERE] = min_u64(rec->low[ISA_HERE], t->ctx.sp);
    }
    for (int i = 0; i < CHIMERA_ISA_COUNT; i++) {
        t->low[i] = min_u64(t->low[i], rec->low[i]);
    }
    t->nr_frames++;
    if (!chimera_unwind(&t->ctx)) {
        chimera_die("a captured frame has no unwind information");
    }
    if (rec->flags & REC_F_CLONE) {
        rec->place[ISA_HERE] = t->ctx.sp;
    }
    chimera_unwind_shift(&t->ctx);
    pad = chimera_landing_pad(t->ctx.pc);
    if (!pad || t->nr_frames >= max_frames ||
        (unsigned char *)end + REC_MAX_BYTES > t->buffer + t->buffer_bytes) {
        finish_segment(t, rec);
    }
    start_record(t, end, rec);
    chimera_enter_pad(&t->ctx, pad, t->record);
}

/*
 * Says of the frames in the buffer where their clones are to be called, and
 * returns where the outermost one's f$entry is.  @start: all below is free, but
 * for what the frames keep.
 */
static uint64_t place(struct thread *t, uint64_t start)
{
    /* An entry fits above each new place: its frame may be outermost next. */
    const uint64_t below = (t->low[ISA_HERE] & ~15ull) - ENTRY_BYTES;
    struct record *rec = t->record;
    uint64_t at = rec->place[ISA_HERE], outer;
    bool again = at && at + ENTRY_BYTES <= start;

    if (!again) {
        at = min_u64((start & ~15ull) - ENTRY_BYTES, below);
    }
    start = at + ENTRY_BYTES;
    rec->at = at;
    while (rec->inner) {
        outer = rec->low[ISA_HERE];     /* where the clone's frame ends */
        rec = rec->inner;
        again = again && rec->place[ISA_HERE] &&
                rec->place[ISA_HERE] <= outer;
        at = again ? rec->place[ISA_HERE] : min_u64(at, below);
        rec->at = at;
    }
    return start;
}

enum run_end chimera_run(struct thread *t, uint64_t start, bool asked)
{
    struct run run = { .up = t->run[ISA_HERE], .asked = asked };
    uint64_t usp = t->usp[ISA_HERE];
    struct record *outer = t->record;
    /* A handler may run, move and have a result before signals are blocked. */
    unsigned char result[sizeof(t->result)] __attribute__((aligned(16)));
    int end;

    /* What the records keep is kept until the run ends, on every ISA. */
    for (int i = 0; i < CHIMERA_ISA_COUNT; i++) {
        run.limit[i] = t->limit[i];
        t->limit[i] = min_u64(run.limit[i], t->low[i]);
    }
    start = place(t, start);
    t->run[ISA_HERE] = &run;
    t->here = chimera_node;
    end = chimera_call_on(__chimera_table[outer->fn].entry, outer, result,
                          start, &run.sp, &t->usp[ISA_HERE]);
    t = __chimera_self;
    if (end == RUN_RETURNED) {
        chimera_block_signals(t);
        __builtin_memcpy(t->result, result, sizeof(result));
    }
    t->run[ISA_HERE] = run.up;
    for (int i = 0; i < CHIMERA_ISA_COUNT; i++) {
        t->limit[i] = run.limit[i];
    }
    t->usp[ISA_HERE] = usp;
    return end;
}

/* On the stack of a jump's target, below its frame. */
static void land(void *arg)
{
    struct thread *t = __chimera_self;
    const uint64_t buf = t->jump.buf;
    const int64_t value = t->jump.value;

    /* A handler that runs now finds the thread where the jump goes. */
    chimera_unblock_signals(t);
    chimera_restore_jump(buf, value);
}

/*
 * longjmp: the target may be on the other ISA, or below segments that were
 * started for a peer.  Runs above it end one by one, innermost first; a run
 * that a peer waits for ends with RUN_JUMPED and the peer goes on from there.
 */
_Noreturn void chimera_jump(uint64_t buf, int64_t value)
{
    struct thread *t = __chimera_self;

    if (t) {
        const uint64_t isa = *(uint64_t *)(buf + JB_ISA);

        struct run *target = *(struct run **)(buf + JB_RUN);

        if (t->here != chimera_node && t->away) {
            /* In a handler at home; the other end may be of the same ISA. */
            t->away->theirs = t->run[ISA_HERE];
            t->run[ISA_HERE] = t->away;
        }

        for (;;) {
            struct run *run = t->run[ISA_HERE];

            if (isa == ISA_HERE && run == target) {
                break;
            }
            if (!run) {
                chimera_die("longjmp to a jump buffer whose function has "
                            "returned");
            }
            if (run->asked) {
                chimera_block_signals(t);
                t->jump.buf = buf;
                t->jump.value = value;
                chimera_leave(run->sp, RUN_JUMPED);
            }
            t->run[ISA_HERE] = run->up;
            for (int i = 0; i < CHIMERA_ISA_COUNT; i++) {
                t->limit[i] = run->limit[i];
            }
        }
        if (!target || !target->away) {
            t->usp[ISA_HERE] = target ? target->sp : t->unwind_top[ISA_HERE];
            t->busy = 0;
            t->here = chimera_node;
        } else if (target->theirs) {
            t->run[ISA_HERE] = target->theirs;  /* it stays in the handler */
        }
    }
    __chimera_dsp = *(char **)(buf + JB_DSP);
    if (t && t->blocked) {
        t->jump.buf = buf;
        t->jump.value = value;
        chimera_start_on(*(uint64_t *)(buf + JB_SP) & ~15ull, land, NULL);
    }
    chimera_restore_jump(buf, value);
}

/* A jump that arrives from a peer, while signals are blocked here. */
_Noreturn void chimera_jump_arrived(struct thread *t)
{
    chimera_jump(t->jump.buf, t->jump.value);
}

/* The calling thread ends while it is away: its side goes back to waiting. */
_Noreturn void chimera_exit_away(uint64_t base, uint64_t len)
{
    struct thread *t = __chimera_self;

    t->dead.base = base;
    t->dead.len = len;
    chimera_served(t, RUN_EXITED);
}

void *__chimera_dynamic_alloca(uint64_t len, uint64_t align)
{
    struct thread *t = chimera_thread();
    uint64_t p;

    if (!t) {
        chimera_die("out of memory for a thread's dynamic arrays");
    }
    p = (uint64_t)(__chimera_dsp ? __chimera_dsp : t->dynamic_top);
    if (align < 16) {
        align = 16;
    }
    if (len > p - (uint64_t)t->dynamic_low - align) {
        chimera_die("dynamic arrays of a thread exceed their stack");
    }
    p = (p - len) & ~(align - 1);
    __chimera_dsp = (char *)p;
    return (char *)p;
}

/* carry() of self-migration: resume the clones right here. */
static void self_carry(struct thread *t, uint64_t base_sp,
                       struct record *outer)
{
    enum run_end end;

    do {
        end = chimera_run(t, base_sp, false);
        t = __chimera_self;
    } while (end == RUN_CAPTURED);
}

const struct transport chimera_transport_self = {
    .name = "self",
    .carry = self_carry,
};

/* --- <chimera.h> ------------------------------------------------------------- */

#define EINVAL 22
#define ENOMEM 12

int chimera_nodes(void)
{
    return chimera_nr_nodes;
}

int chimera_here(void)
{
    return chimera_node;
}

unsigned long chimera_hops(void)
{
    return __chimera_self ? __chimera_self->hops : 0;
}

int chimera_request(int node)
{
    struct thread *t;

    if (node >= chimera_nodes()) {
        return -EINVAL;
    }
    if (chimera_mode == MODE_PLAIN) {
        return 0;
    }
    t = chimera_thread();
    if (!t) {
        return -ENOMEM;
    }
    if ((t->want < 0) != (node < 0)) {
        /* Polls look further only while somebody wants something. */
        __atomic_fetch_add(&__chimera_flag, node < 0 ? -4 : 4,
                           __ATOMIC_SEQ_CST);
    }
    t->want = node < 0 ? -1 : node;
    t->pinned = 0;
    return 0;
}
