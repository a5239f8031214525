/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the launcher and the agent inside a guest say to each other over one
 * virtio-serial port ("org.chimera.agent"). Both directions are a sequence
 * of frames: this header, little endian, then len bytes.
 *
 * One port carries many sessions (commands that run); the launcher picks the
 * session ids, never 0, never reused. Each of a session's three byte streams
 * has its own window: a side sends at most as many bytes as it was granted,
 * so a stalled session never delays another. Every stream starts with
 * AGENT_WINDOW_BYTES granted; AGENT_GRANT adds to it.
 *
 * A side that receives something malformed answers AGENT_ERROR and, if the
 * frame boundary is lost, resynchronises by AGENT_RESET: the launcher by
 * sending one, the agent by dropping bytes until it meets one. A frame for a
 * session that has just ended is no error (it crossed AGENT_EXIT) and is
 * dropped. docs/guest-user.md says what each case does.
 */
#ifndef CHIMERA_AGENT_PROTO_H
#define CHIMERA_AGENT_PROTO_H

#include <stdint.h>

#define AGENT_PORT_NAME "org.chimera.agent"
#define AGENT_PROTO_VERSION 1
#define AGENT_MAGIC 0x4d494843u /* "CHIM" */
#define AGENT_MAX_PAYLOAD 65536u
#define AGENT_WINDOW_BYTES 262144u

struct agent_frame {
    uint32_t magic;   /* AGENT_MAGIC */
    uint16_t type;    /* enum agent_type */
    uint16_t stream;  /* 0 stdin, 1 stdout, 2 stderr; else 0 */
    uint32_t session; /* 0: the connection itself */
    uint32_t len;     /* payload bytes, <= AGENT_MAX_PAYLOAD */
};
_Static_assert(sizeof(struct agent_frame) == 16, "wire format");

enum agent_type {
    /*
     * launcher -> agent, session 0, first of all and at any time: 8 bytes of
     * nonce. Ends (SIGKILL) every session of an earlier launcher. The agent
     * answers AGENT_HELLO and discards everything before it.
     */
    AGENT_RESET = 1,
    /*
     * agent -> launcher: nonce[8], u32 version, u32 node (UINT32_MAX without a
     * fabric device), then text: uname -srm
     */
    AGENT_HELLO = 2,
    /*
     * launcher -> agent: a run of NUL-terminated strings, "KEY=VALUE" with
     * the keys: arg (repeated, in order; at least one), env (repeated,
     * "env=NAME=VALUE"), cwd, tty ("1" for a terminal: then stderr is not
     * used), rows, cols, uid, gid, group (repeated, supplementary groups).
     * arg[0] is looked up in PATH.
     */
    AGENT_EXEC = 3,
    AGENT_STARTED = 4, /* agent -> launcher: u32 pid in the guest */
    AGENT_DATA = 5,    /* both; stream as above. len 0: end of that stream */
    AGENT_GRANT = 6,   /* both: u32 more bytes allowed on that stream */
    AGENT_SIGNAL = 7,  /* launcher -> agent: u32 signal number for the group */
    AGENT_WINSIZE = 8, /* launcher -> agent: u16 rows, u16 cols */
    /*
     * agent -> launcher, last frame of a session, after its streams' ends:
     * u32 kind (0 exited, 1 killed by signal, 2 could not start), u32 value
     * (status, signal, errno), then text for kind 2. What background
     * children of the process write after its end is not waited for.
     */
    AGENT_EXIT = 9,
    AGENT_ERROR = 10,   /* both: text; the session (or 0) it concerns */
    AGENT_POWEROFF = 11, /* launcher -> agent, session 0: sync and power off */
    /*
     * agent -> launcher, session 0, after AGENT_HELLO and again at every
     * change: u32 nodes that this node sees up (itself too), u32 nodes of the
     * machine. Both 0 without a fabric device. The machine is whole when they
     * are equal; a launcher that does not care ignores it.
     */
    AGENT_MACHINE = 12
};

#endif /* CHIMERA_AGENT_PROTO_H */
