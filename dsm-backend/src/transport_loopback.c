/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Each end of a connection is one socket of a pair whose other socket the
 * hub holds: so the nodes see ordinary fds, with everything that the kernel
 * does to them (short writes, hang-ups, passed descriptors).
 */
#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "transport_loopback.h"
#include "wire.h"

#define HUB_MAX_LISTENERS 64
#define HUB_MAX_CONNECTIONS 4096
#define HUB_MOVE_BYTES 65536

struct hub_connection {
    int fd[2];       /* the hub's sockets; lane i reads fd[i % 2] */
    int pending_fd;  /* the listener's end, until accept() */
    int listener_fd; /* whose accept() that will be */
    /* Read from a lane, but its receiver had no room. */
    uint8_t *held[2];
    size_t held_bytes[2];
    bool ended[2]; /* the end of this lane was passed on */
    /* Where the bytes that went on stand: in a header, in a body. */
    uint8_t header[2][DSM__WIRE_HEADER_BYTES];
    size_t header_bytes[2];
    size_t body_left[2];
};

struct dsm__hub {
    struct {
        const char *name;
        int fd;
    } listeners[HUB_MAX_LISTENERS];
    unsigned int nr_listeners;
    struct hub_connection connections[HUB_MAX_CONNECTIONS];
    unsigned int nr_connections;
    unsigned int nr_flips;
};

struct dsm__hub *dsm__hub_new(void)
{
    return calloc(1, sizeof(struct dsm__hub));
}

void dsm__hub_free(struct dsm__hub *hub)
{
    for (unsigned int i = 0; i < hub->nr_connections; i++) {
        dsm__hub_cut(hub, 2 * i);
    }
    free(hub);
}

unsigned int dsm__hub_nr_lanes(const struct dsm__hub *hub)
{
    return 2 * hub->nr_connections;
}

void dsm__hub_cut(struct dsm__hub *hub, unsigned int lane)
{
    struct hub_connection *c = &hub->connections[lane / 2];

    for (int i = 0; i < 2; i++) {
        if (c->fd[i] >= 0) {
            close(c->fd[i]);
            c->fd[i] = -1;
        }
        free(c->held[i]);
        c->held[i] = NULL;
        c->held_bytes[i] = 0;
        c->ended[i] = true;
    }
    if (c->pending_fd >= 0) {
        close(c->pending_fd);
        c->pending_fd = -1;
    }
}

/* Take bytes off a lane; they may come with descriptors. */
static ssize_t hub_take(struct hub_connection *c, int from, void *buf,
                        size_t bytes, struct dsm__fds *fds)
{
    fds->nr = 0;
    if (c->held_bytes[from]) {
        size_t n = bytes < c->held_bytes[from] ? bytes : c->held_bytes[from];

        memcpy(buf, c->held[from], n);
        c->held_bytes[from] -= n;
        memmove(c->held[from], c->held[from] + n, c->held_bytes[from]);
        return n;
    }
    return dsm__sock_recv(c->fd[from], buf, bytes, fds);
}

/* Put back in front what the receiver did not take. */
static void hub_hold(struct hub_connection *c, int from, const uint8_t *buf,
                     size_t bytes)
{
    uint8_t *all;

    if (bytes == 0) {
        return;
    }
    all = malloc(bytes + c->held_bytes[from]);
    assert(all);
    memcpy(all, buf, bytes);
    if (c->held_bytes[from]) {
        memcpy(all + bytes, c->held[from], c->held_bytes[from]);
    }
    free(c->held[from]);
    c->held[from] = all;
    c->held_bytes[from] += bytes;
}

static size_t frame_body_bytes(const uint8_t *header)
{
    uint32_t le32;

    memcpy(&le32, header + 12, sizeof(le32));
    return le32toh(le32);
}

static void hub_follow(struct hub_connection *c, int from, const uint8_t *buf,
                       size_t bytes)
{
    while (bytes > 0) {
        size_t n;

        if (c->body_left[from]) {
            n = bytes < c->body_left[from] ? bytes : c->body_left[from];
            c->body_left[from] -= n;
        } else {
            n = DSM__WIRE_HEADER_BYTES - c->header_bytes[from];
            n = bytes < n ? bytes : n;
            memcpy(c->header[from] + c->header_bytes[from], buf, n);
            c->header_bytes[from] += n;
            if (c->header_bytes[from] == DSM__WIRE_HEADER_BYTES) {
                c->header_bytes[from] = 0;
                c->body_left[from] = frame_body_bytes(c->header[from]);
            }
        }
        buf += n;
        bytes -= n;
    }
}

/* Take a whole frame off a lane. Return: its length; 0 there is none. */
static size_t hub_take_frame(struct hub_connection *c, int from, uint8_t *buf)
{
    size_t have = 0, bytes;
    struct dsm__fds fds;

    if (c->header_bytes[from] || c->body_left[from]) {
        return 0;
    }
    for (bytes = DSM__WIRE_HEADER_BYTES; have < bytes;) {
        ssize_t n = hub_take(c, from, buf + have, bytes - have, &fds);

        if (n <= 0) {
            hub_hold(c, from, buf, have);
            return 0;
        }
        for (int i = 0; i < fds.nr; i++) {
            close(fds.fd[i]); /* the frame is not what it was anyhow */
        }
        have += n;
        if (have == DSM__WIRE_HEADER_BYTES) {
            bytes += frame_body_bytes(buf);
            assert(bytes <= DSM__WIRE_FRAME_MAX_BYTES);
        }
    }
    return bytes;
}

static size_t hub_give(struct hub_connection *c, int from, const uint8_t *buf,
                       size_t bytes, const struct dsm__fds *fds)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int) * DSM__RECV_FDS)];
    } control;
    struct iovec iov = { .iov_base = (void *)buf, .iov_len = bytes };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
    ssize_t n;

    if (fds->nr > 0) {
        struct cmsghdr *cmsg;

        memset(&control, 0, sizeof(control));
        msg.msg_control = control.space;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * fds->nr);
        cmsg = CMSG_FIRSTHDR(&msg);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(sizeof(int) * fds->nr);
        memcpy(CMSG_DATA(cmsg), fds->fd, sizeof(int) * fds->nr);
    }
    n = sendmsg(c->fd[!from], &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    for (int i = 0; i < fds->nr; i++) {
        close(fds->fd[i]);
    }
    if (n < 0) {
        n = errno == EAGAIN ? 0 : bytes; /* nobody there: it is lost */
    }
    hub_follow(c, from, buf, n);
    if ((size_t)n < bytes) {
        hub_hold(c, from, buf + n, bytes - n);
    }
    return n;
}

bool dsm__hub_move(struct dsm__hub *hub, unsigned int lane, size_t max_bytes)
{
    struct hub_connection *c = &hub->connections[lane / 2];
    int from = lane % 2;
    uint8_t buf[HUB_MOVE_BYTES];
    struct dsm__fds fds;
    ssize_t n;

    if (c->fd[0] < 0 || c->ended[from]) {
        return false;
    }
    n = hub_take(c, from, buf,
                 max_bytes < sizeof(buf) ? max_bytes : sizeof(buf), &fds);
    if (n == -EAGAIN) {
        return false;
    }
    if (n <= 0) {
        c->ended[from] = true;
        if (c->ended[!from]) {
            dsm__hub_cut(hub, lane);
        } else {
            shutdown(c->fd[!from], SHUT_WR);
        }
        return true;
    }
    return hub_give(c, from, buf, n, &fds) > 0;
}

bool dsm__hub_fault(struct dsm__hub *hub, unsigned int lane,
                    enum dsm__hub_fault fault)
{
    struct hub_connection *c = &hub->connections[lane / 2];
    uint8_t one[DSM__WIRE_FRAME_MAX_BYTES], two[DSM__WIRE_FRAME_MAX_BYTES];
    const struct dsm__fds no_fds = { .nr = 0 };
    size_t one_bytes, two_bytes;
    int from = lane % 2;

    if (c->fd[0] < 0 || c->ended[from]) {
        return false;
    }
    if (fault == DSM__HUB_FLIP) {
        struct dsm__fds fds;
        ssize_t n = hub_take(c, from, one, 1, &fds);

        if (n <= 0) {
            return false;
        }
        for (int i = 0; i < fds.nr; i++) {
            close(fds.fd[i]);
        }
        one[0] ^= 1 << hub->nr_flips++ % 8;
        hub_hold(c, from, one, 1);
        return true;
    }
    one_bytes = hub_take_frame(c, from, one);
    if (!one_bytes) {
        return false;
    }
    switch (fault) {
    case DSM__HUB_SWALLOW:
        break;
    case DSM__HUB_REPEAT:
        hub_hold(c, from, one, one_bytes);
        hub_hold(c, from, one, one_bytes);
        break;
    case DSM__HUB_SWAP:
        two_bytes = hub_take_frame(c, from, two);
        hub_hold(c, from, one, one_bytes);
        if (!two_bytes) {
            return false;
        }
        hub_hold(c, from, two, two_bytes);
        break;
    case DSM__HUB_TRUNCATE:
        hub_give(c, from, one, one_bytes / 2, &no_fds);
        dsm__hub_cut(hub, lane);
        break;
    case DSM__HUB_FLIP:
        break;
    }
    return true;
}

static int loopback_check(const char *where)
{
    return *where ? 0 : -EINVAL;
}

static int loopback_listen(void *ctx, const char *where,
                           struct dsm__listener *ret)
{
    struct dsm__hub *hub = ctx;
    int fd;

    for (unsigned int i = 0; i < hub->nr_listeners; i++) {
        if (strcmp(hub->listeners[i].name, where) == 0) {
            return -EADDRINUSE;
        }
    }
    assert(hub->nr_listeners < HUB_MAX_LISTENERS);
    fd = eventfd(0, EFD_SEMAPHORE | EFD_NONBLOCK | EFD_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    hub->listeners[hub->nr_listeners].name = where;
    hub->listeners[hub->nr_listeners++].fd = fd;
    *ret = (struct dsm__listener) {
        .transport = &dsm__transport_loopback,
        .ctx = hub,
        .fd = fd,
    };
    return 0;
}

static int loopback_accept(struct dsm__listener *listener)
{
    struct dsm__hub *hub = listener->ctx;
    uint64_t one;
    int fd;

    if (read(listener->fd, &one, sizeof(one)) < 0) {
        return -errno;
    }
    for (unsigned int i = 0; i < hub->nr_connections; i++) {
        struct hub_connection *c = &hub->connections[i];

        if (c->pending_fd >= 0 && c->listener_fd == listener->fd) {
            fd = c->pending_fd;
            c->pending_fd = -1;
            return fd;
        }
    }
    return -ECONNABORTED; /* it was cut */
}

static void loopback_unlisten(struct dsm__listener *listener)
{
    struct dsm__hub *hub = listener->ctx;

    for (unsigned int i = 0; i < hub->nr_connections; i++) {
        if (hub->connections[i].pending_fd >= 0 &&
            hub->connections[i].listener_fd == listener->fd) {
            dsm__hub_cut(hub, 2 * i);
        }
    }
    for (unsigned int i = 0; i < hub->nr_listeners; i++) {
        if (hub->listeners[i].fd == listener->fd) {
            hub->listeners[i] = hub->listeners[--hub->nr_listeners];
            break;
        }
    }
    close(listener->fd);
}

static int loopback_connect(void *ctx, const char *where, int *ret_fd)
{
    const int type = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC;
    struct dsm__hub *hub = ctx;
    struct hub_connection *c;
    int near[2], far[2], listener_fd = -1;
    uint64_t one = 1;

    for (unsigned int i = 0; i < hub->nr_listeners; i++) {
        if (strcmp(hub->listeners[i].name, where) == 0) {
            listener_fd = hub->listeners[i].fd;
        }
    }
    if (listener_fd < 0 || hub->nr_connections == HUB_MAX_CONNECTIONS) {
        return -ECONNREFUSED;
    }
    if (socketpair(AF_UNIX, type, 0, near) < 0) {
        return -errno;
    }
    if (socketpair(AF_UNIX, type, 0, far) < 0) {
        int err = -errno;

        close(near[0]);
        close(near[1]);
        return err;
    }
    c = &hub->connections[hub->nr_connections++];
    *c = (struct hub_connection) {
        .fd = { near[1], far[1] },
        .pending_fd = far[0],
        .listener_fd = listener_fd,
    };
    (void)!write(listener_fd, &one, sizeof(one));
    *ret_fd = near[0];
    return 0;
}

static int loopback_authorise(int fd, char who[DSM__WHO_BYTES])
{
    snprintf(who, DSM__WHO_BYTES, "this process");
    return 0;
}

const struct dsm__transport dsm__transport_loopback = {
    .scheme = "loopback",
    .passes_fds = true,
    .check = loopback_check,
    .listen = loopback_listen,
    .accept = loopback_accept,
    .unlisten = loopback_unlisten,
    .connect = loopback_connect,
    .connect_result = dsm__sock_connect_result,
    .authorise = loopback_authorise,
    .send = dsm__sock_conn_send,
    .recv = dsm__sock_conn_recv,
};
