/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Messages between the kernels of one machine: what stands in the payload of a
 * virtio-fabric message. Little endian, naturally aligned, reserved fields are
 * zero. Every length is checked by the receiver. Described in docs/fabric.md.
 */
#ifndef _CHIMERA_PROTO_H
#define _CHIMERA_PROTO_H

#include <linux/bits.h>
#include <linux/build_bug.h>
#include <linux/types.h>
#include <linux/chimera.h>
#include <linux/virtio_fabric.h>

#define CHIMERA_PROTO_VERSION	4

enum chimera_service_id {
	CHIMERA_SERVICE_NODE	= 0,
	CHIMERA_SERVICE_PING	= 1,
	CHIMERA_SERVICE_PROC	= 2,
	CHIMERA_SERVICE_SEG	= 3,
	CHIMERA_SERVICE_PORT	= 4,
	CHIMERA_SERVICE_FUSED	= 5,
	CHIMERA_NR_SERVICES
};

#define CHIMERA_HDR_REPLY	BIT(0)

/*
 * Starts every message. A message of class REQUEST with a cookie is answered
 * by one of class REPLY that has the same service, type and cookie. The
 * cookie is the requester's business; 0 means that no answer is wanted.
 */
struct chimera_hdr {
	__u8 service;		/* enum chimera_service_id */
	__u8 type;		/* the service's own */
	__u8 flags;		/* CHIMERA_HDR_* */
	__u8 reserved;
	__le32 status;		/* of a reply: 0 or an errno, positive */
	__le64 cookie;
};

static_assert(sizeof(struct chimera_hdr) == 16);

/* Payload bytes behind the header. */
#define CHIMERA_BODY_BYTES \
	(VIRTIO_FABRIC_MAX_PAYLOAD - sizeof(struct chimera_hdr))

/*
 * Requests that a node may have unanswered at one peer; also what the peer
 * sets receive buffers aside for.
 */
#define CHIMERA_CALLS_MAX	16

/* NODE: both of class REQUEST, not answered. */
#define CHIMERA_NODE_HELLO	0	/* the first message to a peer */
#define CHIMERA_NODE_SYNCED	1	/* the sender has told all its names */

struct chimera_node_hello {
	__le32 version;		/* CHIMERA_PROTO_VERSION */
	__le32 page_shift;
	__le64 boot_id;		/* random, never 0 */
};

/* PING: class REQUEST; the answer carries the same bytes. */
#define CHIMERA_PING_REQUEST	0

/* Doorbell bits. */
#define CHIMERA_BELL_PING	BIT_ULL(63)
#define CHIMERA_BELL_PONG	BIT_ULL(62)

/* PROC */
#define CHIMERA_PROC_READ	0
#define CHIMERA_PROC_MEM	1

enum chimera_proc_file {
	CHIMERA_PROC_CPUINFO	= 0,
	CHIMERA_PROC_MEMINFO	= 1,
	CHIMERA_PROC_STAT	= 2,
	CHIMERA_PROC_TASKS	= 3,
	CHIMERA_NR_PROC_FILES
};

/*
 * The text is rendered when offset is 0 and kept until it was read to its end
 * or is rendered anew.
 */
struct chimera_proc_read {
	__le32 file;		/* enum chimera_proc_file */
	__le32 offset;
};

/* Followed by as much of the text as fits; none at the end. */
struct chimera_proc_text {
	__le32 total;
	__le32 reserved;
};

struct chimera_proc_mem {
	__le64 total_kb;
	__le64 free_kb;
};

/* SEG: all are requests and answered. Ids are given by the home, never again. */
#define CHIMERA_SEG_RESERVE	0	/* name; -EEXIST if it is yours */
#define CHIMERA_SEG_NAME_ADD	1	/* chimera_seg_entry[1..] */
#define CHIMERA_SEG_NAME_DEL	2	/* __le64 id[1..] */
#define CHIMERA_SEG_ATTACH	3	/* __le64 id */
#define CHIMERA_SEG_DETACH	4	/* __le64 id */
#define CHIMERA_SEG_UNLINK_ID	5	/* __le64 id */
#define CHIMERA_SEG_FAULT	6	/* chimera_seg_fault */

struct chimera_seg_reserve {
	__u8 name[CHIMERA_SEG_NAME_BYTES];
};

struct chimera_seg_entry {
	__u8 name[CHIMERA_SEG_NAME_BYTES];	/* NUL padded */
	__le64 id;
	__le64 size;
	__le32 uid;
	__le32 gid;
	__le32 mode;
	__le32 reserved;
};

static_assert(sizeof(struct chimera_seg_entry) == 96);

/*
 * Wanted: page 'index', and the 'ahead' - 1 behind it also if they have to be
 * allocated. Useful: those of [start, start + count) that exist.
 * start <= index, index + ahead <= start + count, count <= FAULT_PAGES.
 */
#define CHIMERA_SEG_FAULT_PAGES	128

struct chimera_seg_fault {
	__le64 id;
	__le64 index;
	__le64 start;
	__le32 count;
	__le32 ahead;
};

/* Answer: one per page of [start, start + count): page number in the region. */
#define CHIMERA_SEG_NO_PAGE	0xffffffffu

/*
 * PORT: user messages. A sender opens a pair to (node, port), gets the
 * receiver's handle for it and a window in bytes, and spends one record of the
 * window for each message. The receiver returns what was consumed.
 */
#define CHIMERA_PORT_OPEN	0	/* REQUEST, answered: chimera_port_opened */
#define CHIMERA_PORT_DATA	1	/* BULK: chimera_port_data, bytes */
#define CHIMERA_PORT_CLOSE	2	/* BULK, from the sender: it is done */
#define CHIMERA_PORT_CREDIT	3	/* ACK, from the receiver */
#define CHIMERA_PORT_RESET	4	/* ACK, from the receiver: it is gone */

struct chimera_port_open {
	__le32 handle;		/* the sender's */
	__le32 from_port;
	__le32 to_port;
	__le32 reserved;
};

struct chimera_port_opened {
	__le32 handle;		/* the receiver's */
	__le32 window;		/* bytes */
};

struct chimera_port_data {	/* DATA, CLOSE */
	__le32 handle;		/* the receiver's */
	__le32 len;		/* of the bytes that follow */
};

struct chimera_port_credit {	/* CREDIT, RESET */
	__le32 handle;		/* the sender's */
	__le32 bytes;
};

/* What a message of len bytes takes of the window. */
#define CHIMERA_PORT_RECORD(len)	(8u + (((len) + 7u) & ~7u))

/*
 * FUSED: processes on several nodes. id names the process at its home, the
 * node that does not run the stub. JOIN is answered, with nothing; all others
 * are one way. Described in docs/fused.md.
 */
enum chimera_fused_type {
	CHIMERA_FUSED_JOIN	= 0,	/* stub: fused_join */
	CHIMERA_FUSED_LEFT	= 1,	/* stub: fused_left; nothing is mapped */
	CHIMERA_FUSED_GONE	= 2,	/* home: le64 id; the process ended */
	CHIMERA_FUSED_ATTACH	= 3,	/* home: fused_words, word[0] only */
	CHIMERA_FUSED_WORDS	= 4,	/* home: fused_words */
	CHIMERA_FUSED_EVENT	= 5,	/* stub: fused_event; chan.arg: which */
	CHIMERA_FUSED_FAULT	= 6,	/* stub: fused_fault */
	CHIMERA_FUSED_PARK	= 7,	/* home: fused_chan; arg: number of it */
	CHIMERA_FUSED_RESUME	= 8,	/* home: fused_chan; arg: the same */
	CHIMERA_FUSED_PARKED	= 9,	/* stub: fused_chan; arg: the same */
	CHIMERA_FUSED_CLOSE	= 10,	/* home: fused_chan; its thread is gone */
	CHIMERA_FUSED_END	= 11,	/* stub: fused_chan; its thread is gone */
	CHIMERA_FUSED_GRANT	= 12,	/* home, REPLY: fused_grant, pages */
	CHIMERA_FUSED_INVAL	= 13,	/* home, REPLY: fused_inval */
	CHIMERA_FUSED_ACKED	= 14,	/* stub, ACK: fused_acked */
	CHIMERA_FUSED_TIME	= 15,	/* stub: fused_time */
};

/* LEFT overtakes its JOIN if that was not handled at once. */
struct fused_join {
	__le64 id;
	__le64 nr;		/* of the stub; its node counts up from 1 */
	__le64 secret;
	__le32 uid;
	__le32 reserved;
};

struct fused_left {
	__le64 id;
	__le64 nr;		/* all stubs up to this one have left */
	__le32 status;		/* as of wait(2) */
	__le32 reserved;
};

/* Channels of one process and node; a number's low bits say which one. */
#define CHIMERA_FUSED_CHANNELS	256u

struct fused_chan {
	__le64 id;
	__le32 channel;
	__le32 arg;
};

struct fused_words {
	struct fused_chan chan;
	__le64 word[CHIMERA_WORDS];
};

/* What a serving thread has used of its processors so far, in ns. */
struct fused_cpu {
	__le64 run;
	__le64 user;		/* by the clock's ticks */
	__le64 system;
};

struct fused_event {
	struct fused_words words;
	struct fused_cpu cpu;
};

struct fused_time {
	struct fused_chan chan;
	struct fused_cpu cpu;
};

#define CHIMERA_FUSED_WRITE	BIT(0)

struct fused_fault {
	struct fused_chan chan;	/* arg: number of the fault */
	__le64 va;
	__le32 flags;
	__le32 reserved;
};

/* Most pages of one grant; they lie under one page table. */
#define CHIMERA_FUSED_PAGES	64u
#define CHIMERA_FUSED_NO_PAGE	CHIMERA_SEG_NO_PAGE

/* Followed by count page numbers (le32) in home's region. */
struct fused_grant {
	struct fused_chan chan;	/* arg: number of the fault */
	__le64 va;		/* of the first page */
	__le64 writable;	/* bit n: page n may be written */
	__le32 count;
	__le32 signal;		/* no pages: what the access gets */
};

/* Invalidations that a home may have unanswered at one peer. */
#define CHIMERA_FUSED_INVALS	8u

struct fused_inval {
	__le64 id;
	__le64 seq;
	__le64 start;
	__le64 end;		/* behind the last byte */
};

struct fused_acked {
	__le64 id;
	__le64 seq;
};

static_assert(sizeof(struct fused_join) == 32);
static_assert(sizeof(struct fused_left) == 24);
static_assert(sizeof(struct fused_chan) == 16);
static_assert(sizeof(struct fused_words) == 80);
static_assert(sizeof(struct fused_event) == 104);
static_assert(sizeof(struct fused_time) == 40);
static_assert(sizeof(struct fused_fault) == 32);
static_assert(sizeof(struct fused_grant) == 40);

static_assert(sizeof(struct chimera_port_data) + CHIMERA_MSG_BYTES <=
	      CHIMERA_BODY_BYTES);
static_assert(sizeof(struct chimera_proc_text) < CHIMERA_BODY_BYTES);
static_assert(CHIMERA_SEG_FAULT_PAGES * 4 <= CHIMERA_BODY_BYTES);

#endif /* _CHIMERA_PROTO_H */
