/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A QMP client: handshake with out-of-band on, commands, events.
 * qmp_free() may be called from event() and closed(), not from a reply.
 */
#ifndef CHIMERA_QMP_H
#define CHIMERA_QMP_H

#include <json-glib/json-glib.h>
#include <stdbool.h>

struct qmp;

struct qmp_ops {
    /* The handshake is done; commands given before it are sent now. */
    void (*ready)(struct qmp *qmp, void *opaque);
    /* @data: may be NULL. */
    void (*event)(struct qmp *qmp, const char *name, JsonObject *data,
                  void *opaque);
    /* The connection is over; @error NULL: QEMU closed it. Last call. */
    void (*closed)(struct qmp *qmp, const GError *error, void *opaque);
};

/*
 * The answer to one command: @ret is valid during the call; NULL with @error
 * when QEMU refused or the connection ended first.
 */
typedef void qmp_reply(JsonNode *ret, const GError *error, void *opaque);

struct qmp *qmp_new(int fd, const struct qmp_ops *ops, void *opaque);
void qmp_free(struct qmp *qmp);
/* As conn_drain(). */
void qmp_drain(struct qmp *qmp);

/* @oob: out of band, answered even while QEMU's main loop is busy. */
void qmp_execute(struct qmp *qmp, const char *command, bool oob,
                 qmp_reply *reply, void *opaque);

#endif
