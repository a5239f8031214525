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
#include <unistd.h>

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

/* One connection. */
struct dsm__conn {
    const struct dsm__transport *transport;
    int fd;
    void *session; /* the transport's own; NULL where it needs none */
    bool unsent;   /* send() took more than the fd: flush() is to follow */
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
     * begin() - optional: @conn is connected; make its session.
     * @who: as authorise() filled it in; copied.
     */
    int (*begin)(void *ctx, struct dsm__conn *conn, bool outgoing,
                 const char *who);
    /**
     * secure() - with begin(): do what must be done before the first byte is
     * sent or received. To be called until it is done, whenever the fd is
     * readable or, with *ret_out, writable.
     * Return: 0 done; -EAGAIN not yet; -ENOLINK closed by the other end before
     * it said anything; -EPROTO not trusted, *ret_why says why, for people.
     */
    int (*secure)(struct dsm__conn *conn, bool *ret_out, const char **ret_why);
    /** end() - with begin(): the session's end; the fd stays open. */
    void (*end)(struct dsm__conn *conn);
    /**
     * send() - @pass_fd: sent along with the first byte unless -1.
     * Return: bytes taken; -EAGAIN none now; -errno it is broken.
     */
    ssize_t (*send)(struct dsm__conn *conn, const struct iovec *iov,
                    int iovcnt, int pass_fd);
    /**
     * flush() - optional: hand on what was taken, while @conn->unsent.
     * Return: 0 all of it; -EAGAIN not now; -errno it is broken.
     */
    int (*flush)(struct dsm__conn *conn);
    /**
     * recv() - @ret_fds: NULL when none are expected; those that come are
     * then closed.
     * Return: bytes, 0 at the end; -EAGAIN none now; -errno it is broken.
     */
    ssize_t (*recv)(struct dsm__conn *conn, void *buf, size_t buf_bytes,
                    struct dsm__fds *ret_fds);
    /**
     * pending() - optional: recv() has something of which the fd says nothing,
     * because it was taken off it already.
     */
    bool (*pending)(const struct dsm__conn *conn);
};

extern const struct dsm__transport dsm__transport_unix;
extern const struct dsm__transport dsm__transport_tcp;
extern const struct dsm__transport dsm__transport_tls; /* its ctx: dsm_key */

/* Return: 0 nothing is held back; -EAGAIN; -errno it is broken. */
static inline int dsm__conn_flush(struct dsm__conn *conn)
{
    return conn->unsent ? conn->transport->flush(conn) : 0;
}

static inline bool dsm__conn_pending(const struct dsm__conn *conn)
{
    return conn->session && conn->transport->pending(conn);
}

static inline void dsm__conn_close(struct dsm__conn *conn)
{
    if (conn->session) {
        conn->transport->end(conn);
        conn->session = NULL;
    }
    if (conn->fd >= 0) {
        close(conn->fd);
        conn->fd = -1;
    }
}

/* Shared by the transports whose fd is a stream socket. */
int dsm__sock_connect_result(int fd);
ssize_t dsm__sock_conn_send(struct dsm__conn *conn, const struct iovec *iov,
                            int iovcnt, int pass_fd);
ssize_t dsm__sock_conn_recv(struct dsm__conn *conn, void *buf,
                            size_t buf_bytes, struct dsm__fds *ret_fds);
ssize_t dsm__sock_send(int fd, const struct iovec *iov, int iovcnt,
                       int pass_fd);
ssize_t dsm__sock_recv(int fd, void *buf, size_t buf_bytes,
                       struct dsm__fds *ret_fds);

/* tcp, and what is made of it. */
int dsm__tcp_check(const char *where);
int dsm__tcp_listen(void *ctx, const char *where, struct dsm__listener *ret);
int dsm__tcp_accept(struct dsm__listener *listener);
void dsm__tcp_unlisten(struct dsm__listener *listener);
int dsm__tcp_connect(void *ctx, const char *where, int *ret_fd);
int dsm__tcp_authorise(int fd, char who[DSM__WHO_BYTES]);
/* Is @where, which check() took, an address of this host's loopback? */
bool dsm__tcp_is_loopback(const char *where);

#endif
