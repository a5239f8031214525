/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Ticket locks whose waiters can be overtaken: include/asm-generic/ticket_lock.h
 * and kernel/locking/preemptable_ticket.c in ../files, step by step. One
 * step is what the processor does at once: one load, one store, one atomic.
 * docs/locks.md tells what is proved; `check` runs spin on these variants:
 *
 *   CPUS=N       processors that lock and unlock for ever
 *   TICKETS=N    ticket numbers before they repeat (256 in the kernel)
 *   PATIENCE=N   looks at the lock for each place in the queue; without it a
 *                time-out may come at any time
 *   IN_ORDER     no time-outs: an ordinary ticket lock
 *   TRYLOCK      one more processor uses spin_trylock() only
 *   HALT         one processor may stop for good while it waits
 *   ONE          the LTL formula `served`: who waits gets in
 *
 * and two mistakes that must be found:
 *
 *   BREAK_CMPXCHG  test and set are two steps
 *   BREAK_HEAD     head goes past the winner's ticket in any case
 */
#ifndef CPUS
#define CPUS 3
#endif
#ifndef TICKETS
#define TICKETS 8
#endif

#define SUB(a, b) ((TICKETS + (a) - (b)) % TICKETS)

/* The word. Wraps as the kernel's u8 do, at another number. */
bit locked;
byte head, tail;

/* Not in the kernel: what is asserted about it. */
byte inside;      /* processors that have the lock */
byte outstanding; /* tickets that were taken and not served */
#ifdef HALT
bool halted;
#endif
#ifdef ONE
bool waits, enters; /* processor 0's */
#endif

/* The queue is no longer than who waits, so head never passes tail. */
#define CHECK_QUEUE assert(SUB(tail, head) <= outstanding)

inline note_wait()
{
#ifdef ONE
    if
    :: _pid == 0 -> enters = false; waits = true
    :: else
    fi
#else
    skip
#endif
}

inline note_enter()
{
    inside++;
    assert(inside == 1);
#ifdef ONE
    if
    :: _pid == 0 -> waits = false; enters = true
    :: else
    fi
#endif
}

active [CPUS] proctype cpu()
{
    byte h, t, ticket, ahead, spun;
    bool idle;

again:
    /* arch_spin_lock() */
    atomic {
        h = head;
        t = tail;
        idle = locked == 0 && h == t
    }
    atomic {
        if
        :: idle && locked == 0 && head == h && tail == t ->
            locked = 1;
            note_enter();
            h = 0;
            t = 0;
            idle = false;
            goto critical
        :: else ->
            h = 0;
            t = 0;
            idle = false
        fi
    }

    /* preemptable_ticket_lock_wait() */
    atomic {
        ticket = tail;
        tail = (tail + 1) % TICKETS;
        outstanding++;
        note_wait();
        CHECK_QUEUE
    }
    do
    :: atomic {
#ifdef HALT
            if
            :: !halted -> halted = true; goto stopped
            :: skip
            fi;
#endif
            ahead = SUB(ticket, head);
            if
            :: ahead == 0 || ahead >= SUB(tail, head) -> break
            :: else
            fi;
#ifndef IN_ORDER
#ifdef PATIENCE
            if
            :: spun >= ahead * PATIENCE -> break
            :: else -> spun++
            fi;
#else
            if
            :: break
            :: skip
            fi;
#endif
#endif
            skip
        }
    od;
    spun = 0;
    ahead = 0;
    do
    :: locked == 0 ->
#ifdef BREAK_CMPXCHG
        locked = 1;
        atomic { note_enter(); break }
#else
        atomic {
            if
            :: locked == 0 -> locked = 1; note_enter(); break
            :: else
            fi
        }
#endif
    od;
#ifdef IN_ORDER
    assert(ticket == head); /* in the order in which they came */
#endif
    atomic { h = head; t = tail }
    atomic {
        outstanding--; /* a ghost, so in the same step as what serves it */
        if
#ifdef BREAK_HEAD
        :: true -> head = (ticket + 1) % TICKETS
#else
        :: SUB(ticket, h) < SUB(t, h) -> head = (ticket + 1) % TICKETS
#endif
        :: else
        fi;
        CHECK_QUEUE;
        ticket = 0;
        h = 0;
        t = 0
    }

critical:
progress:
    inside--;
    /* arch_spin_unlock() */
    locked = 0;
    goto again;

#ifdef HALT
stopped:
end:
    false
#endif
}

#ifdef TRYLOCK
/* arch_spin_trylock(), now and then: it takes what is free. */
active proctype trier()
{
end:
    do
    :: locked == 0 ->
        atomic {
            if
            :: locked == 0 ->
                locked = 1;
                inside++;
                assert(inside == 1)
            :: else -> goto end
            fi
        }
progress:
        inside--;
        locked = 0
    od
}
#endif

#ifdef ONE
ltl served { [] (waits -> <> enters) }
#endif
