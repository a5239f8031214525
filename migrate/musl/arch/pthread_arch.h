/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * TLS below the thread pointer, which points at struct pthread: the x86_64
 * layout, on every ISA (rt/aarch64.c sets tpidr_el0 so that offsets agree).
 */
uintptr_t __chimera_get_tp(void) __attribute__((__const__));

static inline uintptr_t __get_tp(void)
{
    return __chimera_get_tp();
}

#define MC_PC gregs[REG_RIP]
