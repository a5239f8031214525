/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "guard.h"

#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    /* A killed QEMU gives back its memory first; gigabytes take a while. */
    KILL_TIMEOUT_MS = 20000,
    ASK_TIMEOUT_MS = 8000, /* more than a courier takes to leave */
    /* ISAs times nodes is bounded by the fabric, see virtio_fabric.h */
    MAX_WATCHED = 64,
};

struct watched {
    int pidfd; /* the caller's */
    bool ask;
};

struct guard {
    const struct rundir *rd;
    int lifeline_fd;
    pid_t pid;
    int fd; /* our end of the socket pair */
    GArray *watched; /* of struct watched */
};

static int sys_pidfd_send_signal(int pidfd, int sig)
{
    return (int)syscall(SYS_pidfd_send_signal, pidfd, sig, NULL, 0);
}

static bool send_fd(int sock, int fd, bool ask)
{
    char byte = (char)ask;
    union {
        struct cmsghdr align;
        char buf[CMSG_SPACE(sizeof(int))];
    } control = { 0 };
    struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
    struct msghdr msg = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = control.buf,
        .msg_controllen = sizeof(control.buf),
    };
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    ssize_t n;

    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &fd, sizeof(int));
    do {
        n = sendmsg(sock, &msg, MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    return n == 1;
}

/* Return: 1 a byte came, *ret_fd >= 0 if with a descriptor; 0 end; -1. */
static int receive_fd(int sock, int *ret_fd, bool *ret_ask)
{
    char byte = 0;
    union {
        struct cmsghdr align;
        char buf[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
    struct msghdr msg = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = control.buf,
        .msg_controllen = sizeof(control.buf),
    };
    struct cmsghdr *c;
    ssize_t n;

    *ret_fd = -1;
    do {
        n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
    } while (n < 0 && errno == EINTR);
    if (n > 0 && (c = CMSG_FIRSTHDR(&msg)) && c->cmsg_level == SOL_SOCKET &&
        c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int))) {
        memcpy(ret_fd, CMSG_DATA(c), sizeof(int));
    }
    *ret_ask = byte != 0;
    return n > 0 ? 1 : (int)n;
}

/* Closes every descriptor but these. */
static void keep_only(const int *keep, unsigned n)
{
    unsigned from = 0;

    for (;;) {
        unsigned next = ~0u;

        for (unsigned i = 0; i < n; i++) {
            if (keep[i] >= 0 && (unsigned)keep[i] >= from) {
                next = MIN(next, (unsigned)keep[i]);
            }
        }
        if (next > from) {
            syscall(SYS_close_range, from, next - 1, 0);
        }
        if (next == ~0u) {
            return;
        }
        from = next + 1;
    }
}

/* End them all; those that have to be asked have some time for it. */
static void end_all(const struct watched *w, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        sys_pidfd_send_signal(w[i].pidfd, w[i].ask ? SIGTERM : SIGKILL);
    }
    for (unsigned i = 0; i < n; i++) {
        struct pollfd p = { .fd = w[i].pidfd, .events = POLLIN };

        if (w[i].ask && poll(&p, 1, ASK_TIMEOUT_MS) == 0) {
            sys_pidfd_send_signal(w[i].pidfd, SIGKILL);
        }
    }
    for (unsigned i = 0; i < n; i++) {
        struct pollfd p = { .fd = w[i].pidfd, .events = POLLIN };

        poll(&p, 1, KILL_TIMEOUT_MS);
    }
}

static G_NORETURN void guard_main(const struct guard *g, int sock)
{
    struct watched watched[MAX_WATCHED];
    const int keep[] = { sock, g->rd->lock_fd, g->lifeline_fd };
    unsigned n = 0;
    sigset_t all;
    bool ask;
    int fd;

    setsid();
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    prctl(PR_SET_NAME, "chimera-guard");
    keep_only(keep, G_N_ELEMENTS(keep));
    if (chdir("/") < 0) {
        _exit(1); /* cannot fail; a warning otherwise */
    }
    while (receive_fd(sock, &fd, &ask) > 0) {
        if (fd >= 0 && n < MAX_WATCHED) {
            watched[n++] = (struct watched) { fd, ask };
        }
    }
    end_all(watched, n);
    rundir_remove(g->rd->path);
    _exit(0);
}

static bool guard_fork(struct guard *g, GError **error)
{
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_HOST, "socketpair: %s",
                    g_strerror(errno));
        return false;
    }
    g->pid = fork();
    if (g->pid < 0) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_HOST, "fork: %s",
                    g_strerror(errno));
        close(pair[0]);
        close(pair[1]);
        return false;
    }
    if (g->pid == 0) {
        guard_main(g, pair[1]);
    }
    close(pair[1]);
    g->fd = pair[0];
    return true;
}

struct guard *guard_start(const struct rundir *rd, int lifeline_fd,
                          GError **error)
{
    struct guard *g = g_new0(struct guard, 1);

    g->rd = rd;
    g->lifeline_fd = lifeline_fd;
    g->watched = g_array_new(FALSE, FALSE, sizeof(struct watched));
    if (!guard_fork(g, error)) {
        g_array_unref(g->watched);
        g_free(g);
        return NULL;
    }
    return g;
}

bool guard_restart(struct guard *g, GError **error)
{
    close_fd(&g->fd);
    waitpid(g->pid, NULL, 0);
    if (!guard_fork(g, error)) {
        return false;
    }
    for (unsigned i = 0; i < g->watched->len; i++) {
        const struct watched *w =
            &g_array_index(g->watched, struct watched, i);

        send_fd(g->fd, w->pidfd, w->ask);
    }
    return true;
}

int guard_fd(const struct guard *g)
{
    return g->fd;
}

bool guard_watch(struct guard *g, int pidfd, bool ask, GError **error)
{
    struct watched w = { pidfd, ask };

    g_assert(g->watched->len < MAX_WATCHED);
    g_array_append_val(g->watched, w);
    if (!send_fd(g->fd, pidfd, ask)) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_HOST,
                    "the guard process is gone: %s", g_strerror(errno));
        return false;
    }
    return true;
}

void guard_finish(struct guard *g)
{
    int status = -1;

    close_fd(&g->fd);
    while (waitpid(g->pid, &status, 0) < 0 && errno == EINTR) {}
    if (status != 0) {
        /* Somebody killed the guard; its work is ours then. */
        end_all((const struct watched *)g->watched->data, g->watched->len);
        rundir_remove(g->rd->path);
    }
    g_array_unref(g->watched);
    g_free(g);
}
