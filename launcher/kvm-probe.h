/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef CHIMERA_KVM_PROBE_H
#define CHIMERA_KVM_PROBE_H

#include <stdbool.h>

/*
 * Whether KVM on this host runs 64-bit guests of the host's ISA, by running
 * one: a /dev/kvm that opens proves nothing (nested and emulated ones exist
 * that fail or hang at the first long-mode entry). Done in a child process
 * with a time limit, at every start.
 * @ret_reason: why not, to be freed; untouched on success.
 */
bool kvm_probe(char **ret_reason);

#endif
