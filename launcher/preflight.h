/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the host must offer before anything of a machine is started. */
#ifndef CHIMERA_PREFLIGHT_H
#define CHIMERA_PREFLIGHT_H

#include "config.h"

/* What a node will run on, and why when "auto" did not give KVM. */
struct accel_choice {
    enum accel accel; /* TCG or KVM */
    char *reason; /* "" when there is nothing to say */
};

/*
 * Checks everything: QEMU, kernels, folders, socket paths, memory, host CPUs,
 * ports, the key, accelerators. On failure one line per thing that is wrong.
 * What concerns nodes on other hosts is checked there.
 * @ret_choices: an array of one struct accel_choice per node, to be given to
 * accel_choices_free().
 */
bool preflight(const struct machine_config *config,
               struct accel_choice **ret_choices, GError **error);

/* The same on the host of one node, for that node. */
bool preflight_far(const struct machine_config *config, unsigned self,
                   enum accel *ret_accel, GError **error);

/*
 * What tells whether two hosts have the same key and says nothing about it:
 * text of PREFLIGHT_KEY_ID_BYTES, another one for each machine. NULL: there is
 * no key, or it can no longer be read.
 */
#define PREFLIGHT_KEY_ID_BYTES 64
char *preflight_key_id(const struct machine_config *config,
                       const char *machine_uuid);

void accel_choices_free(struct accel_choice *choices, unsigned n);

/* PREFIX/bin/qemu-system-ISA */
char *preflight_qemu(enum isa isa);

/*
 * Bytes that new processes here may use: MemAvailable, or less where a
 * memory cgroup (either version) above this process allows less.
 * @root: "" or, in tests, a folder with proc/ and sys/ in it.
 * @ret_limit: a description of what limits it, to be freed.
 */
uint64_t preflight_memory_available(const char *root, char **ret_limit);

#endif
