/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "conn.h"

#include "util.h"

#include <errno.h>
#include <gio/gio.h>
#include <glib-unix.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { READ_BYTES = 65536 };

struct conn {
    int refs; /* callbacks in progress hold one */
    int fd; /* -1: freed or closed */
    bool closed, finishing;
    gsize max_input;
    const struct conn_ops *ops;
    void *opaque;
    guint in_source, out_source;
    GByteArray *in, *out;
    gsize out_done; /* bytes at the front of out already written */
};

static void conn_unref(struct conn *conn)
{
    if (--conn->refs == 0) {
        g_byte_array_unref(conn->in);
        g_byte_array_unref(conn->out);
        g_free(conn);
    }
}

static void conn_detach(struct conn *conn)
{
    if (conn->in_source) {
        g_source_remove(conn->in_source);
        conn->in_source = 0;
    }
    if (conn->out_source) {
        g_source_remove(conn->out_source);
        conn->out_source = 0;
    }
    close_fd(&conn->fd);
}

static void conn_fail(struct conn *conn, const GError *error)
{
    if (conn->closed) {
        return;
    }
    conn->closed = true;
    conn_detach(conn);
    conn->ops->closed(conn, error, conn->opaque);
}

static void conn_fail_errno(struct conn *conn, const char *what, int err)
{
    g_autoptr(GError) error =
        g_error_new(G_IO_ERROR, (int)g_io_error_from_errno(err), "%s: %s", what,
                    g_strerror(err));

    conn_fail(conn, error);
}

/* Offers the input; stops when the owner takes nothing or freed us. */
static void conn_offer(struct conn *conn)
{
    gsize taken, total = 0;

    while (conn->fd >= 0 && total < conn->in->len) {
        taken = conn->ops->input(conn, conn->in->data + total,
                                 conn->in->len - total, conn->opaque);
        if (taken == 0) {
            break;
        }
        g_assert(taken <= conn->in->len - total);
        total += taken;
    }
    if (total > 0) {
        g_byte_array_remove_range(conn->in, 0, (guint)total);
    }
}

static gboolean conn_readable(int fd, GIOCondition cond, gpointer opaque)
{
    struct conn *conn = opaque;
    guint old = conn->in->len;
    ssize_t n;
    int err;

    conn->refs++;
    g_byte_array_set_size(conn->in, old + READ_BYTES);
    n = recv(fd, conn->in->data + old, READ_BYTES, MSG_DONTWAIT);
    err = errno;
    g_byte_array_set_size(conn->in, old + (guint)MAX(n, 0));
    if (n > 0) {
        conn_offer(conn);
        if (conn->fd >= 0 && conn->in->len > conn->max_input) {
            conn_fail_errno(conn, "peer sends without end", EMSGSIZE);
        }
    } else if (n == 0) {
        conn_fail(conn, NULL);
    } else if (err == ECONNRESET) {
        conn_fail(conn, NULL);
    } else if (err != EAGAIN && err != EINTR) {
        conn_fail_errno(conn, "receiving", err);
    }
    conn_unref(conn);
    return G_SOURCE_CONTINUE;
}

void conn_drain(struct conn *conn)
{
    ssize_t n = 1;

    conn->refs++;
    while (conn->fd >= 0 && n > 0 && conn->in->len <= conn->max_input) {
        guint old = conn->in->len;

        g_byte_array_set_size(conn->in, old + READ_BYTES);
        n = recv(conn->fd, conn->in->data + old, READ_BYTES, MSG_DONTWAIT);
        g_byte_array_set_size(conn->in, old + (guint)MAX(n, 0));
        conn_offer(conn);
    }
    conn_unref(conn);
}

/* Returns 0 or the errno that ended the connection. */
static int conn_push(struct conn *conn)
{
    while (conn->out_done < conn->out->len) {
        ssize_t n =
            send(conn->fd, conn->out->data + conn->out_done,
                 conn->out->len - conn->out_done, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n < 0) {
            if (errno == EINTR) {
                continue;
            }
            return errno == EAGAIN ? 0 : errno;
        }
        conn->out_done += (gsize)n;
    }
    g_byte_array_set_size(conn->out, 0);
    conn->out_done = 0;
    if (conn->finishing) {
        shutdown(conn->fd, SHUT_WR);
    }
    return 0;
}

static gboolean conn_writable(int fd, GIOCondition cond, gpointer opaque)
{
    struct conn *conn = opaque;
    int err = conn_push(conn);

    if (err == 0 && conn->out->len > 0) {
        return G_SOURCE_CONTINUE;
    }
    /*
     * A peer that is gone is reported by the reading side, which may still
     * hold its last words.
     */
    if (err) {
        g_byte_array_set_size(conn->out, 0);
        conn->out_done = 0;
    }
    conn->out_source = 0;
    return G_SOURCE_REMOVE;
}

struct conn *conn_new(int fd, gsize max_input, const struct conn_ops *ops,
                      void *opaque)
{
    struct conn *conn = g_new0(struct conn, 1);

    conn->refs = 1;
    conn->fd = fd;
    conn->max_input = max_input;
    conn->ops = ops;
    conn->opaque = opaque;
    conn->in = g_byte_array_new();
    conn->out = g_byte_array_new();
    conn->in_source =
        g_unix_fd_add(fd, G_IO_IN | G_IO_HUP | G_IO_ERR, conn_readable, conn);
    return conn;
}

void conn_free(struct conn *conn)
{
    if (!conn) {
        return;
    }
    conn->closed = true;
    conn_detach(conn);
    conn_unref(conn);
}

void conn_write(struct conn *conn, const void *data, gsize len)
{
    if (conn->fd < 0 || conn->finishing || len == 0) {
        return;
    }
    if (conn->out_done > READ_BYTES) {
        g_byte_array_remove_range(conn->out, 0, (guint)conn->out_done);
        conn->out_done = 0;
    }
    g_byte_array_append(conn->out, data, (guint)len);
    if (!conn->out_source && (conn_push(conn) != 0 || conn->out->len > 0)) {
        conn->out_source =
            g_unix_fd_add(conn->fd, G_IO_OUT | G_IO_ERR, conn_writable, conn);
    }
}

gsize conn_queued_bytes(const struct conn *conn)
{
    return conn->out->len - conn->out_done;
}

void conn_finish(struct conn *conn)
{
    if (conn->fd < 0 || conn->finishing) {
        return;
    }
    conn->finishing = true;
    if (conn->out->len == 0) {
        shutdown(conn->fd, SHUT_WR);
    }
}

void conn_flush(struct conn *conn, unsigned timeout_ms)
{
    gint64 deadline = g_get_monotonic_time() + (gint64)timeout_ms * 1000;

    while (conn->fd >= 0 && conn->out->len > 0) {
        gint64 left_ms = (deadline - g_get_monotonic_time()) / 1000;
        struct pollfd p = { .fd = conn->fd, .events = POLLOUT };

        if (left_ms <= 0 || poll(&p, 1, (int)left_ms) == 0 ||
            conn_push(conn) != 0) {
            return;
        }
    }
}

int conn_fd(const struct conn *conn)
{
    return conn->fd;
}
