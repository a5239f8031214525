/* SPDX-License-Identifier: GPL-2.0-or-later */
/* For <linux/chimera.h> where no kernel headers are installed. */
#ifndef CHIMERA_RT_LINUX_TYPES_H
#define CHIMERA_RT_LINUX_TYPES_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef int __s32;
typedef unsigned long long __u64;
typedef long long __s64;

#endif
