/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libchimera-guest: what a program inside a node needs of its machine - which
 * nodes there are, named segments, messages. Thin over /dev/chimera and
 * /sys/devices/system/chimera; the same on every ISA.
 *
 * Errors: 0 (or a descriptor >= 0) or a negative errno; a ret_ pointer is
 * untouched on failure. The library never prints and has no global state.
 */
#ifndef CHIMERA_GUEST_H
#define CHIMERA_GUEST_H

#include <linux/chimera.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CHIMERA_DEVICE "/dev/chimera"
#define CHIMERA_SYSFS "/sys/devices/system/chimera"

/* ---- the nodes of the machine ---- */

struct chimera_node {
    unsigned index;
    bool self;
    char name[32];
    char arch[16];  /* x86_64, aarch64 */
    char state[16]; /* absent, up, down, fenced */
    unsigned cpus;
    uint64_t ram_bytes;
    uint64_t mem_total_kb; /* 0 where the node does not answer */
    uint64_t mem_free_kb;
    uint64_t window_phys; /* where its RAM appears here; 0 for the own node */
    uint64_t messages_sent;
    uint64_t messages_received;
};

/**
 * chimera_nodes() - every node of the machine, ordered by index.
 * @ret_nodes: to be freed by the caller.
 * Return: how many; -ENODEV this kernel has no fabric device.
 */
int chimera_nodes(struct chimera_node **ret_nodes);

/**
 * chimera_node_find() - a node by its name or by its index in decimal.
 * Return: its position in nodes; -ENOENT.
 */
int chimera_node_find(const struct chimera_node *nodes, int nr_nodes,
                      const char *text);

/** chimera_node_up() - whether a node takes part in the machine now. */
bool chimera_node_up(const struct chimera_node *node);

/**
 * chimera_node_state_open() - a descriptor of node index's state: POLLPRI
 * tells of a change, after which chimera_node_state_read() re-arms it.
 */
int chimera_node_state_open(unsigned index);
int chimera_node_state_read(int fd, char *ret_state, size_t size);

/** chimera_self() - index of this node, or -ENODEV. */
int chimera_self(void);

/** chimera_info() - what the kernel says of the machine. */
int chimera_info(struct chimera_info *ret_info);

/* ---- named segments ---- */

/* Return: a descriptor to mmap(), see CHIMERA_IOC_SEG_CREATE for errors. */
int chimera_segment_create(const char *name, uint64_t size_bytes, unsigned mode,
                           unsigned flags);
/* Return: a descriptor; flags are O_RDONLY or O_RDWR. */
int chimera_segment_open(const char *name, int flags);
int chimera_segment_unlink(const char *name);
int chimera_segment_stat(int fd, struct chimera_seg_stat *ret_stat);

/**
 * chimera_segment_map() - all of a segment, shared.
 * @prot: PROT_READ or PROT_READ|PROT_WRITE.
 */
int chimera_segment_map(int fd, int prot, void **ret_mem, size_t *ret_size);

/* ---- messages ---- */

/**
 * chimera_endpoint_open() - an endpoint bound to a port of this node.
 * @port: 0: the kernel picks one.
 * @ret_port: the port it got; may be NULL.
 * Return: a descriptor, which poll() understands.
 */
int chimera_endpoint_open(unsigned port, unsigned *ret_port);

/* @timeout_ns: < 0 no limit; 0 -EAGAIN instead of waiting. */
int chimera_send(int fd, unsigned node, unsigned port, const void *data,
                 size_t len, int64_t timeout_ns);

/**
 * chimera_recv() - the next message.
 * @ret_node, @ret_port: its sender; may be NULL.
 * Return: its length; -EMSGSIZE it does not fit and stays where it is.
 */
int chimera_recv(int fd, void *data, size_t size, unsigned *ret_node,
                 unsigned *ret_port, int64_t timeout_ns);

#ifdef __cplusplus
}
#endif

#endif /* CHIMERA_GUEST_H */
