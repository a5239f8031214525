/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What all transports over stream sockets share. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "transport.h"

int dsm__sock_connect_result(int fd)
{
    int err = 0;
    socklen_t len = sizeof(err);

    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0) {
        return -errno;
    }
    return -err;
}

ssize_t dsm__sock_send(int fd, const struct iovec *iov, int iovcnt,
                       int pass_fd)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr msg = {
        .msg_iov = (struct iovec *)iov,
        .msg_iovlen = iovcnt,
    };
    ssize_t n;

    if (pass_fd >= 0) {
        struct cmsghdr *cmsg;

        memset(&control, 0, sizeof(control));
        msg.msg_control = control.space;
        msg.msg_controllen = sizeof(control.space);
        cmsg = CMSG_FIRSTHDR(&msg);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(cmsg), &pass_fd, sizeof(int));
    }
    do {
        n = sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

ssize_t dsm__sock_recv(int fd, void *buf, size_t buf_bytes,
                       struct dsm__fds *ret_fds)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int) * DSM__RECV_FDS)];
    } control;
    struct iovec iov = { .iov_base = buf, .iov_len = buf_bytes };
    struct msghdr msg = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = control.space,
        .msg_controllen = sizeof(control.space),
    };
    ssize_t n;

    if (!ret_fds) {
        do {
            n = recv(fd, buf, buf_bytes, MSG_DONTWAIT);
        } while (n < 0 && errno == EINTR);
        return n < 0 ? -errno : n;
    }

    ret_fds->nr = 0;
    ret_fds->truncated = false;
    do {
        n = recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    } while (n < 0 && errno == EINTR);
    if (n < 0) {
        return -errno;
    }
    ret_fds->truncated = msg.msg_flags & MSG_CTRUNC;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
        size_t nr;

        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        nr = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < nr; i++) {
            int passed;

            memcpy(&passed, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
            if (ret_fds->nr < DSM__RECV_FDS) {
                ret_fds->fd[ret_fds->nr++] = passed;
            } else {
                ret_fds->truncated = true;
                close(passed);
            }
        }
    }
    return n;
}

ssize_t dsm__sock_conn_send(struct dsm__conn *conn, const struct iovec *iov,
                            int iovcnt, int pass_fd)
{
    return dsm__sock_send(conn->fd, iov, iovcnt, pass_fd);
}

ssize_t dsm__sock_conn_recv(struct dsm__conn *conn, void *buf,
                            size_t buf_bytes, struct dsm__fds *ret_fds)
{
    return dsm__sock_recv(conn->fd, buf, buf_bytes, ret_fds);
}
