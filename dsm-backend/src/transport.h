/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What carries a link: an ordered stream of bytes behind a pollable fd.
 * One file for each transport; nothing above this table knows which it is.
 */
#ifndef DSM_SRC_TRANSPORT_H
#define DSM_SRC_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

#define DSM__WHO_BYTES 64 /* with its terminating NUL */
#define DSM__RECV_FDS 8   /* at most taken from one receive */

/* File descriptors that came with received bytes; the receiver owns them. */
struct dsm__fds {
    int fd[DSM__RECV_FDS];
    int nr;
    bool truncated; /* there were more: the kernel closed them */
};

struct dsm__listener {
    const struct dsm__transport *transport;
    void *ctx;
    int fd;
    /* unix: what bind() created, so that nothing else is ever unlinked */
    const char *path;
    dev_t dev;
    ino_t ino;
};

struct dsm__transport {
    const char *scheme; /* what stands before the ':' of an address */
    bool passes_fds;    /* REGION can carry a file descriptor */

    /** check() - Return: 0; -EINVAL @where is not an address. */
    int (*check)(const char *where);
    /**
     * listen() - @where must outlive the listener.
     * Return: 0; -EADDRINUSE somebody listens there; other errno.
     */
    int (*listen)(void *ctx, const char *where, struct dsm__listener *ret);
    /** accept() - Return: a non-blocking fd; -errno. */
    int (*accept)(struct dsm__listener *listener);
    void (*unlisten)(struct dsm__listener *listener);
    /**
     * connect() - begin to connect; never blocks.
     * Return: 0 connected; -EINPROGRESS ask connect_result() when it is
     * writable; -errno. *ret_fd is set in the first two cases.
     */
    int (*connect)(void *ctx, const char *where, int *ret_fd);
    int (*connect_result)(int fd);
    /**
     * authorise() - may the process at the other end talk to us?
     * @who: always filled in, for messages to people.
     * Return: 0; -EACCES.
     */
    int (*authorise)(int fd, char who[DSM__WHO_BYTES]);
    /**
     * send() - @pass_fd: sent along with the first byte unless -1.
     * Return: bytes taken; -EAGAIN none now; -errno it is broken.
     */
    ssize_t (*send)(int fd, const struct iovec *iov, int iovcnt, int pass_fd);
    /**
     * recv() - @ret_fds: NULL when none are expected; those that come are
     * then closed.
     * Return: bytes, 0 at the end; -EAGAIN none now; -errno it is broken.
     */
    ssize_t (*recv)(int fd, void *buf, size_t buf_bytes,
                    struct dsm__fds *ret_fds);
};

extern const struct dsm__transport dsm__transport_unix;
extern const struct dsm__transport dsm__transport_tcp;

/* Shared by the transports whose fd is a stream socket. */
int dsm__sock_connect_result(int fd);
ssize_t dsm__sock_send(int fd, const struct iovec *iov, int iovcnt,
                       int pass_fd);
ssize_t dsm__sock_recv(int fd, void *buf, size_t buf_bytes,
                       struct dsm__fds *ret_fds);

#endif
