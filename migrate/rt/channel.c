/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What home and its peers say to each other, whatever carries it.
 *
 * A thread of home has a channel to each node where it has been, and on the
 * other end a thread of the peer that serves it.  One side runs and the other
 * waits, so messages alternate:
 *
 *   RUN       run the frames in the buffer        -> RETURNED, CAPTURED, JUMPED,
 *                                                    EXITED
 *   CALL      do something at home                -> ANSWER, JUMPED
 *
 * A side that waits for RETURNED may be asked to RUN again (frames above a
 * native one came back, or are to go on to a third node: then home asks that
 * one); nesting is a stack on every side.  Peers talk to home only.
 *
 *   carry()  at the end of a segment   -> run_on(), or chimera_run() right here
 *   run_on() says RUN and serves the other end until the segment ends
 *
 * While another side runs there is a struct run for that time, too.  So a
 * handler that runs at home meanwhile can leave by longjmp: the other end is
 * told RUN_JUMPED and goes on from there, as after a longjmp of its own.
 */

#include "kernel.h"

const struct carrier *chimera_carrier;
extern int __chimera_flag;

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t stack_pointer(void)
{
    uint64_t sp;

#ifdef __x86_64__
    __asm__ volatile("mov %%rsp, %0" : "=r"(sp));
#else
    __asm__ volatile("mov %0, sp" : "=r"(sp));
#endif
    return sp;
}

/* Below what chimera_call_on() and its caller's frame may still write. */
#define BELOW_FRAME 1024

void chimera_end_kick(struct thread *t)
{
    if (__atomic_exchange_n(&t->kick, 0, __ATOMIC_SEQ_CST)) {
        __atomic_fetch_sub(&__chimera_flag, 2, __ATOMIC_SEQ_CST);
    }
}

/* Makes the thread call home at its next poll. */
static void kick(struct thread *t)
{
    if (!__atomic_exchange_n(&t->kick, 1, __ATOMIC_SEQ_CST)) {
        __atomic_fetch_add(&__chimera_flag, 2, __ATOMIC_SEQ_CST);
    }
}

void chimera_home_call(struct talk *k)
{
    struct thread *t = k->t;
    const int64_t *a = k->m.arg;
    struct message answer = { .kind = KIND_ANSWER };

    k->state = TALK_CALLS;
    /* Handlers that run now must not capture: this is the unwind stack. */
    t->busy = 1;
    chimera_end_kick(t);
    chimera_unblock_signals(t);
    switch ((enum home_call)k->m.what) {
    case HOME_NOTHING:
        break;
    case HOME_SYSCALL:
        answer.arg[0] = __chimera_syscall(a[0], a[1], a[2], a[3], a[4], a[5],
                                          a[6]);
        break;
    case HOME_CLONE:
        answer.arg[0] = chimera_home_clone(a[0], a[1], a[2], a[3], a[4], a[5],
                                           a[6]);
        break;
    }
    if (chimera_mode == MODE_PIPE_HOME) {
        chimera_block_signals(t);
    }
    t->busy = 0;
    k->m = answer;
}

static void talk_once(struct record *arg, void *unused)
{
    struct talk *k = (struct talk *)arg;

    if (k->wait_only && k->their_run) {
        k->t->run[ISA_HERE] = k->their_run;
        k->t->usp[ISA_HERE] = k->their_usp;
    }
    k->state = TALK_RUNS;
    chimera_carrier->exchange(k);
    /* A node of the same ISA has put its own there. */
    k->t->run[ISA_HERE] = k->away;
    k->t->usp[ISA_HERE] = k->away->sp;
    if (k->m.kind == KIND_CALL && !k->wait_only) {
        chimera_home_call(k);
    }
}

/* RUN_RETURNED or RUN_JUMPED: a handler left by longjmp */
static enum run_end talk(struct talk *k)
{
    struct thread *t = k->t;
    struct run away = { .up = t->run[ISA_HERE], .asked = true, .away = true };
    struct run *outer = t->away;
    uint64_t usp = t->usp[ISA_HERE];
    enum run_end end;

    k->away = t->run[ISA_HERE] = &away;
    if (!chimera_is_peer()) {
        t->away = &away;
    }
    end = chimera_call_on(talk_once, (struct record *)k, NULL,
                          (stack_pointer() - BELOW_FRAME) & ~15ull, &away.sp,
                          &t->usp[ISA_HERE]);
    if (!chimera_is_peer()) {
        t->away = outer;
    }
    if (end == RUN_JUMPED && k->state == TALK_RUNS) {
        k->their_run = away.theirs == &away ? NULL : away.theirs;
        k->their_usp = t->usp[ISA_HERE];
    }
    t->run[ISA_HERE] = away.up;
    t->usp[ISA_HERE] = usp;
    return end;
}

static enum run_end run_on(struct thread *t, int node);

/* The other side has captured frames above a native one of its own. */
static enum run_end run_asked(struct thread *t)
{
    enum run_end end;

    if (!chimera_is_peer() && t->target != chimera_node &&
        chimera_carrier->attach(t, t->target)) {
        end = run_on(t, t->target);
        if (end == RUN_EXITED) {
            chimera_exit_home(t->dead.base, t->dead.len);
        }
        return end;
    }
    if (!chimera_is_peer() && t->want == t->target &&
        t->want != chimera_node) {
        chimera_request(-1);    /* it cannot go there */
    }
    if (chimera_tracing && !chimera_is_peer()) {
        chimera_trace(t, t->here, chimera_node, NULL);
    }
    if (chimera_mode == MODE_KERNEL_PEER) {
        chimera_affinity_arrived(t, false);
    }
    return chimera_run(t, t->limit[ISA_HERE], true);
}

/* Runs the frames in the buffer on @node, or at home when we are a peer. */
static enum run_end run_on(struct thread *t, int node)
{
    struct talk k = { .t = t, .node = node, .m = { .kind = KIND_RUN } };
    bool home = !chimera_is_peer(), jumped = false;
    int from = t->here;
    typeof(t->jump) jump;
    enum run_end end;

    if (home && chimera_tracing) {
        chimera_trace(t, from, node, NULL);
    }
    for (;;) {
        t->here = node;
        end = talk(&k);
        k.wait_only = false;
        if (end == RUN_JUMPED) {
            jump = t->jump;
            if (k.state == TALK_CALLS) {
                t->busy = 0;
                k.m.kind = RUN_JUMPED;
            } else if (k.state == TALK_FAULTED) {
                t->jumped = 1;
            } else if (k.state == TALK_SYSCALL) {
                chimera_die("longjmp out of a handler, from a system call that "
                            "is not the C library's");
            } else {
                /* It runs; the jump takes effect when it asks for something. */
                jumped = true;
                k.wait_only = true;
                kick(t);
            }
            continue;
        }
        if (jumped) {
            chimera_end_kick(t);
            jumped = false;
            if (k.m.kind != RUN_EXITED) {
                t->jump = jump;
                if (k.m.kind == KIND_RUN || k.m.kind == KIND_CALL) {
                    k.m.kind = RUN_JUMPED;
                    continue;
                }
                k.m.kind = RUN_JUMPED;
            }
        }
        switch (k.m.kind) {
        case RUN_RETURNED:
        case RUN_CAPTURED:
        case RUN_JUMPED:
        case RUN_EXITED:
            if (home) {
                if (chimera_tracing && k.m.kind == RUN_RETURNED) {
                    chimera_trace(t, node, from, "returned");
                }
                /* A handler that runs now must not capture. */
                t->busy = 1;
                chimera_block_signals(t);
            }
            /* Frames that come back are still from there (tracing). */
            t->here = !home ? chimera_node
                      : k.m.kind == RUN_CAPTURED ? node : from;
            return k.m.kind;
        case KIND_RUN:
            if (home) {
                t->busy = 1;
                chimera_block_signals(t);
            }
            k.m.kind = run_asked(t);
            break;
        case KIND_ANSWER:
            break;
        default:
            chimera_die("unexpected message of another node");
        }
    }
}

static void channel_carry(struct thread *t, uint64_t base_sp,
                          struct record *outer)
{
    bool peer = chimera_is_peer();

    for (;;) {
        enum run_end end;

        if (t->target != chimera_node &&
            (peer || chimera_carrier->attach(t, t->target))) {
            t->limit[ISA_HERE] = min_u64(base_sp, t->low[ISA_HERE]);
            end = run_on(t, peer ? chimera_home : t->target);
        } else {
            if (t->target == t->want && t->want != chimera_node) {
                chimera_request(-1);    /* it cannot go there */
            }
            if (!peer && chimera_tracing && t->here != chimera_node) {
                chimera_trace(t, t->here, chimera_node, NULL);
            }
            end = chimera_run(t, base_sp, false);
        }
        switch (end) {
        case RUN_RETURNED:
            t->here = chimera_node;
            return;
        case RUN_CAPTURED:
            break;
        case RUN_JUMPED:
            chimera_jump_arrived(t);
        case RUN_EXITED:
            chimera_exit_home(t->dead.base, t->dead.len);
        }
    }
}

const struct transport chimera_transport_channel = {
    .name = "channel",
    .carry = channel_carry,
};

/* --- the peer ------------------------------------------------------------------ */

/* Asks home to do something for this thread. */
long chimera_call_home(enum home_call what, const long arg[7])
{
    struct thread *t = __chimera_self;
    struct talk k = { .t = t, .node = chimera_home,
                      .m = { .kind = KIND_CALL, .what = what } };

    struct run *run = t->run[ISA_HERE];
    uint64_t usp = t->usp[ISA_HERE];

    for (int i = 0; i < 7; i++) {
        k.m.arg[i] = arg[i];
    }
    chimera_carrier->exchange(&k);
    /* Home has put its own there if it is of the same ISA. */
    t->run[ISA_HERE] = run;
    t->usp[ISA_HERE] = usp;
    if (k.m.kind == RUN_JUMPED) {
        chimera_jump_arrived(t);
    }
    if (k.m.kind != KIND_ANSWER) {
        chimera_die("unexpected answer to a call");
    }
    return k.m.arg[0];
}

static void run_segment(void *arg)
{
    struct thread *t = arg;

    chimera_served(t, chimera_run(t, t->limit[ISA_HERE], true));
}

_Noreturn void chimera_serve(struct thread *t, struct message *m)
{
    if (m->kind != KIND_RUN) {
        chimera_die("unexpected message of home");
    }
    chimera_set_tp(t->tp);
    if (chimera_mode == MODE_KERNEL_PEER) {
        chimera_affinity_arrived(t, false);
    }
    chimera_start_on(t->side[chimera_node].unwind_top, run_segment, t);
}

static void answer_end(void *arg)
{
    struct thread *t = arg;
    struct talk k = { .t = t, .node = chimera_home,
                      .m = { .kind = t->side[chimera_node].end },
                      .idle = true };

    chimera_carrier->exchange(&k);
    chimera_serve(t, &k.m);
}

_Noreturn void chimera_served(struct thread *t, enum run_end end)
{
    t->side[chimera_node].end = end;
    chimera_start_on(chimera_carrier->server_stack(t), answer_end, t);
}
