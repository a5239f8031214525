/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tcp:HOST:PORT with a key: TLS 1.3 over TCP, where both ends prove that they
 * have the key (PSK) and agree on another for this connection (ECDHE), so
 * that who learns the key later cannot read what went by before.
 *
 * Receiving: GnuTLS would ask the socket twice for each record, for its header
 * and for the rest. It is given what one recv(2) brought instead; so the fd
 * says nothing of records that are here already, and pending() does.
 *
 * Sending: one call fills records of up to 16 KiB from all that it is given,
 * so a header and its page are one record. A record that the socket does not
 * take whole stays with GnuTLS and is flushed first of all.
 */
#include <errno.h>
#include <gnutls/gnutls.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "key.h"
#include "transport.h"

/* Several records: one recv(2) under load brings many. */
#define TLS_RX_BYTES (64 * 1024)
#define TLS_RECORD_BYTES (16 * 1024) /* RFC 8446, 5.1 */
#define TLS_HEADER_BYTES 5
/* Many times what a handshake takes; no stranger makes us read for longer. */
#define TLS_HANDSHAKE_BYTES (32 * 1024)

struct tls {
    gnutls_session_t session; /* first: a test looks for it here */
    int fd;
    bool outgoing;
    bool secured;
    int rx_error; /* what recv(2) ended with */
    size_t rx_start, rx_end;
    size_t rx_total; /* while it is not secured */
    size_t record_bytes; /* what the other end takes in one */
    char who[DSM__WHO_BYTES];
    char why[DSM_REASON_BYTES];
    uint8_t rx[TLS_RX_BYTES];
    uint8_t tx[TLS_RECORD_BYTES];
};

static ssize_t tls_pull(gnutls_transport_ptr_t opaque, void *buf, size_t bytes)
{
    struct tls *tls = opaque;
    size_t have = tls->rx_end - tls->rx_start;
    ssize_t n;

    if (have == 0) {
        if (!tls->secured && tls->rx_total > TLS_HANDSHAKE_BYTES) {
            n = -EMSGSIZE;
        } else {
            n = dsm__sock_recv(tls->fd, tls->rx, sizeof(tls->rx), NULL);
        }
        if (n < 0) {
            tls->rx_error = n;
            gnutls_transport_set_errno(tls->session, -n);
            return -1;
        }
        if (n == 0) {
            return 0;
        }
        tls->rx_total += n;
        tls->rx_start = 0;
        tls->rx_end = have = n;
    }
    if (bytes > have) {
        bytes = have;
    }
    memcpy(buf, tls->rx + tls->rx_start, bytes);
    tls->rx_start += bytes;
    return bytes;
}

/* Is a whole record here? GnuTLS has no part of one: its header says all. */
static bool tls_has_record(const struct tls *tls)
{
    const uint8_t *at = tls->rx + tls->rx_start;
    size_t have = tls->rx_end - tls->rx_start;

    return have >= TLS_HEADER_BYTES &&
           have >= TLS_HEADER_BYTES + ((size_t)at[3] << 8 | at[4]);
}

static int tls_listen(void *ctx, const char *where, struct dsm__listener *ret)
{
    int err = dsm__tcp_listen(ctx, where, ret);

    if (err == 0) {
        ret->transport = &dsm__transport_tls;
        ret->ctx = ctx;
    }
    return err;
}

static int tls_begin(void *ctx, struct dsm__conn *conn, bool outgoing,
                     const char *who)
{
    struct dsm_key *key = ctx;
    struct tls *tls = malloc(sizeof(*tls));
    int ret;

    if (!tls) {
        return -ENOMEM;
    }
    memset(tls, 0, offsetof(struct tls, rx));
    tls->fd = conn->fd;
    tls->outgoing = outgoing;
    snprintf(tls->who, sizeof(tls->who), "%s", who);
    ret = gnutls_init(&tls->session,
                      (outgoing ? GNUTLS_CLIENT : GNUTLS_SERVER) |
                          GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL |
                          GNUTLS_NO_TICKETS);
    if (ret < 0) {
        free(tls);
        return -ENOMEM;
    }
    gnutls_session_set_ptr(tls->session, key);
    gnutls_handshake_set_timeout(tls->session, 0); /* the link has one */
    gnutls_transport_set_ptr2(tls->session, tls, (void *)(intptr_t)conn->fd);
    gnutls_transport_set_pull_function(tls->session, tls_pull);
    ret = gnutls_priority_set(tls->session, key->priority);
    if (ret >= 0) {
        ret = gnutls_credentials_set(tls->session, GNUTLS_CRD_PSK,
                                     outgoing ? (void *)key->client
                                              : (void *)key->server);
    }
    if (ret < 0) {
        gnutls_deinit(tls->session);
        free(tls);
        return -ENOMEM;
    }
    conn->session = tls;
    conn->unsent = false;
    return 0;
}

/* What went wrong in the handshake, so that people know what to change. */
static void tls_explain(struct tls *tls, int err)
{
    gnutls_alert_description_t alert;
    const char *what;

    switch (err) {
    case GNUTLS_E_FATAL_ALERT_RECEIVED:
    case GNUTLS_E_WARNING_ALERT_RECEIVED:
        alert = gnutls_alert_get(tls->session);
        what = gnutls_alert_get_name(alert);
        switch (alert) {
        case GNUTLS_A_ILLEGAL_PARAMETER:
        case GNUTLS_A_DECRYPT_ERROR:
        case GNUTLS_A_BAD_RECORD_MAC:
        case GNUTLS_A_HANDSHAKE_FAILURE:
        case GNUTLS_A_UNKNOWN_PSK_IDENTITY:
            snprintf(tls->why, sizeof(tls->why),
                     "TLS: %s has another key (it says: %.40s)", tls->who,
                     what ? what : "an alert");
            return;
        default:
            snprintf(tls->why, sizeof(tls->why),
                     "TLS: %s ended the handshake (it says: %.40s)", tls->who,
                     what ? what : "an alert");
            return;
        }
    case GNUTLS_E_RECEIVED_ILLEGAL_PARAMETER:
    case GNUTLS_E_DECRYPTION_FAILED:
    case GNUTLS_E_INSUFFICIENT_CREDENTIALS:
    case GNUTLS_E_NO_CIPHER_SUITES:
        snprintf(tls->why, sizeof(tls->why), "TLS: %s has another key",
                 tls->who);
        return;
    case GNUTLS_E_PREMATURE_TERMINATION:
    case GNUTLS_E_PULL_ERROR:
    case GNUTLS_E_PUSH_ERROR:
        snprintf(tls->why, sizeof(tls->why),
                 "TLS: %s closed the connection during the handshake",
                 tls->who);
        return;
    case GNUTLS_E_UNEXPECTED_PACKET:
    case GNUTLS_E_UNEXPECTED_PACKET_LENGTH:
    case GNUTLS_E_UNSUPPORTED_VERSION_PACKET:
    case GNUTLS_E_RECORD_OVERFLOW:
        snprintf(tls->why, sizeof(tls->why),
                 "TLS: %s does not speak it; has it no key?", tls->who);
        return;
    default:
        snprintf(tls->why, sizeof(tls->why), "TLS: %s: %.70s", tls->who,
                 gnutls_strerror(err));
        return;
    }
}

static int tls_secure(struct dsm__conn *conn, bool *ret_out,
                      const char **ret_why)
{
    struct tls *tls = conn->session;
    int ret;

    do {
        ret = gnutls_handshake(tls->session);
    } while (ret == GNUTLS_E_INTERRUPTED);
    if (ret == GNUTLS_E_AGAIN) {
        *ret_out = gnutls_record_get_direction(tls->session) == 1;
        return -EAGAIN;
    }
    if (ret == GNUTLS_E_SUCCESS) {
        tls->record_bytes = gnutls_record_get_max_size(tls->session);
        if (tls->record_bytes > TLS_RECORD_BYTES) {
            tls->record_bytes = TLS_RECORD_BYTES;
        }
        tls->secured = true;
        return 0;
    }
    if (tls->rx_total == 0 && !tls->outgoing) {
        return -ENOLINK;
    }
    tls_explain(tls, ret);
    *ret_why = tls->why;
    /* As far as the socket takes it at once. */
    gnutls_alert_send_appropriate(tls->session, ret);
    return -EPROTO;
}

static void tls_end(struct dsm__conn *conn)
{
    struct tls *tls = conn->session;

    if (tls->secured && !conn->unsent) {
        gnutls_bye(tls->session, GNUTLS_SHUT_WR);
    }
    gnutls_deinit(tls->session);
    free(tls);
}

static int tls_flush(struct dsm__conn *conn)
{
    struct tls *tls = conn->session;
    ssize_t n;

    do {
        n = gnutls_record_send(tls->session, NULL, 0);
    } while (n == GNUTLS_E_INTERRUPTED);
    if (n == GNUTLS_E_AGAIN) {
        return -EAGAIN;
    }
    conn->unsent = false;
    return n < 0 ? -EPIPE : 0;
}

/*
 * The next bytes of @iov behind the first @skip, at most a record: where they
 * are if they are in one piece, else copied together.
 */
static size_t tls_gather(struct tls *tls, const struct iovec *iov, int iovcnt,
                         size_t skip, const void **ret_at)
{
    size_t bytes = 0;

    for (int i = 0; i < iovcnt && bytes < tls->record_bytes; i++) {
        const uint8_t *at = iov[i].iov_base;
        size_t n = iov[i].iov_len;

        if (skip >= n) {
            skip -= n;
            continue;
        }
        at += skip;
        n -= skip;
        skip = 0;
        if (bytes == 0 && (n >= tls->record_bytes || i == iovcnt - 1)) {
            *ret_at = at;
            return n < tls->record_bytes ? n : tls->record_bytes;
        }
        if (n > tls->record_bytes - bytes) {
            n = tls->record_bytes - bytes;
        }
        memcpy(tls->tx + bytes, at, n);
        bytes += n;
    }
    *ret_at = tls->tx;
    return bytes;
}

static ssize_t tls_send(struct dsm__conn *conn, const struct iovec *iov,
                        int iovcnt, int pass_fd)
{
    struct tls *tls = conn->session;
    size_t taken = 0, bytes;
    const void *at;
    ssize_t n;
    int ret = dsm__conn_flush(conn);

    if (ret < 0) {
        return ret;
    }
    while ((bytes = tls_gather(tls, iov, iovcnt, taken, &at)) > 0) {
        n = gnutls_record_send(tls->session, at, bytes);
        if (n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED) {
            conn->unsent = true; /* all of it, encrypted */
            return taken + bytes;
        }
        if (n < 0) {
            return taken ? (ssize_t)taken : -EPIPE;
        }
        taken += n;
    }
    return taken;
}

static ssize_t tls_recv(struct dsm__conn *conn, void *buf, size_t buf_bytes,
                        struct dsm__fds *ret_fds)
{
    struct tls *tls = conn->session;
    ssize_t n;

    if (ret_fds) {
        ret_fds->nr = 0;
        ret_fds->truncated = false;
    }
    /* A record may bring no data for us, and another be behind it. */
    do {
        n = gnutls_record_recv(tls->session, buf, buf_bytes);
    } while (n == GNUTLS_E_INTERRUPTED ||
             (n == GNUTLS_E_AGAIN && tls_has_record(tls)));
    if (n >= 0) {
        return n;
    }
    switch (n) {
    case GNUTLS_E_AGAIN:
        return -EAGAIN;
    case GNUTLS_E_PREMATURE_TERMINATION:
        return 0; /* who means to leave says so in the protocol */
    case GNUTLS_E_PULL_ERROR:
        return tls->rx_error;
    default:
        return -EBADMSG;
    }
}

static bool tls_pending(const struct dsm__conn *conn)
{
    const struct tls *tls = conn->session;

    return gnutls_record_check_pending(tls->session) > 0 ||
           tls_has_record(tls);
}

const struct dsm__transport dsm__transport_tls = {
    .scheme = "tcp",
    .passes_fds = false,
    .check = dsm__tcp_check,
    .listen = tls_listen,
    .accept = dsm__tcp_accept,
    .unlisten = dsm__tcp_unlisten,
    .connect = dsm__tcp_connect,
    .connect_result = dsm__sock_connect_result,
    .authorise = dsm__tcp_authorise,
    .begin = tls_begin,
    .secure = tls_secure,
    .end = tls_end,
    .send = tls_send,
    .flush = tls_flush,
    .recv = tls_recv,
    .pending = tls_pending,
};
