/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What `chimera top` shows, as text; builtin-top.c has the terminal. */
#ifndef CHIMERA_TOP_H
#define CHIMERA_TOP_H

#include "sample.h"

enum { TOP_HOT_SPOTS = 16 };

/* Who has a page, as far as it is known; NULL: not known (yet). */
typedef const char *top_who(unsigned node, unsigned owner, uint64_t page,
                            void *opaque);

/*
 * @interval: what sample_subtract() left. @machine, @when: for the first line.
 * Lines end with "\n".
 */
void top_render(const struct sample *interval, const char *machine,
                const char *when, top_who *who, void *opaque, GString *out);

#endif
