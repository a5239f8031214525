/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A non-blocking byte connection on the default main context: input is
 * gathered and offered to its owner, output is queued without limit (owners
 * bound it: by windows, or by looking at conn_queued_bytes()).
 *
 * Any callback may call conn_free() on the connection it runs for.
 */
#ifndef CHIMERA_CONN_H
#define CHIMERA_CONN_H

#include <glib.h>
#include <stdint.h>

struct conn;

struct conn_ops {
    /*
     * Some bytes are there. Returns how many were taken from the front; the
     * rest is offered again, with more behind it, when more has arrived.
     */
    gsize (*input)(struct conn *conn, const uint8_t *data, gsize len,
                   void *opaque);
    /*
     * The peer is gone (@error NULL: it closed) or the connection failed.
     * Called once; nothing follows. The owner frees the connection.
     */
    void (*closed)(struct conn *conn, const GError *error, void *opaque);
};

/* Takes over @fd, a socket. @max_input: unparsed bytes that are too many. */
struct conn *conn_new(int fd, gsize max_input, const struct conn_ops *ops,
                      void *opaque);
void conn_free(struct conn *conn);

void conn_write(struct conn *conn, const void *data, gsize len);
gsize conn_queued_bytes(const struct conn *conn);

/*
 * Takes in what the peer has sent before it ended: for an owner that hears of
 * that end by another way. Does not call closed() for it.
 */
void conn_drain(struct conn *conn);

/* Send what is queued, then end our direction; input goes on until closed. */
void conn_finish(struct conn *conn);

/*
 * Blocks until everything queued is written, the peer is gone, or the time
 * is over. For last words before exit.
 */
void conn_flush(struct conn *conn, unsigned timeout_ms);

int conn_fd(const struct conn *conn);

#endif
