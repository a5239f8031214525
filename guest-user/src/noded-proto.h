/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How a program is run on another node. Three processes pass messages on:
 *
 *   onnode  --unix socket--  relay (noded here)  --fabric--  server (noded there)
 *
 * The unix socket tells the relay who asks (SO_PEERCRED); the relay speaks
 * from a port below 1024, which tells the server that it may believe it. A
 * message is this header and up to NODED_DATA_BYTES; all is little endian.
 */
#ifndef GUEST_NODED_PROTO_H
#define GUEST_NODED_PROTO_H

#include <linux/chimera.h>
#include <stdint.h>

#define NODED_VERSION 1
#define NODED_PORT 1 /* of every node */
#define NODED_RESERVED_PORTS 1024
#define NODED_SOCKET "/run/noded.sock"
/* What init hands over to noded. */
#define NODED_SOCKET_FD 3
#define NODED_ENDPOINT_FD 4

#define NODED_DATA_BYTES (CHIMERA_MSG_BYTES - 8)
#define NODED_WINDOW_BYTES 131072u /* standard input that may be on its way */
#define NODED_REQUEST_BYTES (1u << 20)

struct noded_msg {
    uint16_t type;
    uint16_t stream; /* as the agent's: 0 stdin, 1 stdout, 2 stderr */
    uint32_t value;
    uint8_t data[NODED_DATA_BYTES];
};
#define NODED_HEADER_BYTES 8
_Static_assert(sizeof(struct noded_msg) == CHIMERA_MSG_BYTES, "wire format");

enum noded_type {
    /* onnode -> relay, first: run something on node .value */
    NODED_CONNECT = 1,
    /* relay -> port 1 of the node: .value is NODED_VERSION */
    NODED_OPEN = 2,
    /* server -> relay -> onnode, from the port that serves it from now on */
    NODED_ACCEPT = 3,
    /* relay -> server: .value uid, data: u32 gid, u32 supplementary groups... */
    NODED_CRED = 4,
    /*
     * onnode -> server: a piece of the request, .value bytes in all: strings
     * as in request.h. Its uid, gid and groups are those of NODED_CRED.
     */
    NODED_REQUEST = 5,
    NODED_STARTED = 6, /* server -> onnode: .value is the pid there */
    NODED_DATA = 7,    /* both, .stream; no data: its end */
    NODED_GRANT = 8,   /* server -> onnode: .value more bytes of stdin */
    NODED_SIGNAL = 9,  /* onnode -> server: .value for the process group */
    /*
     * server or relay -> onnode, last: .stream is 0 exited, 1 killed, 2 could
     * not start, 3 the machine failed; .value status, signal, errno; text.
     */
    NODED_EXIT = 10,
    NODED_HANGUP = 11, /* relay -> server, last: nothing more is wanted */
    NODED_ALIVE = 12   /* relay <-> server: only to see if the other is there */
};

enum { NODED_EXITED, NODED_KILLED, NODED_NOT_STARTED, NODED_FAILED };

#endif /* GUEST_NODED_PROTO_H */
