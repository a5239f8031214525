/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A page channel: frames in, frames out.
 *
 * Unlike a link (link.c) it has a queue. It needs no credits for that: what a
 * node can be made to say is bounded by the requests that each node may have
 * under way, and the queue has room for all of it. Data is not copied into
 * it but sent from where the page lies.
 *
 * The queue is there before the connection, for threads may use memory before
 * its home is connected.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include "pages.h"

/*
 * Room for many single pages at a time, which are copied from here. Runs are
 * received where they belong; while they come, only as much is taken with a
 * header that a page that somebody waits for takes one system call.
 */
#define PLINK_RX_BYTES 65536
#define PLINK_RX_RUN_BYTES 8192
#define PLINK_IOV 64
#define PLINK_SKIP_BYTES 65536

int dsm__plink_init(struct dsm__plink *link, struct dsm__pages *pages,
                    uint16_t peer)
{
    uint16_t nr_nodes = pages->nr_nodes;
    void *at;

    link->pages = pages;
    link->peer = peer;
    link->conn.fd = -1;
    /*
     * To one peer there are at a time: for each request at this home one FWD,
     * INV or answer; for each request of the peer, at any home, its data from
     * here; for each request of this node a READ or WRITE and a DONE; as many
     * ACKs as the peer's INVs; and what is asked for ahead.
     */
    link->tx_room = 4 * (nr_nodes + 1) * DSM__PAGES_REQUESTS +
                    4 * DSM__PAGES_AHEAD + 5 * nr_nodes;
    /* Not touched, so not there, before it is used. */
    at = mmap(NULL, link->tx_room * sizeof(*link->tx), PROT_READ | PROT_WRITE,
              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    link->tx = at == MAP_FAILED ? NULL : at;
    return link->tx ? 0 : -ENOMEM;
}

int dsm__plink_open(struct dsm__plink *link, const uint8_t *first,
                    size_t first_bytes)
{
    struct epoll_event ev = { .events = EPOLLIN, .data.ptr = link };

    link->rx_buf =
        malloc(first_bytes > PLINK_RX_BYTES ? first_bytes : PLINK_RX_BYTES);
    link->ahead = malloc(DSM__PAGES_AHEAD * sizeof(*link->ahead));
    if (!link->rx_buf || !link->ahead) {
        dsm__plink_close(link);
        return -ENOMEM;
    }
    if (epoll_ctl(link->pages->epoll_fd, EPOLL_CTL_ADD, link->conn.fd, &ev) < 0) {
        int err = -errno;

        dsm__plink_close(link);
        return err;
    }
    if (first_bytes) {
        memcpy(link->rx_buf, first, first_bytes);
    }
    link->rx_end = first_bytes;
    link->up = true;
    return 0;
}

void dsm__plink_close(struct dsm__plink *link)
{
    link->up = false;
    if (link->tx) {
        munmap(link->tx, link->tx_room * sizeof(*link->tx));
        link->tx = NULL;
    }
    free(link->rx_buf);
    free(link->ahead);
    link->rx_buf = NULL;
    link->ahead = NULL;
    dsm__conn_close(&link->conn);
}

/* Sending */

static void plink_watch(struct dsm__plink *link, bool out)
{
    struct epoll_event ev = {
        .events = EPOLLIN | (out ? EPOLLOUT : 0),
        .data.ptr = link,
    };

    if (link->tx_blocked != out) {
        link->tx_blocked = out;
        epoll_ctl(link->pages->epoll_fd, EPOLL_CTL_MOD, link->conn.fd, &ev);
    }
}

void dsm__plink_send(struct dsm__plink *link, struct dsm__page_frame *f,
                     const uint8_t *data)
{
    struct dsm__tx *tx;

    if (!link->tx || link->tx_dead) {
        return;
    }
    if (link->tx_nr == link->tx_room) {
        link->pages->violation[link->peer] = "it does not take what it asked for";
        link->pages->violators |= UINT64_C(1) << link->peer;
        return;
    }
    f->seq = link->tx_seq++;
    tx = &link->tx[(link->tx_first + link->tx_nr++) % link->tx_room];
    dsm__page_encode(tx->header, f);
    tx->data = data;
    tx->data_bytes = data ? f->count * link->pages->page_bytes : 0;
    link->tx_bytes += sizeof(tx->header) + tx->data_bytes;
    link->frames_out++;
}

/* Take what the transport took off the queue. */
static void plink_sent(struct dsm__plink *link, size_t bytes)
{
    link->tx_bytes -= bytes;
    link->bytes_out += bytes;
    bytes += link->tx_sent;
    while (link->tx_nr > 0) {
        struct dsm__tx *tx = &link->tx[link->tx_first];
        size_t all = sizeof(tx->header) + tx->data_bytes;

        if (bytes < all) {
            break;
        }
        bytes -= all;
        link->tx_first = (link->tx_first + 1) % link->tx_room;
        link->tx_nr--;
    }
    link->tx_sent = bytes;
    if (link->tx_nr == 0) {
        link->tx_first = 0; /* what is in the cache serves again */
    }
}

static int plink_iov(struct dsm__plink *link, struct iovec iov[PLINK_IOV],
                     size_t *ret_bytes)
{
    size_t skip = link->tx_sent;
    int nr = 0;

    *ret_bytes = 0;
    for (uint32_t i = 0; i < link->tx_nr && nr + 2 <= PLINK_IOV; i++) {
        struct dsm__tx *tx = &link->tx[(link->tx_first + i) % link->tx_room];

        if (skip < sizeof(tx->header)) {
            iov[nr].iov_base = tx->header + skip;
            iov[nr].iov_len = sizeof(tx->header) - skip;
            *ret_bytes += iov[nr++].iov_len;
            skip = 0;
        } else {
            skip -= sizeof(tx->header);
        }
        if (tx->data_bytes) {
            iov[nr].iov_base = (void *)(tx->data + skip);
            iov[nr].iov_len = tx->data_bytes - skip;
            *ret_bytes += iov[nr++].iov_len;
            skip = 0;
        }
    }
    return nr;
}

void dsm__plink_flush(struct dsm__plink *link)
{
    struct iovec iov[PLINK_IOV];
    size_t bytes;
    ssize_t n;
    int nr;

    if (link->tx_full) {
        return;
    }
    while (link->up && !link->tx_dead &&
           (link->tx_nr > 0 || link->conn.unsent)) {
        n = dsm__conn_flush(&link->conn);
        bytes = 0;
        if (n == 0 && link->tx_nr > 0) {
            nr = plink_iov(link, iov, &bytes);
            n = link->conn.transport->send(&link->conn, iov, nr, -1);
        }
        if (n == -EAGAIN || n == -ENOBUFS || n == -ENOMEM) {
            link->tx_full = true;
            plink_watch(link, true);
            return;
        }
        if (n < 0) {
            /* What it sent before it went is still to be read. */
            link->tx_dead = true;
            link->tx_nr = 0;
            link->tx_bytes = 0;
            break;
        }
        plink_sent(link, n);
        if ((size_t)n < bytes || link->conn.unsent) {
            link->tx_full = true;
            plink_watch(link, true);
            return;
        }
    }
    if (link->up) {
        plink_watch(link, false);
    }
}

/* Receiving */

/* Return: false: the link is lost. */
static bool plink_frame_done(struct dsm__plink *link)
{
    const char *why = "";

    if (dsm__pages_frame(link, &link->body, &why) < 0) {
        dsm__pages_lose_link(link, true, "%s: %s",
                             dsm__page_frame_name(link->body.type), why);
        return false;
    }
    return link->up;
}

static bool plink_header(struct dsm__plink *link, const uint8_t *header)
{
    const char *why = "";

    if (dsm__page_decode(header, &link->body, &why) < 0) {
        dsm__pages_lose_link(link, true, "%s", why);
        return false;
    }
    if (link->body.seq != link->rx_seq) {
        dsm__pages_lose_link(link, true, "page frame %u in place of frame %u",
                             link->body.seq, link->rx_seq);
        return false;
    }
    link->rx_seq++;
    link->frames_in++;
    if (!dsm__coh_has_data(link->body.type)) {
        return plink_frame_done(link);
    }
    if (dsm__pages_place(link, &link->body, &link->body_at, &why) < 0) {
        dsm__pages_lose_link(link, true, "%s: %s",
                             dsm__page_frame_name(link->body.type), why);
        return false;
    }
    link->body_left = (size_t)link->body.count * link->pages->page_bytes;
    return true;
}

static bool plink_body(struct dsm__plink *link, size_t bytes)
{
    if (link->body_at) {
        link->body_at += bytes;
    }
    link->body_left -= bytes;
    return link->body_left > 0 || plink_frame_done(link);
}

static void plink_parse(struct dsm__plink *link)
{
    while (link->rx_start < link->rx_end) {
        uint8_t *at = link->rx_buf + link->rx_start;
        size_t have = link->rx_end - link->rx_start;

        if (link->body_left > 0) {
            size_t n = have < link->body_left ? have : link->body_left;

            if (link->body_at) {
                memcpy(link->body_at, at, n);
            }
            link->rx_start += n;
            if (!plink_body(link, n)) {
                return;
            }
        } else if (have >= DSM__PAGE_HEADER_BYTES) {
            link->rx_start += DSM__PAGE_HEADER_BYTES;
            if (!plink_header(link, at)) {
                return;
            }
        } else {
            memmove(link->rx_buf, at, have);
            link->rx_start = 0;
            link->rx_end = have;
            return;
        }
    }
    link->rx_start = link->rx_end = 0;
}

static void plink_receive_some(struct dsm__plink *link)
{
    static __thread uint8_t nowhere[PLINK_SKIP_BYTES];
    bool direct = link->body_left > 0 && link->rx_end == 0;
    uint8_t *at = link->rx_buf + link->rx_end;
    size_t room = (link->body.count > 1 ? PLINK_RX_RUN_BYTES : PLINK_RX_BYTES) -
                  link->rx_end;
    ssize_t n;

    if (direct) {
        at = link->body_at ? link->body_at : nowhere;
        room = link->body_left;
        if (!link->body_at && room > sizeof(nowhere)) {
            room = sizeof(nowhere);
        }
    }
    n = link->conn.transport->recv(&link->conn, at, room, NULL);
    if (n == -EAGAIN) {
        return;
    }
    if (n <= 0) {
        dsm__pages_lose_link(
            link, false, "page channel lost%s%s%s",
            link->rx_end > 0 || link->body_left > 0 ? " inside a frame" : "",
            n < 0 && n != -ECONNRESET ? ": " : "",
            n < 0 && n != -ECONNRESET ? strerror(-n) : "");
        return;
    }
    link->last_rx_ns = link->pages->now_ns;
    link->ping_sent = false;
    link->bytes_in += n;
    if (direct) {
        plink_body(link, n);
    } else {
        link->rx_end += n;
        plink_parse(link);
    }
}

void dsm__plink_receive(struct dsm__plink *link)
{
    do {
        plink_receive_some(link);
    } while (link->up && dsm__conn_pending(&link->conn));
}

void dsm__plink_begin(struct dsm__plink *link)
{
    plink_parse(link);
    if (link->up && dsm__conn_pending(&link->conn)) {
        dsm__plink_receive(link);
    }
}
