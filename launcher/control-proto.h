/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What other commands and a machine's supervisor say to each other over
 * RUN/control.sock: frames as in chimera/agent-proto.h under CTL_MAGIC, with
 * session 0. One connection carries one request.
 *
 * Both sides begin with CTL_HELLO; a side that hears another version answers
 * CTL_ERROR and closes. The supervisor serves processes of its own user only
 * (SO_PEERCRED). Anything malformed is answered by CTL_ERROR and the end of
 * that connection.
 *
 * Streams of a session have windows as in the agent protocol, end to end: the
 * supervisor passes CTL_GRANT on, so it never holds more than a window.
 */
#ifndef CHIMERA_CONTROL_PROTO_H
#define CHIMERA_CONTROL_PROTO_H

#include <chimera/agent-proto.h>

#define CTL_MAGIC 0x54434843u /* "CHCT" */
#define CTL_VERSION 1

enum ctl_type {
    CTL_HELLO = 1, /* both: u32 version */

    /* Requests. */
    CTL_STATUS = 2, /* -> CTL_REPLY */
    CTL_STATS = 3, /* -> CTL_REPLY */
    CTL_DOWN = 4, /* u32: 0 orderly, 1 at once -> CTL_BYE when all is gone */
    CTL_EXEC = 5, /* "node=INDEX", then as AGENT_EXEC -> a session */
    CTL_CONSOLE = 6, /* u32 node, u32 bytes of its log -> CTL_DATA of
                        the log, CTL_STARTED, CTL_DATA both ways */
    CTL_NAMES = 7, /* u32 node, then for each page u32 owner, u64 number: who
                      on that node has them -> CTL_REPLY, see names.h */

    /* Answers. JSON comes in pieces, ended by an empty frame of its type. */
    CTL_REPLY = 16, /* JSON; last frame */
    CTL_ERROR = 17, /* text for people; last frame */
    CTL_BYE = 18, /* nothing of the machine is left; last frame */
    CTL_PROGRESS = 19, /* JSON; to the command that started the machine */
    CTL_READY = 20, /* JSON as of CTL_STATUS; likewise, all nodes are up */

    /* Sessions and consoles. */
    CTL_STARTED = 32, /* u32 pid */
    CTL_DATA = 33, /* len 0: end of that stream */
    CTL_GRANT = 34, /* u32 */
    CTL_SIGNAL = 35, /* u32 */
    CTL_WINSIZE = 36, /* u16 rows, u16 cols */
    CTL_EXIT = 37, /* as AGENT_EXIT; last frame */
};

#endif
