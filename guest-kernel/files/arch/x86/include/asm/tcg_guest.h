/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef _ASM_X86_TCG_GUEST_H
#define _ASM_X86_TCG_GUEST_H

#include <asm/hypervisor.h>

extern const struct hypervisor_x86 x86_hyper_tcg;

#endif /* _ASM_X86_TCG_GUEST_H */
