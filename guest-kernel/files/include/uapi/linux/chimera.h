/* SPDX-License-Identifier: GPL-2.0-or-later WITH Linux-syscall-note */
/*
 * /dev/chimera: named segments and messages between the nodes of a machine.
 * All structures have the same layout on every ISA. Reserved fields must be
 * zero, else -EINVAL. Described in docs/guest-kernel.md.
 */
#ifndef _UAPI_LINUX_CHIMERA_H
#define _UAPI_LINUX_CHIMERA_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define CHIMERA_ABI_VERSION	1
#define CHIMERA_MAX_NODES	64
#define CHIMERA_SEG_NAME_BYTES	64	/* with the NUL; [A-Za-z0-9_.-]+, not . or .. */
#define CHIMERA_MSG_BYTES	3968	/* payload of one user message */

struct chimera_info {
	__u32 abi_version;
	__u16 self;
	__u16 nr_nodes;
	__u64 up_mask;		/* bit n: node n is up (the own bit is set) */
	__u8 machine_uuid[16];
};
/* Return: 0. */
#define CHIMERA_IOC_INFO	_IOR(0xC5, 0x00, struct chimera_info)

/*
 * Named segments. A segment's memory lives on the node that created it (its
 * home), starts zeroed and is allocated at first touch. The name lives until
 * it is unlinked, which the death of the creating file (the descriptor that
 * CREATE returned, and its duplicates) does by itself unless
 * CHIMERA_SEG_PERSIST was given. The memory lives until the name and all
 * descriptors and mappings on all nodes are gone. When the home node is lost,
 * access to the memory gives SIGBUS.
 */
#define CHIMERA_SEG_PERSIST	(1u << 0)

struct chimera_seg_create {
	char name[CHIMERA_SEG_NAME_BYTES];
	__u64 size;		/* bytes, rounded up to a page; > 0 */
	__u32 mode;		/* permission bits 0777; owner is the caller */
	__u32 flags;		/* CHIMERA_SEG_* */
	__u64 reserved[2];
};
/*
 * Return: a descriptor (O_RDWR|O_CLOEXEC) to mmap(MAP_SHARED) at any page
 * offset; -EEXIST the name is taken on some node; -EINVAL; -ENOSPC it can
 * never fit; -ETIMEDOUT a node that is up did not answer; -ENOMEM.
 */
#define CHIMERA_IOC_SEG_CREATE	_IOW(0xC5, 0x01, struct chimera_seg_create)

struct chimera_seg_open {
	char name[CHIMERA_SEG_NAME_BYTES];
	__u32 flags;		/* O_RDONLY or O_RDWR */
	__u32 reserved;
};
/*
 * Return: a descriptor; -ENOENT; -EACCES by mode, owner and capability;
 * -EHOSTDOWN the home is down; -ETIMEDOUT.
 */
#define CHIMERA_IOC_SEG_OPEN	_IOW(0xC5, 0x02, struct chimera_seg_open)

struct chimera_seg_unlink {
	char name[CHIMERA_SEG_NAME_BYTES];
	__u64 reserved;
};
/* Return: 0; -ENOENT; -EPERM not the owner; -EHOSTDOWN; -ETIMEDOUT. */
#define CHIMERA_IOC_SEG_UNLINK	_IOW(0xC5, 0x03, struct chimera_seg_unlink)

struct chimera_seg_stat {
	char name[CHIMERA_SEG_NAME_BYTES];
	__u64 size;		/* bytes */
	__u64 resident;		/* bytes allocated so far; home only, else 0 */
	__u32 uid;
	__u32 gid;
	__u32 mode;
	__u16 home;
	__u16 reserved;
};
/* On a segment descriptor. Return: 0. */
#define CHIMERA_IOC_SEG_STAT	_IOR(0xC5, 0x04, struct chimera_seg_stat)

/*
 * User messages: datagrams between (node, port) pairs, reliable and in order
 * per pair of open files, with back-pressure. One open file of /dev/chimera
 * is one endpoint. poll(): POLLIN a message waits, POLLOUT a send would not
 * block for want of window, POLLERR a peer of this endpoint was lost.
 */
struct chimera_bind {
	__u32 port;		/* 1..65535; 0: the kernel picks one, from 32768 */
	__u32 reserved;
};
/*
 * Return: 0 with .port filled in; -EADDRINUSE; -EINVAL bound already;
 * -EACCES a port below 1024 without CAP_NET_BIND_SERVICE: who hears from such
 * a port knows that the sender is part of its node's system.
 */
#define CHIMERA_IOC_BIND	_IOWR(0xC5, 0x10, struct chimera_bind)

#define CHIMERA_MSG_DONTWAIT	(1u << 0)

struct chimera_msg {
	__u64 buf;		/* user address */
	__u32 len;		/* send: bytes; recv: room in, bytes out */
	__u32 port;		/* send: to; recv: from (out) */
	__u16 node;		/* send: to, the own node too; recv: from (out) */
	__u16 reserved;
	__u32 flags;		/* CHIMERA_MSG_* */
	__s64 timeout_ns;	/* < 0: wait without limit */
};
/*
 * SEND: 0; -EAGAIN (DONTWAIT); -ETIMEDOUT; -EHOSTDOWN; -ECONNREFUSED nobody
 * is bound there (known from an earlier send at the latest); -EMSGSIZE;
 * -EINTR; an unbound endpoint is bound as by port 0.
 * RECV: 0; -EAGAIN; -ETIMEDOUT; -EMSGSIZE it does not fit, .len is the need
 * and the message stays; -ENOTCONN the endpoint is not bound; -EINTR.
 */
#define CHIMERA_IOC_SEND	_IOW(0xC5, 0x11, struct chimera_msg)
#define CHIMERA_IOC_RECV	_IOWR(0xC5, 0x12, struct chimera_msg)

/*
 * Round trips measured inside the kernel: KERNEL is a message answered by the
 * peer's kernel in its interrupt handler; ECHO a kick of the echo queue
 * answered by an eventfd in another process (-EOPNOTSUPP without the
 * feature); DOORBELL a doorbell answered by one.
 */
#define CHIMERA_PING_KERNEL	0
#define CHIMERA_PING_ECHO	1
#define CHIMERA_PING_DOORBELL	2

struct chimera_ping {
	__u16 node;
	__u16 kind;
	__u32 count;		/* samples wanted, 1..1000000 */
	__u32 bytes;		/* payload of a KERNEL ping, 0..CHIMERA_MSG_BYTES */
	__u32 done;		/* out: samples written */
	__u64 samples;		/* user address of __u64[count], nanoseconds */
};
/* Return: 0; -EHOSTDOWN; -ETIMEDOUT (1 s without an answer); -EINTR. */
#define CHIMERA_IOC_PING	_IOWR(0xC5, 0x13, struct chimera_ping)

#endif /* _UAPI_LINUX_CHIMERA_H */
