/*
 * Idle vCPUs wait for other nodes by themselves
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What arrives from another node usually ends as an interrupt for a vCPU that
 * has nothing to do. If the main loop takes it, two threads have to be woken
 * one after the other: the main loop, and then the vCPU's. So one idle vCPU
 * waits for libdsm's descriptor besides being kicked, and delivers what comes
 * itself. The main loop does it whenever no vCPU is waiting so.
 *
 * The main loop polls an epoll set in which libdsm's descriptor is disarmed
 * while a vCPU waits: changing that does not wake the main loop, as a change
 * of its handlers would.
 *
 * Messages often come in quick succession: an answer, the next request. So
 * before it blocks, the vCPU polls for as long as that has paid lately, as KVM
 * and iothreads do: waking a thread costs more than the rest of a message's
 * way. It never yields meanwhile, which on a busy host would cost a time
 * slice; if the CPU is wanted, the host's scheduler takes it, and polling that
 * did not pay is given up.
 *
 * All state is guarded by the BQL, except that a kick reads dsm_idle.cpu, and
 * that the waiting vCPU owns poll_ns.
 */

#include "qemu/osdep.h"
#include <poll.h>
#include <sys/epoll.h>
#include "hw/core/cpu.h"
#include "qapi/error.h"
#include "qemu/event_notifier.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "system/cpus.h"
#include "system/dsm.h"
#include "system/hostmem-dsm.h"

static struct {
    int fd;                 /* libdsm's */
    int gate;               /* the epoll set; -1: not in use */
    EventNotifier kick;
    IOHandler *dispatch;
    void *opaque;
    CPUState *cpu;          /* waits now */
    int preferred;          /* index of the vCPU that may: where the last
                               interrupts went */
    int64_t poll_ns;        /* how long to poll before blocking */
    int64_t poll_max_ns;
} dsm_idle = { .gate = -1 };

static void dsm_idle_arm(bool arm)
{
    struct epoll_event ev = { .events = arm ? EPOLLIN : 0 };

    /* Cannot fail: both descriptors are valid and the one is in the other. */
    epoll_ctl(dsm_idle.gate, EPOLL_CTL_MOD, dsm_idle.fd, &ev);
}

#define POLL_MIN_NS 10000

/*
 * Wait without the BQL. Polling grows as long as what ends a wait comes soon
 * after the vCPU has blocked, and shrinks when it takes much longer.
 */
static void dsm_idle_poll(struct pollfd *fds, nfds_t n)
{
    const int64_t start = get_clock(), max = dsm_idle.poll_max_ns;
    int64_t waited;

    do {
        int ret = poll(fds, n, 0);

        if (ret > 0) {
            return;
        }
        waited = get_clock() - start;
    } while (waited < dsm_idle.poll_ns);

    if (poll(fds, n, -1) < 0) {
        fds[0].revents = fds[1].revents = 0; /* EINTR */
    }
    waited = get_clock() - start;
    if (waited > max) {
        dsm_idle.poll_ns /= 2;
        if (dsm_idle.poll_ns < POLL_MIN_NS) {
            dsm_idle.poll_ns = 0;
        }
    } else {
        dsm_idle.poll_ns = MIN(MAX(dsm_idle.poll_ns * 2, POLL_MIN_NS), max);
    }
}

bool dsm_idle_start(int fd, uint32_t poll_max_ns, IOHandler *dispatch,
                    void *opaque, Error **errp)
{
    struct epoll_event ev = { .events = EPOLLIN };
    int ret = event_notifier_init(&dsm_idle.kick, false);

    if (ret < 0) {
        error_setg_errno(errp, -ret, "cannot create an event descriptor");
        return false;
    }
    dsm_idle.gate = epoll_create1(EPOLL_CLOEXEC);
    if (dsm_idle.gate < 0 ||
        epoll_ctl(dsm_idle.gate, EPOLL_CTL_ADD, fd, &ev) < 0) {
        error_setg_errno(errp, errno, "cannot create an epoll set");
        if (dsm_idle.gate >= 0) {
            close(dsm_idle.gate);
            dsm_idle.gate = -1;
        }
        event_notifier_cleanup(&dsm_idle.kick);
        return false;
    }
    dsm_idle.fd = fd;
    dsm_idle.poll_max_ns = poll_max_ns;
    dsm_idle.dispatch = dispatch;
    dsm_idle.opaque = opaque;
    qemu_set_fd_handler(dsm_idle.gate, dispatch, NULL, opaque);
    return true;
}

/* A vCPU that still waits comes back at its next kick, and finds it so. */
void dsm_idle_stop(void)
{
    if (dsm_idle.gate >= 0) {
        qemu_set_fd_handler(dsm_idle.gate, NULL, NULL, NULL);
        close(dsm_idle.gate);
        dsm_idle.gate = -1;
    }
}

/* After what came was delivered: did it wake another vCPU than @cpu? */
static void dsm_idle_prefer(CPUState *cpu)
{
    CPUState *other;

    if (cpu_has_work(cpu)) {
        return;
    }
    CPU_FOREACH(other) {
        if (other->halted && cpu_has_work(other)) {
            dsm_idle.preferred = other->cpu_index;
            return;
        }
    }
}

bool dsm_idle_wait(CPUState *cpu)
{
    struct pollfd fds[2];

    if (dsm_idle.gate < 0 || dsm_idle.cpu ||
        dsm_idle.preferred != cpu->cpu_index || cpu_is_stopped(cpu)) {
        return false;
    }
    fds[0] = (struct pollfd){ .fd = dsm_idle.fd, .events = POLLIN };
    fds[1] = (struct pollfd){
        .fd = event_notifier_get_fd(&dsm_idle.kick), .events = POLLIN,
    };

    /* Pairs with dsm_idle_kick(): it sees us, or we see its reason. */
    qatomic_set_mb(&dsm_idle.cpu, cpu);
    if (cpu_thread_is_idle(cpu)) {
        dsm_idle_arm(false);
        bql_unlock();
        dsm_idle_poll(fds, ARRAY_SIZE(fds));
        bql_lock();
        if (dsm_idle.gate >= 0) {
            if (fds[0].revents) {
                dsm_idle.dispatch(dsm_idle.opaque);
                dsm_idle_prefer(cpu);
            }
            dsm_idle_arm(true);
        }
        if (fds[1].revents) {
            event_notifier_test_and_clear(&dsm_idle.kick);
        }
    }
    qatomic_set(&dsm_idle.cpu, NULL);
    return true;
}

void dsm_idle_kick(CPUState *cpu)
{
    smp_mb(); /* Pairs with qatomic_set_mb() in dsm_idle_wait(). */
    if (qatomic_read(&dsm_idle.cpu) == cpu) {
        event_notifier_set(&dsm_idle.kick);
    }
}
