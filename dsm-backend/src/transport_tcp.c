/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tcp:HOST:PORT - HOST is a numeric address (IPv6 in brackets), because
 * looking a name up would block. Cannot carry file descriptors, so it serves
 * only machines whose coherence does not share memory. Neither authenticates
 * nor encrypts: without a key (transport_tls.c) it serves loopback only.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "transport.h"

#define TCP_BACKLOG 128
#define TCP_HOST_BYTES 64

struct tcp_address {
    struct sockaddr_storage sa;
    socklen_t len;
    int family;
};

static int tcp_address(const char *where, struct tcp_address *ret)
{
    const struct addrinfo hints = {
        .ai_family = AF_UNSPEC,
        .ai_socktype = SOCK_STREAM,
        .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV,
    };
    const char *colon = strrchr(where, ':');
    struct addrinfo *info;
    char host[TCP_HOST_BYTES];
    size_t len;
    char *end;
    long port;

    if (!colon) {
        return -EINVAL;
    }
    len = colon - where;
    if (len >= 2 && where[0] == '[' && where[len - 1] == ']') {
        where++;
        len -= 2;
    } else if (memchr(where, ':', len)) {
        return -EINVAL;
    }
    if (len == 0 || len >= sizeof(host)) {
        return -EINVAL;
    }
    memcpy(host, where, len);
    host[len] = '\0';
    port = strtol(colon + 1, &end, 10);
    if (colon[1] < '0' || colon[1] > '9' || *end || port < 1 || port > 65535) {
        return -EINVAL;
    }
    if (getaddrinfo(host, colon + 1, &hints, &info) != 0) {
        return -EINVAL;
    }
    memcpy(&ret->sa, info->ai_addr, info->ai_addrlen);
    ret->len = info->ai_addrlen;
    ret->family = info->ai_family;
    freeaddrinfo(info);
    return 0;
}

int dsm__tcp_check(const char *where)
{
    struct tcp_address addr;

    return tcp_address(where, &addr);
}

bool dsm__tcp_is_loopback(const char *where)
{
    const struct sockaddr_in6 *in6;
    struct tcp_address addr;

    if (tcp_address(where, &addr) < 0) {
        return false;
    }
    if (addr.family == AF_INET) {
        const struct sockaddr_in *in = (const void *)&addr.sa;

        return ntohl(in->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
    }
    in6 = (const void *)&addr.sa;
    return IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr) ||
           (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr) &&
            in6->sin6_addr.s6_addr[12] == IN_LOOPBACKNET);
}

static int tcp_socket(int family)
{
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    return fd < 0 ? -errno : fd;
}

/* A message is written whole, so waiting for more of it only delays it. */
static int tcp_set_nodelay(int fd)
{
    int one = 1;

    return setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) < 0
               ? -errno
               : 0;
}

int dsm__tcp_listen(void *ctx, const char *where, struct dsm__listener *ret)
{
    struct tcp_address addr;
    int one = 1;
    int fd, err;

    err = tcp_address(where, &addr);
    if (err < 0) {
        return err;
    }
    fd = tcp_socket(addr.family);
    if (fd < 0) {
        return fd;
    }
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
        bind(fd, (struct sockaddr *)&addr.sa, addr.len) < 0 ||
        listen(fd, TCP_BACKLOG) < 0) {
        err = -errno;
        close(fd);
        return err;
    }
    *ret = (struct dsm__listener) {
        .transport = &dsm__transport_tcp,
        .fd = fd,
    };
    return 0;
}

int dsm__tcp_accept(struct dsm__listener *listener)
{
    int fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    int err;

    if (fd < 0) {
        return -errno;
    }
    err = tcp_set_nodelay(fd);
    if (err < 0) {
        close(fd);
        return err;
    }
    return fd;
}

void dsm__tcp_unlisten(struct dsm__listener *listener)
{
    close(listener->fd);
}

int dsm__tcp_connect(void *ctx, const char *where, int *ret_fd)
{
    struct tcp_address addr;
    int fd, err;

    err = tcp_address(where, &addr);
    if (err < 0) {
        return err;
    }
    fd = tcp_socket(addr.family);
    if (fd < 0) {
        return fd;
    }
    err = tcp_set_nodelay(fd);
    if (err < 0) {
        close(fd);
        return err;
    }
    if (connect(fd, (struct sockaddr *)&addr.sa, addr.len) < 0) {
        err = -errno;
        if (err != -EINPROGRESS) {
            close(fd);
            return err;
        }
    }
    *ret_fd = fd;
    return err;
}

int dsm__tcp_authorise(int fd, char who[DSM__WHO_BYTES])
{
    struct sockaddr_storage sa;
    socklen_t len = sizeof(sa);
    char host[TCP_HOST_BYTES], port[8];

    if (getpeername(fd, (struct sockaddr *)&sa, &len) < 0 ||
        getnameinfo((struct sockaddr *)&sa, len, host, sizeof(host), port,
                    sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
        snprintf(who, DSM__WHO_BYTES, "an unknown address");
        return 0;
    }
    snprintf(who, DSM__WHO_BYTES, "%.48s port %s", host, port);
    return 0;
}

const struct dsm__transport dsm__transport_tcp = {
    .scheme = "tcp",
    .passes_fds = false,
    .check = dsm__tcp_check,
    .listen = dsm__tcp_listen,
    .accept = dsm__tcp_accept,
    .unlisten = dsm__tcp_unlisten,
    .connect = dsm__tcp_connect,
    .connect_result = dsm__sock_connect_result,
    .authorise = dsm__tcp_authorise,
    .send = dsm__sock_conn_send,
    .recv = dsm__sock_conn_recv,
};
