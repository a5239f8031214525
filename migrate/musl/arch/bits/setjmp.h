/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Registers of any ISA, and what rt/thread.h adds (JB_*). */
typedef unsigned long __jmp_buf[32];
