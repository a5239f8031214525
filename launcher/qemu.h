/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The QEMU of one node: its command line and its process. */
#ifndef CHIMERA_QEMU_H
#define CHIMERA_QEMU_H

#include "config.h"
#include "preflight.h"

#include <sys/types.h>

/* Where the share is mounted inside every node. */
#define GUEST_SHARE "/mnt/share"

/* Descriptors as the QEMU process has them. */
enum {
    QEMU_FD_QMP = 3,
    QEMU_FD_AGENT,
    QEMU_FD_CONSOLE,
    QEMU_FD_ECHO_KICK, /* only with an echo peer */
    QEMU_FD_ECHO_CALL,
    QEMU_FD_REQUEST, /* of courier.h, in the place of a QEMU; this, too: */
    QEMU_FD_KEY_ID,
    QEMU_FD_END
};

struct qemu_spec {
    const struct machine_config *config;
    unsigned self;
    enum accel accel; /* TCG or KVM */
    const char *run_path; /* not used for a node on another host */
    const char *machine_uuid;
    bool echo_floor; /* virtio-fabric has its echo queue */
};

/* The command line, argv[0] included; to be freed with g_strfreev(). */
char **qemu_argv(const struct qemu_spec *spec);

/*
 * Starts it. @fds: our numbers for QEMU_FD_QMP and on, -1 for none; they stay
 * the caller's. Its stderr and stdout go to @log_path (NULL: to ours). It dies when this
 * process dies. Return: its pid, not reaped by anybody but the caller; -1.
 */
pid_t qemu_start(const struct qemu_spec *spec,
                 const int fds[QEMU_FD_END - QEMU_FD_QMP], const char *log_path,
                 GError **error);

/*
 * Starts any helper in the same way: @target_fds names the descriptors.
 * @affinity: NULL or host CPUs.
 */
pid_t child_start(char **argv, const int *fds, const int *target_fds,
                  unsigned n_fds, const GArray *affinity, const char *log_path,
                  GError **error);

#endif
