/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include "spawn.h"

#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <pty.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#define CGROUP_ROOT "/sys/fs/cgroup"

#if defined(__x86_64__)
#define OWN_MACHINE EM_X86_64
#define OWN_ISA "x86_64"
#elif defined(__aarch64__)
#define OWN_MACHINE EM_AARCH64
#define OWN_ISA "aarch64"
#else
#error "an ISA without nodes"
#endif

const char *spawn_getenv(char *const *envp, const char *name)
{
    size_t n = strlen(name);

    for (; envp && *envp; envp++) {
        if (!strncmp(*envp, name, n) && (*envp)[n] == '=') {
            return *envp + n + 1;
        }
    }
    return NULL;
}

/* ---- the child, between fork and exec ---- */

static _Noreturn void __attribute__((format(printf, 3, 4)))
child_fail(int status_fd, int err, const char *fmt, ...)
{
    struct spawn_failure f = { .err = err };
    ssize_t n;
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(f.text, sizeof(f.text), fmt, ap);
    va_end(ap);
    /* Smaller than PIPE_BUF into an empty pipe: all or nothing. */
    do {
        n = write(status_fd, &f, sizeof(f));
    } while (n < 0 && errno == EINTR);
    _exit(127);
}

/* Say more than errno does about a file that exists and cannot be started. */
static const char *why_not(const char *path, int err)
{
    unsigned char ident[EI_NIDENT + 4];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n;
    unsigned machine;

    if (fd < 0) {
        return NULL;
    }
    n = read(fd, ident, sizeof(ident));
    close(fd);
    if (n >= 2 && !memcmp(ident, "#!", 2)) {
        return err == ENOENT ? "the interpreter of this script is missing"
                             : NULL;
    }
    if (n < (ssize_t)sizeof(ident) || memcmp(ident, ELFMAG, SELFMAG)) {
        return err == ENOEXEC ? "neither an ELF program nor a #! script" : NULL;
    }
    machine = ident[EI_NIDENT + 2] | ident[EI_NIDENT + 3] << 8;
    if (machine != OWN_MACHINE) {
        return machine == EM_X86_64 ? "an x86_64 program on an " OWN_ISA " node"
               : machine == EM_AARCH64
                   ? "an aarch64 program on an " OWN_ISA " node"
                   : "a program for another ISA than " OWN_ISA;
    }
    return err == ENOENT ? "its dynamic loader is missing: link it statically"
                         : NULL;
}

static _Noreturn void child_exec(const struct spawn_request *req, int status_fd)
{
    const char *name = req->argv[0];
    const char *path = spawn_getenv(req->envp, "PATH");
    char file[PATH_MAX];
    int err = ENOENT;
    const char *why;

    if (!*name) {
        child_fail(status_fd, ENOENT, "the program's name is empty");
    }
    if (strchr(name, '/')) {
        execve(name, req->argv, req->envp);
        err = errno;
        why = why_not(name, err);
        child_fail(status_fd, err, "%s: %s", name, why ? why : strerror(err));
    }
    for (const char *p = path ? path : SPAWN_DEFAULT_PATH, *end; p;
         p = end ? end + 1 : NULL) {
        end = strchr(p, ':');
        int dir_len = end ? (int)(end - p) : (int)strlen(p);
        int n = snprintf(file, sizeof(file), "%.*s%s%s", dir_len, p,
                         dir_len ? "/" : "", name);

        if (n < 0 || (size_t)n >= sizeof(file)) {
            continue;
        }
        execve(file, req->argv, req->envp);
        if (errno == ENOENT || errno == ENOTDIR) {
            /* A file that is there but whose interpreter is not ends here. */
            why = access(file, X_OK) ? NULL : why_not(file, ENOENT);
            if (why) {
                child_fail(status_fd, ENOENT, "%s: %s", file, why);
            }
            continue;
        }
        if (errno == EACCES) {
            err = EACCES;
            continue;
        }
        err = errno;
        why = why_not(file, err);
        child_fail(status_fd, err, "%s: %s", file, why ? why : strerror(err));
    }
    if (err == ENOENT) {
        child_fail(status_fd, err, "%s: not found in PATH (%s)", name,
                   path ? path : SPAWN_DEFAULT_PATH);
    }
    child_fail(status_fd, err, "%s: %s", name, strerror(err));
}

static void child_join_group(const char *group)
{
    char path[sizeof(CGROUP_ROOT) + SPAWN_GROUP_BYTES + 16];
    int fd;

    if (!*group) {
        return;
    }
    snprintf(path, sizeof(path), CGROUP_ROOT "/%s/cgroup.procs", group);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        /* Not joining only means that the process group is all there is. */
        if (write(fd, "0", 1) < 0) {
            errno = 0;
        }
        close(fd);
    }
}

static _Noreturn void child_main(const struct spawn_request *req,
                                 const char *group, const int fds[3],
                                 int status_fd)
{
    sigset_t none;
    struct sigaction dfl = { .sa_handler = SIG_DFL };

    for (int sig = 1; sig < NSIG; sig++) {
        sigaction(sig, &dfl, NULL);
    }
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);

    setsid();
    child_join_group(group);
    if (req->tty && ioctl(fds[0], TIOCSCTTY, 0) < 0) {
        child_fail(status_fd, errno, "controlling terminal: %s",
                   strerror(errno));
    }
    /* Ours are all above 2: the caller never runs without 0, 1 and 2. */
    for (int i = 0; i < 3; i++) {
        if (dup2(fds[i], i) < 0) {
            child_fail(status_fd, errno, "standard streams: %s",
                       strerror(errno));
        }
    }
    if (geteuid() == 0 && (setgroups(req->nr_groups, req->groups) < 0 ||
                           setgid(req->gid) < 0 || setuid(req->uid) < 0)) {
        child_fail(status_fd, errno, "user %u, group %u: %s",
                   (unsigned)req->uid, (unsigned)req->gid, strerror(errno));
    }
    if (chdir(req->cwd ? req->cwd : "/") < 0) {
        /* ENOENT says that there is no such program. */
        child_fail(status_fd, errno == ENOENT ? ENOTDIR : errno,
                   "working directory %s: %s", req->cwd, strerror(errno));
    }
    child_exec(req, status_fd);
}

/* ---- the parent ---- */

static void close_all(int *fds, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
            fds[i] = -1;
        }
    }
}

static int unblock_fd(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
}

static void group_make(const char *name, char *ret_group)
{
    char path[sizeof(CGROUP_ROOT) + SPAWN_GROUP_BYTES];

    ret_group[0] = '\0';
    if (!name) {
        return;
    }
    snprintf(path, sizeof(path), CGROUP_ROOT "/%s", name);
    if (!mkdir(path, 0755) || errno == EEXIST) {
        snprintf(ret_group, SPAWN_GROUP_BYTES, "%s", name);
    }
}

static void group_remove(const char *group)
{
    char path[sizeof(CGROUP_ROOT) + NAME_MAX + 1];

    if (*group) {
        /* EBUSY: somebody it started lives on, as it may. */
        snprintf(path, sizeof(path), CGROUP_ROOT "/%s", group);
        rmdir(path);
    }
}

int spawn_start(const struct spawn_request *req, struct spawn_child *ret_child)
{
    enum { IN_R, IN_W, OUT_R, OUT_W, ERR_R, ERR_W, ST_R, ST_W, NR };
    int fd[NR];
    struct spawn_child child = { .in = -1, .out = -1, .err = -1 };
    int child_fds[3];
    int err;

    memset(fd, -1, sizeof(fd));
    group_make(req->group, child.group);
    if (pipe2(&fd[ST_R], O_CLOEXEC) < 0) {
        goto fail;
    }
    if (req->tty) {
        struct winsize ws = { .ws_row = req->rows ? req->rows : 24,
                              .ws_col = req->cols ? req->cols : 80 };

        if (openpty(&fd[OUT_R], &fd[OUT_W], NULL, NULL, &ws) < 0 ||
            fcntl(fd[OUT_R], F_SETFD, FD_CLOEXEC) < 0 ||
            fcntl(fd[OUT_W], F_SETFD, FD_CLOEXEC) < 0) {
            goto fail;
        }
        fd[IN_W] = fcntl(fd[OUT_R], F_DUPFD_CLOEXEC, 0);
        if (fd[IN_W] < 0) {
            goto fail;
        }
        if (geteuid() == 0 && fchown(fd[OUT_W], req->uid, req->gid) < 0) {
            goto fail;
        }
        child_fds[0] = child_fds[1] = child_fds[2] = fd[OUT_W];
    } else {
        if (pipe2(&fd[IN_R], O_CLOEXEC) < 0 ||
            pipe2(&fd[OUT_R], O_CLOEXEC) < 0 ||
            pipe2(&fd[ERR_R], O_CLOEXEC) < 0) {
            goto fail;
        }
        child_fds[0] = fd[IN_R];
        child_fds[1] = fd[OUT_W];
        child_fds[2] = fd[ERR_W];
    }
    if (unblock_fd(fd[IN_W]) < 0 || unblock_fd(fd[OUT_R]) < 0 ||
        (fd[ERR_R] >= 0 && unblock_fd(fd[ERR_R]) < 0) ||
        unblock_fd(fd[ST_R]) < 0) {
        goto fail;
    }
    child.pid = fork();
    if (child.pid < 0) {
        goto fail;
    }
    if (child.pid == 0) {
        child_main(req, child.group, child_fds, fd[ST_W]);
    }
    child.in = fd[IN_W];
    child.out = fd[OUT_R];
    child.err = fd[ERR_R];
    child.status_fd = fd[ST_R];
    close_all((int[]){ fd[IN_R], fd[OUT_W], fd[ERR_W], fd[ST_W] }, 4);
    *ret_child = child;
    return 0;

fail:
    err = -errno;
    group_remove(child.group);
    close_all(fd, NR);
    return err;
}

int spawn_result(const struct spawn_child *child, struct spawn_failure *ret)
{
    struct spawn_failure f;
    ssize_t n = read(child->status_fd, &f, sizeof(f));

    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return -EAGAIN;
    }
    if (n == 0) {
        return 0; /* closed by exec */
    }
    if (n != sizeof(f)) {
        f.err = EIO;
        strcpy(f.text, "the process ended before the program started");
    }
    f.text[sizeof(f.text) - 1] = '\0';
    *ret = f;
    return f.err > 0 ? -f.err : -EIO;
}

int spawn_signal(const struct spawn_child *child, bool tty, int sig)
{
    pid_t fg = tty && child->out >= 0 ? tcgetpgrp(child->out) : -1;
    int rc;

    if (child->pid <= 0) {
        return -ESRCH;
    }
    rc = kill(-child->pid, sig) < 0 ? -errno : 0;
    if (fg > 0 && fg != child->pid) {
        rc = kill(-fg, sig) < 0 ? -errno : 0;
    }
    return rc;
}

static void group_kill(const char *group)
{
    char path[sizeof(CGROUP_ROOT) + NAME_MAX + 16];
    int fd;

    snprintf(path, sizeof(path), CGROUP_ROOT "/%s/cgroup.kill", group);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        if (write(fd, "1", 1) < 0) {
            errno = 0; /* a kernel before 5.14: the process group must do */
        }
        close(fd);
    }
}

void spawn_kill(const struct spawn_child *child)
{
    if (*child->group) {
        group_kill(child->group);
    }
    if (child->pid > 0) {
        /* Until it has joined its groups, it is only found by its pid. */
        kill(child->pid, SIGKILL);
        kill(-child->pid, SIGKILL);
    }
}

void spawn_sweep(const char *prefix)
{
    DIR *dir = opendir(CGROUP_ROOT);
    struct dirent *d;

    while (dir && (d = readdir(dir))) {
        if (!strncmp(d->d_name, prefix, strlen(prefix))) {
            group_kill(d->d_name);
            group_remove(d->d_name);
        }
    }
    if (dir) {
        closedir(dir);
    }
}

void spawn_forget(struct spawn_child *child)
{
    int fds[] = { child->in, child->out, child->err, child->status_fd };

    close_all(fds, 4);
    child->in = child->out = child->err = child->status_fd = -1;
    group_remove(child->group);
    child->group[0] = '\0';
}
