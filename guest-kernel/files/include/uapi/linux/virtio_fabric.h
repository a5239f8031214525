/* SPDX-License-Identifier: ((GPL-2.0-or-later WITH Linux-syscall-note) OR BSD-3-Clause) */
/*
 * virtio-fabric: memory windows, messages and doorbells between the nodes of
 * one machine. The device's ABI, shared by QEMU and the guest kernel.
 * Described in docs/virtio-fabric.md.
 */
#ifndef _LINUX_VIRTIO_FABRIC_H
#define _LINUX_VIRTIO_FABRIC_H

#include <linux/types.h>

/*
 * Not assigned by the virtio specification: the top of what a modern PCI
 * device id (0x1040 + id) can express, far above the ids in use.
 */
#define VIRTIO_ID_FABRIC		62

#define VIRTIO_FABRIC_MAX_NODES		64
#define VIRTIO_FABRIC_MAX_PAYLOAD	4096
#define VIRTIO_FABRIC_NAME_BYTES	32
#define VIRTIO_FABRIC_MAX_EXTENTS	4
#define VIRTIO_FABRIC_VERSION		1

/* Virtqueues. */
#define VIRTIO_FABRIC_VQ_TX		0
#define VIRTIO_FABRIC_VQ_RX		1
#define VIRTIO_FABRIC_VQ_EVENT		2
#define VIRTIO_FABRIC_VQ_ECHO		3	/* only with F_ECHO */

/*
 * Feature: a queue whose kick is handed to an eventfd of another process and
 * whose interrupt is raised by an eventfd from there; a floor to measure
 * messages against. Buffers on it carry nothing: one device-readable
 * descriptor of any length, returned when the interrupt comes.
 */
#define VIRTIO_FABRIC_F_ECHO		0

/*
 * Feature: coherence is shared, and code that another node writes can be
 * executed. With the page protocol it can without this.
 */
#define VIRTIO_FABRIC_F_CODE		1

/*
 * The one shared-memory region holds the windows on all peers' RAM; the window
 * on a node is at node[].window_offset in it. (One region per peer would need
 * a 24-byte PCI capability each, and 256 bytes of configuration space have
 * room for three.) A machine of one node has no region.
 */
#define VIRTIO_FABRIC_SHM_WINDOWS	1

enum virtio_fabric_state {
	VIRTIO_FABRIC_ABSENT	= 0,	/* window must not be touched */
	VIRTIO_FABRIC_UP	= 1,
	VIRTIO_FABRIC_DOWN	= 2,	/* window reads as it was left */
	VIRTIO_FABRIC_FENCED	= 3,	/* window is gone */
};

struct virtio_fabric_node {
	__le16 elf_machine;	/* EM_X86_64, EM_AARCH64, ... */
	__le16 state;		/* enum virtio_fabric_state */
	__le32 cpus;
	__le64 ram_bytes;	/* == length of its window */
	__le64 window_offset;	/* in SHM_WINDOWS, multiple of 2 MiB; self: 0 */
	__u8 name[VIRTIO_FABRIC_NAME_BYTES];	/* NUL padded */
};

/*
 * Where the node's own region lies in its own physical address space: region
 * bytes [offset, offset + len) are at guest-physical [gpa, gpa + len). More
 * than one on platforms with a hole below 4 GiB.
 */
struct virtio_fabric_extent {
	__le64 gpa;
	__le64 offset;
	__le64 len;
};

struct virtio_fabric_config {
	__le16 version;		/* VIRTIO_FABRIC_VERSION */
	__le16 self;		/* this node's index */
	__le16 nr_nodes;
	__le16 nr_extents;
	__le32 coherence;	/* 0: shared, 1: page protocol */
	__le32 reserved;
	__u8 machine_uuid[16];
	struct virtio_fabric_extent extent[VIRTIO_FABRIC_MAX_EXTENTS];
	struct virtio_fabric_node node[VIRTIO_FABRIC_MAX_NODES];
};

/* Message classes; ordered within one (node, class) only. */
#define VIRTIO_FABRIC_CLASS_REPLY	0
#define VIRTIO_FABRIC_CLASS_ACK		1
#define VIRTIO_FABRIC_CLASS_REQUEST	2
#define VIRTIO_FABRIC_CLASS_BULK	3
#define VIRTIO_FABRIC_NR_CLASSES	4
/* To the device itself; tx only. */
#define VIRTIO_FABRIC_CLASS_DOORBELL	0xfe	/* payload: __le64 bits, != 0 */
#define VIRTIO_FABRIC_CLASS_CONTROL	0xff	/* payload: control */

/* Starts every buffer on tx and rx. */
struct virtio_fabric_hdr {
	__le16 node;		/* tx: to; rx: from */
	__u8 cls;
	__u8 reserved;		/* 0 */
	__le32 len;		/* payload bytes that follow */
};

/*
 * A tx chain: device-readable {hdr, payload} of exactly 8 + hdr.len bytes,
 * then device-writable {tx_status}. The device may complete tx buffers out of
 * order; it holds a buffer while its peer's class has no room (that is the
 * back-pressure).
 */
#define VIRTIO_FABRIC_TX_OK		0
#define VIRTIO_FABRIC_TX_NODE_DOWN	1	/* not sent */

struct virtio_fabric_tx_status {
	__le32 status;
};

/*
 * VIRTIO_FABRIC_CLASS_CONTROL payload. hdr.node is the peer it concerns.
 * FENCE: the driver has no mapping of that peer's window left; answered by a
 * FENCED event when the device has unmapped it. The peer must be DOWN.
 */
#define VIRTIO_FABRIC_CONTROL_FENCE	1

struct virtio_fabric_control {
	__le32 op;
	__le32 reserved;	/* 0 */
};

/* An rx buffer: device-writable, at least this long. */
#define VIRTIO_FABRIC_RX_BYTES \
	(sizeof(struct virtio_fabric_hdr) + VIRTIO_FABRIC_MAX_PAYLOAD)

/*
 * Event buffers: device-writable, one struct each. State events are never
 * lost and come in order per node; doorbells coalesce by OR. After DRIVER_OK
 * the device first reports the state of every node that is not ABSENT.
 */
#define VIRTIO_FABRIC_EVENT_STATE	1	/* data: enum virtio_fabric_state */
#define VIRTIO_FABRIC_EVENT_DOORBELL	2	/* data: bits */

struct virtio_fabric_event {
	__le16 type;
	__le16 node;
	__le32 reserved;	/* 0 */
	__le64 data;
};

#endif /* _LINUX_VIRTIO_FABRIC_H */
