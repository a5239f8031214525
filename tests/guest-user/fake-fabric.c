/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libchimera-guest without a fabric: nodes are processes with another value of
 * FAKE_NODE, endpoints are datagram sockets FAKE_DIR/NODE.PORT. For testing
 * what speaks through endpoints on the build host.
 */
#define _GNU_SOURCE
#include <chimera/guest.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define NR_NODES 2

int chimera_self(void)
{
    const char *self = getenv("FAKE_NODE");

    return self ? atoi(self) : -ENODEV;
}

int chimera_nodes(struct chimera_node **ret_nodes)
{
    struct chimera_node *nodes = calloc(NR_NODES, sizeof(*nodes));

    for (int i = 0; i < NR_NODES; i++) {
        nodes[i].index = i;
        snprintf(nodes[i].name, sizeof(nodes[i].name), "fake%d", i);
        strcpy(nodes[i].state, "up");
    }
    *ret_nodes = nodes;
    return NR_NODES;
}

int chimera_node_find(const struct chimera_node *nodes, int nr_nodes,
                      const char *text)
{
    (void)nodes;
    return *text >= '0' && *text < '0' + nr_nodes && !text[1] ? *text - '0'
                                                              : -ENOENT;
}

bool chimera_node_up(const struct chimera_node *node)
{
    (void)node;
    return true;
}

static void address(struct sockaddr_un *addr, unsigned node, unsigned port)
{
    memset(addr, 0, sizeof(*addr));
    addr->sun_family = AF_UNIX;
    snprintf(addr->sun_path, sizeof(addr->sun_path), "%s/%u.%u",
             getenv("FAKE_DIR"), node, port);
}

int chimera_endpoint_open(unsigned port, unsigned *ret_port)
{
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un addr;

    address(&addr, chimera_self(), port);
    if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
        chmod(addr.sun_path, 0777) < 0) {
        int err = -errno;

        close(fd);
        return err;
    }
    if (ret_port) {
        *ret_port = port;
    }
    return fd;
}

int chimera_send(int fd, unsigned node, unsigned port, const void *data,
                 size_t len, int64_t timeout_ns)
{
    struct sockaddr_un addr;

    address(&addr, node, port);
    if (sendto(fd, data, len, timeout_ns ? 0 : MSG_DONTWAIT,
               (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        return errno == ENOENT ? -ECONNREFUSED : -errno;
    }
    return 0;
}

int chimera_recv(int fd, void *data, size_t size, unsigned *ret_node,
                 unsigned *ret_port, int64_t timeout_ns)
{
    struct sockaddr_un addr = { 0 };
    socklen_t addr_len = sizeof(addr);
    struct pollfd p = { fd, POLLIN, 0 };
    const char *name;
    ssize_t n;

    if (timeout_ns > 0 && poll(&p, 1, timeout_ns / 1000000) == 0) {
        return -ETIMEDOUT;
    }
    n = recvfrom(fd, data, size, timeout_ns ? 0 : MSG_DONTWAIT,
                 (struct sockaddr *)&addr, &addr_len);
    if (n < 0) {
        return -errno;
    }
    name = strrchr(addr.sun_path, '/');
    if (!name || sscanf(name, "/%u.%u", ret_node, ret_port) != 2) {
        return -EPROTO;
    }
    return n;
}
