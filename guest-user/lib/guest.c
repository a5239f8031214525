/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include <chimera/guest.h>

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* Everything in our sysfs directory is one short line. */
static int read_line(int dir_fd, const char *path, char *ret_line, size_t size)
{
    int fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC);
    ssize_t n;

    if (fd < 0) {
        return -errno;
    }
    n = read(fd, ret_line, size - 1);
    if (n < 0) {
        n = -errno;
    }
    close(fd);
    if (n < 0) {
        return (int)n;
    }
    ret_line[n] = '\0';
    ret_line[strcspn(ret_line, "\n")] = '\0';
    return 0;
}

static uint64_t read_number(int dir_fd, const char *path)
{
    char line[32];

    /* Base 0: addresses are shown with 0x. An empty file reads as 0. */
    return read_line(dir_fd, path, line, sizeof(line)) < 0
               ? 0
               : strtoull(line, NULL, 0);
}

int chimera_self(void)
{
    char line[16];

    if (read_line(AT_FDCWD, CHIMERA_SYSFS "/self", line, sizeof(line)) < 0 ||
        !isdigit((unsigned char)line[0])) {
        return -ENODEV;
    }
    return atoi(line);
}

int chimera_nodes(struct chimera_node **ret_nodes)
{
    struct chimera_node *nodes = NULL;
    int self = chimera_self();
    int n;

    if (self < 0) {
        return self;
    }
    for (n = 0; n < CHIMERA_MAX_NODES; n++) {
        char path[sizeof(CHIMERA_SYSFS) + 16];
        struct chimera_node *more, *node;
        int dir;

        snprintf(path, sizeof(path), CHIMERA_SYSFS "/node%d", n);
        dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (dir < 0) {
            break;
        }
        more = realloc(nodes, (n + 1) * sizeof(*nodes));
        if (!more) {
            close(dir);
            free(nodes);
            return -ENOMEM;
        }
        nodes = more;
        node = &nodes[n];
        memset(node, 0, sizeof(*node));
        node->index = n;
        node->self = n == self;
        read_line(dir, "name", node->name, sizeof(node->name));
        read_line(dir, "arch", node->arch, sizeof(node->arch));
        read_line(dir, "state", node->state, sizeof(node->state));
        node->cpus = read_number(dir, "cpus");
        node->ram_bytes = read_number(dir, "ram_bytes");
        node->mem_total_kb = read_number(dir, "mem_total_kb");
        node->mem_free_kb = read_number(dir, "mem_free_kb");
        node->window_phys = read_number(dir, "window_phys");
        node->messages_sent = read_number(dir, "messages_sent");
        node->messages_received = read_number(dir, "messages_received");
        close(dir);
    }
    if (!n) {
        return -ENODEV;
    }
    *ret_nodes = nodes;
    return n;
}

int chimera_node_find(const struct chimera_node *nodes, int nr_nodes,
                      const char *text)
{
    char *end;
    unsigned long index;

    for (int i = 0; i < nr_nodes; i++) {
        if (!strcmp(nodes[i].name, text)) {
            return i;
        }
    }
    index = strtoul(text, &end, 10);
    return isdigit((unsigned char)*text) && !*end &&
                   index < (unsigned long)nr_nodes
               ? (int)index
               : -ENOENT;
}

bool chimera_node_up(const struct chimera_node *node)
{
    return !strcmp(node->state, "up");
}

int chimera_node_state_open(unsigned index)
{
    char path[sizeof(CHIMERA_SYSFS) + 24];
    int fd;

    snprintf(path, sizeof(path), CHIMERA_SYSFS "/node%u/state", index);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int chimera_node_state_read(int fd, char *ret_state, size_t size)
{
    ssize_t n = pread(fd, ret_state, size - 1, 0);

    if (n < 0) {
        return -errno;
    }
    ret_state[n] = '\0';
    ret_state[strcspn(ret_state, "\n")] = '\0';
    return 0;
}

/* ---- /dev/chimera ---- */

static int device_open(void)
{
    int fd = open(CHIMERA_DEVICE, O_RDWR | O_CLOEXEC);

    return fd < 0 ? (errno == ENOENT || errno == ENXIO ? -ENODEV : -errno) : fd;
}

/* One request on a device file of its own. */
static int device_call(unsigned long request, void *arg)
{
    int fd = device_open();
    int rc;

    if (fd < 0) {
        return fd;
    }
    do {
        rc = ioctl(fd, request, arg);
    } while (rc < 0 && errno == EINTR);
    rc = rc < 0 ? -errno : rc;
    close(fd);
    return rc;
}

static int copy_name(char *to, const char *name)
{
    size_t len = strlen(name);

    if (!len || len >= CHIMERA_SEG_NAME_BYTES) {
        return len ? -ENAMETOOLONG : -EINVAL;
    }
    memcpy(to, name, len + 1);
    return 0;
}

int chimera_info(struct chimera_info *ret_info)
{
    struct chimera_info info = { 0 };
    int rc = device_call(CHIMERA_IOC_INFO, &info);

    if (rc < 0) {
        return rc;
    }
    *ret_info = info;
    return 0;
}

int chimera_segment_create(const char *name, uint64_t size_bytes, unsigned mode,
                           unsigned flags)
{
    struct chimera_seg_create create = { .size = size_bytes,
                                         .mode = mode,
                                         .flags = flags };
    int rc = copy_name(create.name, name);

    return rc < 0 ? rc : device_call(CHIMERA_IOC_SEG_CREATE, &create);
}

int chimera_segment_open(const char *name, int flags)
{
    struct chimera_seg_open open_arg = { .flags = flags };
    int rc = copy_name(open_arg.name, name);

    return rc < 0 ? rc : device_call(CHIMERA_IOC_SEG_OPEN, &open_arg);
}

int chimera_segment_unlink(const char *name)
{
    struct chimera_seg_unlink unlink_arg = { 0 };
    int rc = copy_name(unlink_arg.name, name);

    return rc < 0 ? rc : device_call(CHIMERA_IOC_SEG_UNLINK, &unlink_arg);
}

int chimera_segment_stat(int fd, struct chimera_seg_stat *ret_stat)
{
    struct chimera_seg_stat st = { 0 };

    if (ioctl(fd, CHIMERA_IOC_SEG_STAT, &st) < 0) {
        return -errno;
    }
    *ret_stat = st;
    return 0;
}

int chimera_segment_map(int fd, int prot, void **ret_mem, size_t *ret_size)
{
    struct chimera_seg_stat st;
    int rc = chimera_segment_stat(fd, &st);
    void *mem;

    if (rc < 0) {
        return rc;
    }
    mem = mmap(NULL, st.size, prot, MAP_SHARED, fd, 0);
    if (mem == MAP_FAILED) {
        return -errno;
    }
    *ret_mem = mem;
    *ret_size = st.size;
    return 0;
}

int chimera_endpoint_open(unsigned port, unsigned *ret_port)
{
    struct chimera_bind bind_arg = { .port = port };
    int fd = device_open();

    if (fd < 0) {
        return fd;
    }
    if (ioctl(fd, CHIMERA_IOC_BIND, &bind_arg) < 0) {
        int err = -errno;

        close(fd);
        return err;
    }
    if (ret_port) {
        *ret_port = bind_arg.port;
    }
    return fd;
}

int chimera_send(int fd, unsigned node, unsigned port, const void *data,
                 size_t len, int64_t timeout_ns)
{
    struct chimera_msg msg = { .buf = (uintptr_t)data,
                               .len = len > UINT32_MAX ? UINT32_MAX : len,
                               .port = port,
                               .node = node,
                               .flags = timeout_ns ? 0 : CHIMERA_MSG_DONTWAIT,
                               .timeout_ns = timeout_ns };

    return ioctl(fd, CHIMERA_IOC_SEND, &msg) < 0 ? -errno : 0;
}

int chimera_recv(int fd, void *data, size_t size, unsigned *ret_node,
                 unsigned *ret_port, int64_t timeout_ns)
{
    struct chimera_msg msg = { .buf = (uintptr_t)data,
                               .len = size > INT32_MAX ? INT32_MAX : size,
                               .flags = timeout_ns ? 0 : CHIMERA_MSG_DONTWAIT,
                               .timeout_ns = timeout_ns };

    if (ioctl(fd, CHIMERA_IOC_RECV, &msg) < 0) {
        return -errno;
    }
    if (ret_node) {
        *ret_node = msg.node;
    }
    if (ret_port) {
        *ret_port = msg.port;
    }
    return (int)msg.len;
}
