/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A command's end of control-proto.h. */
#ifndef CHIMERA_CLIENT_H
#define CHIMERA_CLIENT_H

#include "control-proto.h"

#include <json-glib/json-glib.h>
#include <stdbool.h>

struct client;

struct client_ops {
    /* Any frame but greetings, errors and JSON. */
    void (*frame)(struct client *cl, unsigned type, unsigned stream,
                  const uint8_t *payload, gsize len, void *opaque);
    void (*json)(struct client *cl, unsigned type, JsonNode *node, void *opaque);
    /*
     * The connection is over; last call. @error: what the supervisor said in
     * CTL_ERROR, or what went wrong; NULL when it just closed.
     */
    void (*closed)(struct client *cl, const GError *error, void *opaque);
};

/* Connects to the supervisor of machine @name; -1. */
int client_connect(const char *name, GError **error);

/* Takes over @fd and greets. */
struct client *client_new(int fd, const struct client_ops *ops, void *opaque);
void client_free(struct client *cl);
void client_send(struct client *cl, unsigned type, unsigned stream,
                 const void *data, gsize len);
void client_send_u32(struct client *cl, unsigned type, unsigned stream,
                     uint32_t value);
gsize client_queued_bytes(const struct client *cl);

/*
 * Asks machine @name for CTL_STATUS or CTL_STATS and waits for the answer,
 * at most a few seconds: a supervisor that lives answers at once.
 */
JsonNode *client_query(const char *name, unsigned type, GError **error);

/* Asks machine @name to stop and waits until nothing of it is left. */
bool client_down(const char *name, bool at_once, GError **error);

/* Kills a supervisor that does not answer; its guard does the rest. */
bool client_kill(const char *name, GError **error);

#endif
