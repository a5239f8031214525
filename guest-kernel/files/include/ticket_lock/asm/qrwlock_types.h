/* SPDX-License-Identifier: GPL-2.0-or-later */
/* asm-generic/spinlock_types.h asks for it. */
#include <asm-generic/qrwlock_types.h>
