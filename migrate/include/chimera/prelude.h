/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Included before every file: variable arguments without an ISA.
 *
 * A va_list points to 8-byte slots (pass/VarArgs.cpp).  These macros stand for
 * the compiler's own names, so that every <stdarg.h> works unchanged.
 */
#ifndef CHIMERA_PRELUDE_H
#define CHIMERA_PRELUDE_H
#ifndef __ASSEMBLER__

char *__chimera_va_start(void);

#define __builtin_va_list char *
#define __builtin_ms_va_list char *
#define __builtin_va_start(ap, last) ((void)((ap) = __chimera_va_start()))
#define __builtin_c23_va_start(ap, ...) ((void)((ap) = __chimera_va_start()))
#define __builtin_va_end(ap) ((void)(ap))
#define __builtin_va_copy(to, from) ((void)((to) = (from)))
#define __builtin_va_arg(ap, type) __extension__({                          \
    struct __attribute__((__packed__)) { __typeof__(type) v; } *__chimera_p = \
        (void *)(ap);                                                        \
    (ap) += (sizeof(type) + 7) & ~7ul;                                       \
    __chimera_p->v; })

#endif
#endif
