/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writes down the counters of a machine once a second while it is up, and who
 * has its hottest pages; recording.h has the file's format.
 */
#ifndef CHIMERA_RECORDER_H
#define CHIMERA_RECORDER_H

#include "machine.h"

struct recorder;

/* Begins a new file at @path; RUN/recording leads to it. */
struct recorder *recorder_new(struct machine *m, const char *path,
                              GError **error);
/* The machine is up. */
void recorder_begin(struct recorder *r);
/* It is about to end: one more sample, and then none. */
void recorder_last(struct recorder *r);
void recorder_free(struct recorder *r);

#endif
