/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * unix:PATH - nodes on one host. Passes regions as file descriptors and
 * talks only to processes of the same user or of root.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "transport.h"

#define UNIX_BACKLOG 128
/*
 * Asked for; the kernel doubles it for what it needs itself, and gives at most
 * net.core.wmem_max, 208 KiB unless somebody changed that. A sender that found
 * the default full is woken when three quarters have been read, and then the
 * receiver soon has nothing left.
 */
#define UNIX_SEND_BYTES (256 * 1024)

static int unix_address(const char *path, struct sockaddr_un *ret)
{
    size_t len = strlen(path);

    /* bind() could use all 108 bytes, but then the path has no NUL. */
    if (len == 0 || len >= sizeof(ret->sun_path)) {
        return -EINVAL;
    }
    *ret = (struct sockaddr_un) { .sun_family = AF_UNIX };
    memcpy(ret->sun_path, path, len);
    return 0;
}

static int unix_check(const char *where)
{
    struct sockaddr_un addr;

    return unix_address(where, &addr);
}

/* What cannot be had is done without. */
static void unix_widen(int fd)
{
    int bytes = UNIX_SEND_BYTES;

    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
}

static int unix_socket(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    return fd < 0 ? -errno : fd;
}

static int unix_connect_to(const struct sockaddr_un *addr, int *ret_fd)
{
    int fd = unix_socket();
    int err;

    if (fd < 0) {
        return fd;
    }
    unix_widen(fd);
    if (connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0) {
        err = errno;
        close(fd);
        return -err;
    }
    *ret_fd = fd;
    return 0;
}

static int unix_connect(void *ctx, const char *where, int *ret_fd)
{
    struct sockaddr_un addr;
    int ret = unix_address(where, &addr);

    return ret < 0 ? ret : unix_connect_to(&addr, ret_fd);
}

/*
 * Lock the directory of @path while a listener comes to be there: so whoever
 * finds a socket that refuses connections knows that it is stale, and not
 * one that was bound a moment ago and will listen in another. Without it two
 * processes could replace each other's socket and both believe to be
 * reachable (test_stale_race). Held for a few system calls, none of which
 * waits.
 */
static int unix_lock_directory(const char *path)
{
    const char *slash = strrchr(path, '/');
    char dir[sizeof(((struct sockaddr_un *)0)->sun_path)] = ".";
    int fd, ret;

    if (slash) {
        size_t len = slash == path ? 1 : slash - path;

        memcpy(dir, path, len);
        dir[len] = '\0';
    }
    fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    do {
        ret = flock(fd, LOCK_EX);
    } while (ret < 0 && errno == EINTR);
    if (ret < 0) {
        ret = -errno;
        close(fd);
        return ret;
    }
    return fd;
}

/* Remove the socket at @addr if no process listens behind it. */
static int unix_remove_stale(const struct sockaddr_un *addr)
{
    struct stat st;
    int fd = -1, ret;

    if (lstat(addr->sun_path, &st) < 0) {
        return errno == ENOENT ? 0 : -errno;
    }
    if (!S_ISSOCK(st.st_mode)) {
        return -ENOTSOCK;
    }
    ret = unix_connect_to(addr, &fd);
    if (ret == 0) {
        close(fd);
        return -EADDRINUSE;
    }
    /* -EAGAIN: its queue is full, so there is one. */
    if (ret != -ECONNREFUSED) {
        return ret == -EAGAIN ? -EADDRINUSE : ret;
    }
    return unlink(addr->sun_path) < 0 && errno != ENOENT ? -errno : 0;
}

/* Under the lock of its directory. */
static int unix_bind_and_listen(int fd, const struct sockaddr_un *addr,
                                struct stat *ret_stat)
{
    const struct sockaddr *sa = (const struct sockaddr *)addr;
    int ret;

    if (bind(fd, sa, sizeof(*addr)) < 0) {
        if (errno != EADDRINUSE) {
            return -errno;
        }
        ret = unix_remove_stale(addr);
        if (ret < 0) {
            return ret;
        }
        if (bind(fd, sa, sizeof(*addr)) < 0) {
            return -errno;
        }
    }
    if (listen(fd, UNIX_BACKLOG) < 0 || lstat(addr->sun_path, ret_stat) < 0) {
        ret = -errno;
        unlink(addr->sun_path);
        return ret;
    }
    return 0;
}

static int unix_listen(void *ctx, const char *where, struct dsm__listener *ret)
{
    struct sockaddr_un addr;
    struct stat st;
    int fd, lock, err;

    err = unix_address(where, &addr);
    if (err < 0) {
        return err;
    }
    fd = unix_socket();
    if (fd < 0) {
        return fd;
    }
    /* On Linux the file that bind() makes gets the socket's own mode. */
    if (fchmod(fd, 0600) < 0) {
        err = -errno;
        goto fail;
    }
    lock = unix_lock_directory(where);
    if (lock < 0) {
        err = lock;
        goto fail;
    }
    err = unix_bind_and_listen(fd, &addr, &st);
    close(lock);
    if (err < 0) {
        goto fail;
    }
    *ret = (struct dsm__listener) {
        .transport = &dsm__transport_unix,
        .fd = fd,
        .path = where,
        .dev = st.st_dev,
        .ino = st.st_ino,
    };
    return 0;

fail:
    close(fd);
    return err;
}

static int unix_accept(struct dsm__listener *listener)
{
    int fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (fd < 0) {
        return -errno;
    }
    unix_widen(fd);
    return fd;
}

static void unix_unlisten(struct dsm__listener *listener)
{
    struct stat st;

    if (lstat(listener->path, &st) == 0 && st.st_dev == listener->dev &&
        st.st_ino == listener->ino) {
        unlink(listener->path);
    }
    close(listener->fd);
}

static int unix_authorise(int fd, char who[DSM__WHO_BYTES])
{
    struct ucred cred;
    socklen_t len = sizeof(cred);

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0) {
        snprintf(who, DSM__WHO_BYTES, "an unknown process");
        return -EACCES;
    }
    snprintf(who, DSM__WHO_BYTES, "process %ld of user %lu", (long)cred.pid,
             (unsigned long)cred.uid);
    return cred.uid == geteuid() || cred.uid == 0 ? 0 : -EACCES;
}

const struct dsm__transport dsm__transport_unix = {
    .scheme = "unix",
    .passes_fds = true,
    .check = unix_check,
    .listen = unix_listen,
    .accept = unix_accept,
    .unlisten = unix_unlisten,
    .connect = unix_connect,
    .connect_result = dsm__sock_connect_result,
    .authorise = unix_authorise,
    .send = dsm__sock_conn_send,
    .recv = dsm__sock_conn_recv,
};
