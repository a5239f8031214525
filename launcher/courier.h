/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A node on another host. Two processes stand between the supervisor and the
 * node's QEMU and carry its monitor, agent port and console over whatever
 * start-command makes of their standard input and output:
 *
 *   supervisor == 3 socket pairs == near -- ssh ... -- far == 3 == QEMU
 *
 * near is started by the supervisor in the place of a QEMU, with the same
 * descriptors, lives as long as it and ends as it did. far is started by
 * start-command, checks its host as preflight.h does, and starts the QEMU,
 * which does not outlive it; it ends when near or the way to it does.
 *
 * They speak frames of frame.h under COURIER_MAGIC, streams 0 to 2 as the
 * descriptors from QEMU_FD_QMP on.
 */
#ifndef CHIMERA_COURIER_H
#define CHIMERA_COURIER_H

#include "qemu.h"

#define COURIER_MAGIC 0x52434843u /* "CHCR" */
#define COURIER_VERSION 2

enum courier_type {
    COURIER_HELLO = 1, /* far, first: u32 version, text: chimera's, "\n",
                          its prefix */
    COURIER_START = 2, /* near: JSON in pieces, ended by an empty frame */
    COURIER_ERROR = 3, /* far: text for people; last frame */
    COURIER_DATA = 4, /* both; len 0: end of that stream */
    COURIER_EXIT = 5, /* far: u32 kind (0 exited, 1 killed), u32 value; last */
    COURIER_ALIVE = 6, /* both, when nothing else was sent for a while */
    COURIER_KEY_ID = 7, /* far, once, if there is a key: preflight_key_id() */
};

/*
 * As qemu_start(), for a node that has a host: starts near. To @key_id_fd it
 * writes what its host says of the key.
 */
pid_t courier_start(const struct qemu_spec *spec,
                    const int fds[QEMU_FD_END - QEMU_FD_QMP], int key_id_fd,
                    const char *log_path, GError **error);

/* The mains of both, commands that people have no use for. */
int courier_near(void);
int courier_far(void);

#endif
