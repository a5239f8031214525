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

/*
 * Fused processes: a process whose threads run on several nodes in one address
 * space. Its home is the node where it was started; there are its mm, its ids,
 * its descriptors. On each other node a *stub* process of it joins; what the
 * stub maps from the descriptor that JOIN returns is home's memory at the same
 * address, page frame for page frame. A thread of home has at most one
 * *channel* to each node: the pair of that thread and one thread of the stub
 * that serves it. On a channel one side runs and the other waits.
 *
 * FUSE makes the calling process a home. Return: a descriptor (O_CLOEXEC),
 * the home descriptor; it is of use to this mm only (-EPERM for others, so
 * for children of fork too). -EBUSY fused already, or a stub; -ENOMEM.
 */
struct chimera_fuse {
	__u32 flags;		/* 0 */
	__u32 reserved;
	__u64 id;		/* out: names the process at its home */
	__u64 secret;		/* out: what a stub proves itself with */
};
#define CHIMERA_IOC_FUSE	_IOWR(0xC5, 0x20, struct chimera_fuse)

/*
 * JOIN makes the calling process the stub of one of home's processes. Return:
 * a descriptor (O_CLOEXEC), the stub descriptor. mmap(MAP_SHARED) of it, with
 * PROT_READ|PROT_WRITE and an offset equal to the address, makes a mirror:
 * never executable, not inherited by fork. When home ends, the stub gets
 * SIGKILL; when the stub ends, its channels are lost.
 * -ESRCH no such process; -EACCES wrong secret, or another user than home's;
 * -EALREADY this node has a stub of it; -EINVAL the home is the own node;
 * -EPERM the process is fused itself; -EHOSTDOWN; -ETIMEDOUT.
 */
struct chimera_join {
	__u16 home;		/* node */
	__u16 reserved[3];
	__u64 id;
	__u64 secret;
};
#define CHIMERA_IOC_JOIN	_IOW(0xC5, 0x21, struct chimera_join)

#define CHIMERA_WORDS		8

/* --- on the home descriptor ----------------------------------------------- */

/*
 * ATTACH makes the calling thread's channel to a node. It ends with the
 * thread. The stub's ACCEPT learns of it; the answer does not wait for that.
 * Return: 0; -EEXIST; -ENOTCONN the node has no stub (yet); -EHOSTDOWN;
 * -ETIMEDOUT; -EAGAIN too many.
 */
struct chimera_attach {
	__u16 node;
	__u16 reserved[3];
	__u64 arg;		/* for ACCEPT, unchanged */
};
#define CHIMERA_IOC_ATTACH	_IOW(0xC5, 0x22, struct chimera_attach)

enum chimera_event {
	CHIMERA_EVENT_MESSAGE	= 1,	/* word[]: what the remote CALLed with */
	CHIMERA_EVENT_SYSCALL	= 2,	/* word[]: nr, 6 arguments, ELF machine */
	CHIMERA_EVENT_FAULT	= 3,	/* word[]: signal, si_code, address, pc */
	CHIMERA_EVENT_LOST	= 4,	/* word[]: enum chimera_lost, its status */
};

enum chimera_lost {
	CHIMERA_LOST_NODE	= 1,	/* the node is down */
	CHIMERA_LOST_STUB	= 2,	/* status: as of wait(2), of the stub */
	CHIMERA_LOST_THREAD	= 3,	/* the serving thread ended */
};

/*
 * EXCHANGE gives words to the remote end, which runs with them, and waits for
 * its next event. WAIT only waits, for a remote end that runs already. While a
 * thread waits, the page faults of its remote end are resolved by it, and a
 * signal for it parks the remote end until the thread waits again: no handler
 * runs at home while its thread runs elsewhere. Such a call restarts by
 * itself; a program sees no EINTR.
 * Return: 0 with .event and .word; -ENOTCONN no such channel; -EBUSY the
 * remote end runs (EXCHANGE), -EINVAL it waits for words (WAIT). A channel
 * that is lost gives CHIMERA_EVENT_LOST and is gone afterwards.
 */
struct chimera_exchange {
	__u16 node;
	__u16 reserved;
	__u32 event;		/* out: enum chimera_event */
	__u64 word[CHIMERA_WORDS];	/* in (not WAIT) and out */
};
#define CHIMERA_IOC_EXCHANGE	_IOWR(0xC5, 0x23, struct chimera_exchange)
#define CHIMERA_IOC_WAIT	_IOWR(0xC5, 0x24, struct chimera_exchange)

/*
 * DETACH ends the calling thread's channel to a node, as the thread's end does,
 * and waits until the thread that served it is gone: it touches home's memory
 * no more. Return: 0; -ENOTCONN no such channel; -EINTR a fatal signal.
 */
struct chimera_detach {
	__u16 node;
	__u16 reserved[3];
};
#define CHIMERA_IOC_DETACH	_IOW(0xC5, 0x25, struct chimera_detach)

/* --- on the stub descriptor ----------------------------------------------- */

/*
 * ACCEPT waits for a channel that nobody serves yet. SERVE makes the calling
 * thread the remote end of it, waits for home's first words and returns them.
 * From then on system calls of that thread from text outside of the ranges of
 * NATIVE are not done here: home gets CHIMERA_EVENT_SYSCALL, and word[0] of
 * its answer is the result. CALL gives words to home and waits for the answer.
 * FAULTED reports a synchronous signal; when home answers, the thread goes on.
 * Return: 0; -EPIPE home's thread is gone: the thread should end; -EINVAL;
 * -EBUSY (SERVE) the thread serves already, the channel is served.
 */
struct chimera_accept {
	__u32 channel;
	__u32 reserved;
	__u64 arg;		/* of ATTACH */
};
#define CHIMERA_IOC_ACCEPT	_IOR(0xC5, 0x28, struct chimera_accept)

struct chimera_serve {
	__u32 channel;
	__u32 reserved;
	__u64 word[CHIMERA_WORDS];	/* out */
};
#define CHIMERA_IOC_SERVE	_IOWR(0xC5, 0x29, struct chimera_serve)

struct chimera_words {
	__u64 word[CHIMERA_WORDS];
};
#define CHIMERA_IOC_CALL	_IOWR(0xC5, 0x2a, struct chimera_words)

struct chimera_native {
	__u64 start;
	__u64 end;
};
#define CHIMERA_IOC_NATIVE	_IOW(0xC5, 0x2b, struct chimera_native)

struct chimera_faulted {
	__u32 signal;
	__s32 code;		/* si_code */
	__u64 address;
	__u64 pc;
};
#define CHIMERA_IOC_FAULTED	_IOW(0xC5, 0x2c, struct chimera_faulted)

#endif /* _UAPI_LINUX_CHIMERA_H */
