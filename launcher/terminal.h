/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef CHIMERA_TERMINAL_H
#define CHIMERA_TERMINAL_H

#include <stdbool.h>
#include <stdint.h>

/* Raw mode on stdin's terminal until terminal_restore() or exit(). */
bool terminal_raw(void);
void terminal_restore(void);

/* false when @fd is no terminal or it does not know its size. */
bool terminal_size(int fd, uint16_t *ret_rows, uint16_t *ret_cols);

#endif
