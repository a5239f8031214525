/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The report of a recorded run: one page of HTML. */
#ifndef CHIMERA_REPORT_H
#define CHIMERA_REPORT_H

#include "recording.h"

/* Reads @r to its end. NULL: something in it is wrong. */
char *report_html(struct recording *r, GError **error);

#endif
