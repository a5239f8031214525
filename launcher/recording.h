/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The file of a recorded run: one JSON object a line.
 *
 *   {"chimera-recording": 1, "version": TEXT, "started": TEXT, "machine": {}}
 *   {"ms": TIME, "nodes": [...]}
 *   {"ms": TIME, "names": [{"node", "owner", "page", "who"}]}
 *
 * "machine" is as in `chimera status --json`, "nodes" as in `chimera stats
 * --json` without what is zero and what the first line says; "ms" counts from
 * the moment when the machine was up. The counters are of the whole run, so
 * samples can be left out: when the file would become too long every second
 * one is, and from then on half as many are taken.
 */
#ifndef CHIMERA_RECORDING_H
#define CHIMERA_RECORDING_H

#include <json-glib/json-glib.h>
#include <stdbool.h>
#include <stdint.h>

enum { RECORDING_VERSION = 1, RECORDING_MAX_BYTES = 16 << 20 };

struct recording_writer;

/*
 * An empty recording at @path; what a regular file had in it is gone.
 * Anything else there is an error.
 */
struct recording_writer *recording_create(const char *path, uint64_t max_bytes,
                                          GError **error);
/* @started: the time of day then. */
bool recording_begin(struct recording_writer *w, JsonNode *machine,
                     const char *started, GError **error);
/* On failure nothing of the line is in the file. */
bool recording_add(struct recording_writer *w, JsonNode *line, GError **error);
/* One sample is taken where so many could be: 1, 2, 4, ... */
unsigned recording_every(const struct recording_writer *w);
void recording_close(struct recording_writer *w);

/* The lines: of the answer to CTL_STATS, and of a list of names. */
JsonNode *recording_sample(JsonNode *stats, gint64 ms);
JsonNode *recording_names(JsonArray *names, gint64 ms);

struct recording;

/*
 * Reads the whole file and checks its first line. @growing: it is being
 * written, so its last line may not be whole yet and is left out then.
 */
struct recording *recording_open(const char *path, bool growing,
                                 GError **error);
JsonObject *recording_head(const struct recording *r);
/*
 * The next line, of which only the time is checked; *ret_line belongs to @r until
 * the next call. NULL without an error at the end.
 */
JsonObject *recording_next(struct recording *r, uint64_t *ret_ms,
                           GError **error);
/* "FILE:LINE: " + message, for the line that was read last. */
void recording_prefix(const struct recording *r, GError **error);
void recording_free(struct recording *r);

#endif
