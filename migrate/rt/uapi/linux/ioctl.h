/* SPDX-License-Identifier: GPL-2.0-or-later */
/* For <linux/chimera.h>: the same on both ISAs. */
#ifndef CHIMERA_RT_LINUX_IOCTL_H
#define CHIMERA_RT_LINUX_IOCTL_H

#define _IOC(dir, type, nr, size) \
    ((unsigned)(dir) << 30 | (unsigned)(size) << 16 | (type) << 8 | (nr))
#define _IO(type, nr)         _IOC(0, type, nr, 0)
#define _IOW(type, nr, arg)   _IOC(1, type, nr, sizeof(arg))
#define _IOR(type, nr, arg)   _IOC(2, type, nr, sizeof(arg))
#define _IOWR(type, nr, arg)  _IOC(3, type, nr, sizeof(arg))

#endif
