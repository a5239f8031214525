/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One link: handshake, frames, credits, doorbells, life and death.
 *
 * Sending never queues. A frame goes to the socket from where the caller has
 * it; only the tail of a frame that the socket cut is copied (tx_rest), and
 * until that has gone every dsm_send() gets -EAGAIN. What a link itself has
 * to say is state, not frames: bits that were rung, credits that are owed, a
 * PING or PONG that is due. It is turned into frames when there is room, so a
 * link needs no memory for it and nothing is said twice.
 *
 * When a blocked socket has room again, the tail goes first, then the link's
 * own small frames, then writable() in the order of tx_order[]: what must not
 * wait comes first, and a BULK sender gets what is left. So an ACK waits for
 * bytes that the socket already took, never for a BULK message behind it.
 *
 * Credits, for each (link, class) with a window of W that the receiver chose:
 *
 *   tx_credit + frames in flight + kept + rx_owed + credits in flight == W
 *
 * Owed credits ride on any frame that is sent. When half of the window is
 * owed and nothing was sent, a CREDIT frame is. A sender without credit means
 * that all W are in flight, kept or owed; once taken by message() they are
 * owed, and W >= max(1, W / 2), so the CREDIT is sent: nobody waits forever.
 * Doorbell frames have a window of their own in the same way; the bits that
 * do not fit are kept in tx_bits and OR together.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "internal.h"
#include "region.h"

/* Room for several frames: one recv() under load brings many. */
#define LINK_RX_BYTES (64 * 1024)
/*
 * DOORBELL frames under way at a time. More would only fill the socket with
 * what coalesces as well here; one would make every second ring wait for a
 * round trip.
 */
#define LINK_DOORBELL_WINDOW 8
/* iovec entries taken as they are; a longer list is copied together first. */
#define LINK_IOV_MAX 16
/* Handshakes under way at a time, beyond one for each node. */
#define LINK_SPARE_HANDSHAKES 16u

_Static_assert(LINK_RX_BYTES >= 2 * DSM__WIRE_FRAME_MAX_BYTES,
               "a whole frame must always fit behind a cut one");

static const enum dsm_class tx_order[DSM_NR_CLASSES] = {
    DSM_CLASS_ACK, DSM_CLASS_REPLY, DSM_CLASS_REQUEST, DSM_CLASS_BULK,
};

static struct dsm__peer *link_peer(struct dsm__link *link)
{
    return &link->node->peers[link->peer];
}

static struct dsm__counters *link_counters(struct dsm__link *link)
{
    return &link_peer(link)->counters;
}

/*
 * The link is at its end; the first reason counts. What the process hears is
 * "WHAT" or "WHO: WHAT", depending on whether it knows the peer.
 */
static __attribute__((format(printf, 4, 5))) void
link_set_end(struct dsm__link *link, enum dsm__end end, uint32_t notice,
             const char *format, ...)
{
    va_list ap;

    if (link->end != DSM__END_NONE) {
        return;
    }
    link->end = end;
    link->end_notice = notice;
    va_start(ap, format);
    vsnprintf(link->end_reason, sizeof(link->end_reason), format, ap);
    va_end(ap);
}

/* Close what the peer passed and nobody took. */
static void link_close_fds(struct dsm__link *link)
{
    while (link->rx_fds.nr > 0) {
        close(link->rx_fds.fd[--link->rx_fds.nr]);
    }
}

static void link_watch(struct dsm__link *link, int op, uint32_t events)
{
    struct epoll_event ev = { .events = events, .data.ptr = link };

    /* MOD of a registered fd does not fail; the result of ADD is seen. */
    if (epoll_ctl(link->node->epoll_fd, op, link->conn.fd, &ev) < 0) {
        link_set_end(link, DSM__END_LOST, 0, "cannot watch the connection: %s",
                     strerror(errno));
    }
}

/*
 * The socket takes nothing any more, so the peer has closed it. What it sent
 * before that is still to be read; the dispatch that the kick brings about
 * does so and ends the link.
 */
static void link_set_tx_dead(struct dsm__link *link)
{
    link->tx_dead = true;
    dsm__node_kick(link->node);
}

static void link_block(struct dsm__link *link)
{
    if (!link->tx_blocked) {
        link->tx_blocked = true;
        link_watch(link, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
    }
}

/* Sending */

/*
 * Hand bytes to an unblocked socket. Those of them that it does not take
 * become the tail, so that the frame is sent whole or not at all.
 * Return: 0; -EAGAIN, -EHOSTDOWN nothing was sent.
 */
static int link_put(struct dsm__link *link, const struct iovec *iov,
                    int iovcnt, size_t bytes)
{
    ssize_t n;

    assert(!link->tx_blocked);
    if (link->tx_dead) {
        return -EHOSTDOWN;
    }
    n = link->conn.transport->send(&link->conn, iov, iovcnt, -1);
    if (n == -EAGAIN || n == -ENOBUFS || n == -ENOMEM) {
        link_block(link);
        return -EAGAIN;
    }
    if (n < 0) {
        link_set_tx_dead(link);
        return -EHOSTDOWN;
    }
    if (link->phase == DSM__PHASE_UP) {
        dsm__count(link_counters(link)->bytes_sent, bytes);
    }
    if ((size_t)n == bytes) {
        if (link->conn.unsent) {
            link_block(link);
        }
        return 0;
    }
    link->tx_rest_start = 0;
    link->tx_rest_end = 0;
    for (int i = 0; i < iovcnt; i++) {
        size_t skip = (size_t)n < iov[i].iov_len ? (size_t)n : iov[i].iov_len;
        size_t left = iov[i].iov_len - skip;

        n -= skip;
        if (left) {
            assert(link->tx_rest_end + left <= sizeof(link->tx_rest));
            memcpy(link->tx_rest + link->tx_rest_end,
                   (const uint8_t *)iov[i].iov_base + skip, left);
            link->tx_rest_end += left;
        }
    }
    link_block(link);
    return 0;
}

/* Send what the transport holds back and the tail. Return: all is gone. */
static bool link_put_rest(struct dsm__link *link)
{
    ssize_t n = dsm__conn_flush(&link->conn);

    while (n >= 0 && link->tx_rest_start < link->tx_rest_end) {
        struct iovec iov = {
            .iov_base = link->tx_rest + link->tx_rest_start,
            .iov_len = link->tx_rest_end - link->tx_rest_start,
        };

        n = link->conn.transport->send(&link->conn, &iov, 1, -1);
        if (n >= 0) {
            link->tx_rest_start += n;
            n = dsm__conn_flush(&link->conn);
        }
    }
    if (n < 0 && n != -EAGAIN && n != -ENOBUFS && n != -ENOMEM) {
        link_set_tx_dead(link);
    }
    return n >= 0;
}

/* A header that also returns all credits owed; link_sent() makes it so. */
static struct dsm__frame link_frame(const struct dsm__link *link,
                                    enum dsm__frame_type type)
{
    struct dsm__frame f = {
        .type = type,
        .version = DSM__WIRE_VERSION_HANDSHAKE,
        .seq = link->tx_seq,
    };

    if (link->phase == DSM__PHASE_UP) {
        f.version = link->version;
        memcpy(f.credit, link->rx_owed, sizeof(f.credit));
        f.doorbell_credit = link->rx_doorbell_owed;
    }
    return f;
}

static void link_sent(struct dsm__link *link)
{
    link->tx_seq++;
    if (link->phase != DSM__PHASE_UP) {
        return;
    }
    for (int i = 0; i < DSM_NR_CLASSES; i++) {
        link->rx_room[i] += link->rx_owed[i];
        link->rx_owed[i] = 0;
    }
    link->rx_doorbell_room += link->rx_doorbell_owed;
    link->rx_doorbell_owed = 0;
}

static int link_put_frame(struct dsm__link *link, const struct dsm__frame *f)
{
    uint8_t buf[DSM__WIRE_SMALL_MAX_BYTES];
    struct iovec iov = { .iov_base = buf };
    int ret;

    iov.iov_len = dsm__wire_encode(buf, f);
    ret = link_put(link, &iov, 1, iov.iov_len);
    if (ret == 0) {
        link_sent(link);
    }
    return ret;
}

int dsm__link_send(struct dsm__link *link, enum dsm_class cls,
                   const struct iovec *iov, int iovcnt, size_t bytes)
{
    struct dsm__counters *counters = link_counters(link);
    uint8_t header[DSM__WIRE_HEADER_BYTES];
    uint8_t linear[DSM_MAX_MESSAGE_BYTES];
    struct iovec all[1 + LINK_IOV_MAX];
    struct dsm__frame f;
    int ret = -EAGAIN;

    if (link->tx_dead) {
        return -EHOSTDOWN;
    }
    if (!link->tx_blocked && link->tx_credit[cls] > 0) {
        f = link_frame(link, DSM__FRAME_MESSAGE);
        f.cls = cls;
        dsm__wire_encode_header(header, &f, bytes);
        all[0].iov_base = header;
        all[0].iov_len = sizeof(header);
        if (iovcnt <= LINK_IOV_MAX) {
            for (int i = 0; i < iovcnt; i++) {
                all[1 + i] = iov[i];
            }
        } else {
            size_t done = 0;

            for (int i = 0; i < iovcnt; i++) {
                if (iov[i].iov_len) {
                    memcpy(linear + done, iov[i].iov_base, iov[i].iov_len);
                    done += iov[i].iov_len;
                }
            }
            all[1].iov_base = linear;
            all[1].iov_len = done;
            iovcnt = 1;
        }
        ret = link_put(link, all, 1 + iovcnt, sizeof(header) + bytes);
    }
    if (ret == 0) {
        link_sent(link);
        link->tx_credit[cls]--;
        dsm__gauge(counters->credits_left[cls], link->tx_credit[cls]);
        dsm__count(counters->messages_sent[cls], 1);
    } else if (ret == -EAGAIN) {
        link->tx_wanted[cls] = true;
        dsm__count(counters->sends_refused[cls], 1);
    }
    return ret;
}

static void link_put_bits(struct dsm__link *link)
{
    struct dsm__frame f = link_frame(link, DSM__FRAME_DOORBELL);

    f.bits = link->tx_bits;
    if (link_put_frame(link, &f) == 0) {
        link->tx_bits = 0;
        link->tx_doorbell_credit--;
        dsm__count(link_counters(link)->doorbell_frames_sent, 1);
    }
}

void dsm__link_ring(struct dsm__link *link, uint64_t bits)
{
    link->tx_bits |= bits;
    dsm__count(link_counters(link)->doorbells_sent, 1);
    if (!link->tx_blocked && link->tx_doorbell_credit > 0) {
        link_put_bits(link);
    }
}

static bool link_owes_half(const struct dsm__link *link)
{
    for (int i = 0; i < DSM_NR_CLASSES; i++) {
        uint32_t window = link->node->config.credits[i];

        if (link->rx_owed[i] > 0 && link->rx_owed[i] >= window / 2) {
            return true;
        }
    }
    return link->rx_doorbell_owed >= LINK_DOORBELL_WINDOW / 2;
}

/* Turn what the link itself has to say into frames, as far as they fit. */
static void link_put_own(struct dsm__link *link)
{
    struct dsm__frame f;

    if (!link->tx_blocked && link->tx_bits && link->tx_doorbell_credit > 0) {
        link_put_bits(link);
    }
    if (!link->tx_blocked && link->pong_due) {
        f = link_frame(link, DSM__FRAME_PONG);
        f.token = link->pong_token;
        link->pong_due = link_put_frame(link, &f) != 0;
    }
    if (!link->tx_blocked && link->ping_due) {
        f = link_frame(link, DSM__FRAME_PING);
        f.token = link->ping_token = dsm__now_ns();
        if (link_put_frame(link, &f) == 0) {
            link->ping_due = false;
            link->ping_sent = true;
        }
    }
    /* Last: any frame above has returned the credits already. */
    if (!link->tx_blocked && link_owes_half(link)) {
        f = link_frame(link, DSM__FRAME_CREDIT);
        link_put_frame(link, &f);
    }
}

static void link_tell_writable(struct dsm__link *link)
{
    struct dsm_node *node = link->node;

    for (int i = 0; i < DSM_NR_CLASSES; i++) {
        enum dsm_class cls = tx_order[i];

        if (link->tx_wanted[cls] && link->tx_credit[cls] > 0 &&
            !link->tx_blocked && !link->tx_dead) {
            link->tx_wanted[cls] = false;
            node->ops.writable(node->opaque, link->peer, cls);
        }
    }
}

/* Tell the peer why; if the socket does not take it, then not. */
static void link_put_notice(struct dsm__link *link, enum dsm__frame_type type)
{
    struct dsm__frame f = link_frame(link, type);

    if (link->phase == DSM__PHASE_CONNECTING ||
        link->phase == DSM__PHASE_SECURING || !link_put_rest(link)) {
        return;
    }
    link->tx_blocked = false;
    f.notice.code = link->end_notice;
    f.notice.text = link->end_reason;
    f.notice.text_bytes = strlen(link->end_reason);
    link_put_frame(link, &f);
}

static void link_free(struct dsm__link *link)
{
    if (link->link_to_this) {
        *link->link_to_this = link->next;
        if (link->next) {
            link->next->link_to_this = link->link_to_this;
        }
        link->node->nr_handshakes--;
    }
    link_close_fds(link);
    if (link->region_fd >= 0) {
        close(link->region_fd);
    }
    if (link->kept_map) {
        munmap(link->kept_map, link->kept_map_bytes);
    }
    /* Closing also removes it from the epoll set: nobody else has this fd. */
    dsm__conn_close(&link->conn);
    free(link->rx_buf);
    free(link);
}

static bool notice_is_final(uint32_t notice)
{
    return notice != DSM__NOTICE_PROTOCOL && notice != DSM__NOTICE_BUSY &&
           notice != DSM__NOTICE_TIMEOUT;
}

/* The page engine takes the connection, with what came on it already. */
static void link_hand_over(struct dsm__link *link)
{
    struct dsm_node *node = link->node;
    int peer = link->peer, ret;
    bool outgoing = link->outgoing;
    char reason[DSM_REASON_BYTES];

    epoll_ctl(node->epoll_fd, EPOLL_CTL_DEL, link->conn.fd, NULL);
    node->peers[peer].paged = true;
    ret = dsm__pages_connect(node->pages, peer, &link->conn,
                             link->rx_buf + link->rx_start,
                             link->rx_end - link->rx_start);
    link->conn.fd = -1;
    link->conn.session = NULL;
    link_free(link);
    if (ret < 0) {
        snprintf(reason, sizeof(reason), "page channel: %s", strerror(-ret));
        dsm__peer_set_down(node, peer, reason);
    } else if (outgoing) {
        dsm__peer_connect_next(node, peer);
    }
}

/* Act on link->end and free the link. Only at the level of an event. */
static void link_finish(struct dsm__link *link)
{
    struct dsm_node *node = link->node;
    enum dsm__phase phase = link->phase;
    enum dsm__end end = link->end;
    bool final = (end == DSM__END_REFUSE || end == DSM__END_REFUSED) &&
                 notice_is_final(link->end_notice);
    bool outgoing = link->outgoing;
    int peer = link->peer;
    int connect_error;
    char reason[DSM_REASON_BYTES];

    if (end == DSM__END_HANDED) {
        link_hand_over(link);
        return;
    }
    if (end == DSM__END_REFUSE) {
        if (phase == DSM__PHASE_UP) {
            dsm__count(link_counters(link)->protocol_errors, 1);
        }
        link_put_notice(link, phase == DSM__PHASE_UP ? DSM__FRAME_ERROR
                                                     : DSM__FRAME_REJECT);
    }
    if (phase == DSM__PHASE_UP) {
        snprintf(reason, sizeof(reason), "%s", link->end_reason);
        link_free(link);
        dsm__peer_set_down(node, peer, reason);
        return;
    }
    if (outgoing &&
        dsm__peer_get_state(&node->peers[peer]) != DSM_PEER_ABSENT) {
        link_free(link); /* its page channel was lost, and that was told */
        return;
    }
    /*
     * Who comes to our door cannot change the state of a node by failing
     * there, or any process could take a place away. Where we connected to,
     * a refusal for good means that this peer will never be there.
     */
    if (!outgoing) {
        snprintf(reason, sizeof(reason), "connection from %.50s: %.90s",
                 link->who, link->end_reason);
    } else if (final) {
        snprintf(reason, sizeof(reason), "%s", link->end_reason);
    } else {
        snprintf(reason, sizeof(reason), "connecting to node %d: %.120s", peer,
                 link->end_reason);
    }
    connect_error = link->connect_error;
    link_free(link);
    if (outgoing && final) {
        dsm__peer_set_down(node, peer, reason);
        return;
    }
    if (outgoing) {
        dsm__peer_retry(node, peer, connect_error);
    }
    if (end != DSM__END_SILENT) {
        dsm__node_rejected(node, reason);
    }
}

/* Receiving: the handshake */

static uint32_t link_features(const struct dsm_node *node)
{
    return node->config.code ? DSM__FEATURE_CODE : 0;
}

/* Are regions passed on this connection? */
static bool link_passes_regions(const struct dsm__link *link)
{
    return dsm__node_passes_regions(link->node) &&
           link->channel == DSM__CHANNEL_LINK;
}

static struct dsm__frame link_hello(struct dsm__link *link,
                                    enum dsm__frame_type type)
{
    const struct dsm_node *node = link->node;
    const struct dsm_config *config = &node->config;
    const struct dsm_node_desc *self = &node->peers[config->self].desc;
    struct dsm__frame f = link_frame(link, type);

    f.hello = (struct dsm__hello) {
        .version_min = DSM__WIRE_VERSION_MIN,
        .version_max = DSM__WIRE_VERSION_MAX,
        .from = config->self,
        .to = link->peer,
        .nr_nodes = config->nr_nodes,
        .elf_machine = self->elf_machine,
        .features_offered = link_features(node),
        .features_required = link_features(node),
        .coherence = config->coherence,
        .page_bytes = node->page_bytes,
        .cpus = self->cpus,
        .ram_bytes = self->ram_bytes,
        .doorbell_window = LINK_DOORBELL_WINDOW,
        .channel = link->channel,
    };
    memcpy(f.hello.machine_uuid, config->machine_uuid, DSM_UUID_BYTES);
    snprintf(f.hello.name, sizeof(f.hello.name), "%s", self->name);
    for (int i = 0; i < DSM_NR_CLASSES; i++) {
        f.hello.window[i] = config->credits[i];
    }
    return f;
}

/*
 * A frame of the handshake. The socket is new, so it takes these few bytes
 * at once, or something is wrong with it.
 */
static void link_put_handshake(struct dsm__link *link,
                               const struct dsm__frame *f, int pass_fd)
{
    uint8_t buf[DSM__WIRE_SMALL_MAX_BYTES];
    struct iovec iov = { .iov_base = buf };
    ssize_t n;

    iov.iov_len = dsm__wire_encode(buf, f);
    n = link->conn.transport->send(&link->conn, &iov, 1, pass_fd);
    if (n == -EPIPE || n == -ECONNRESET) {
        link_set_tx_dead(link);
    } else if (n != (ssize_t)iov.iov_len) {
        link_set_end(link, DSM__END_LOST, 0, "cannot send %s: %s",
                     dsm__wire_frame_name(f->type),
                     n < 0 ? strerror(-n) : "no room in a new socket");
    } else {
        link_sent(link);
        if (link->conn.unsent) {
            link_block(link);
        }
    }
}

static void link_put_region(struct dsm__link *link)
{
    const struct dsm_node *node = link->node;
    uint16_t self = node->config.self;
    struct dsm__frame f = link_frame(link, DSM__FRAME_REGION);

    if (link_passes_regions(link)) {
        f.region.owner = self;
        f.region.bytes = node->peers[self].desc.ram_bytes;
        link_put_handshake(link, &f, node->peers[self].region_fd);
    }
}

static void link_put_ready(struct dsm__link *link)
{
    struct dsm__frame f = link_frame(link, DSM__FRAME_READY);

    link_put_handshake(link, &f, -1);
}

/* A place for the messages that message() may refuse; touched only then. */
static bool link_map_kept(struct dsm__link *link)
{
    const uint32_t *credits = link->node->config.credits;
    size_t slot_bytes = DSM_MAX_MESSAGE_BYTES + sizeof(uint16_t);
    uint8_t *at;

    for (int i = 0; i < DSM_NR_CLASSES; i++) {
        link->kept_map_bytes += credits[i] * slot_bytes;
    }
    at = mmap(NULL, link->kept_map_bytes, PROT_READ | PROT_WRITE,
              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) {
        return false;
    }
    link->kept_map = at;
    for (int i = 0; i < DSM_NR_CLASSES; i++) {
        link->kept[i].slots = at;
        at += (size_t)credits[i] * DSM_MAX_MESSAGE_BYTES;
    }
    for (int i = 0; i < DSM_NR_CLASSES; i++) {
        link->kept[i].bytes = (uint16_t *)at;
        at += credits[i] * sizeof(uint16_t);
    }
    return true;
}

static const char *coherence_name(uint32_t coherence)
{
    return coherence == DSM_COHERENCE_SHARED  ? "shared"
           : coherence == DSM_COHERENCE_PAGES ? "pages"
                                              : "unknown";
}

static bool link_refuse_version(struct dsm__link *link, unsigned int min,
                                unsigned int max)
{
    link_set_end(link, DSM__END_REFUSE, DSM__NOTICE_VERSION,
                 "protocol version %u to %u offered, node %u expects %u to %u",
                 min, max, link->node->config.self, DSM__WIRE_VERSION_MIN,
                 DSM__WIRE_VERSION_MAX);
    return false;
}

static __attribute__((format(printf, 3, 4))) bool
link_refuse(struct dsm__link *link, uint32_t notice, const char *format, ...)
{
    char reason[DSM_REASON_BYTES];
    va_list ap;

    va_start(ap, format);
    vsnprintf(reason, sizeof(reason), format, ap);
    va_end(ap);
    link_set_end(link, DSM__END_REFUSE, notice, "%s", reason);
    return false;
}

/* Is the other end the node that it should be? */
static bool link_check_hello(struct dsm__link *link,
                             const struct dsm__hello *hello)
{
    const struct dsm_node *node = link->node;
    const struct dsm_config *config = &node->config;
    const struct dsm_node_desc *desc;
    uint16_t self = config->self;
    uint32_t features = link_features(node);

    if (hello->version_min > DSM__WIRE_VERSION_MAX ||
        hello->version_max < DSM__WIRE_VERSION_MIN) {
        return link_refuse_version(link, hello->version_min,
                                   hello->version_max);
    }
    if (hello->features_required & ~features) {
        return link_refuse(link, DSM__NOTICE_VERSION,
                           "protocol features %#x required, node %u has %#x",
                           hello->features_required, self, features);
    }
    if (features & ~hello->features_offered) {
        return link_refuse(link, DSM__NOTICE_VERSION,
                           "protocol features %#x offered, node %u requires "
                           "%#x", hello->features_offered, self, features);
    }
    if (memcmp(hello->machine_uuid, config->machine_uuid,
               DSM_UUID_BYTES) != 0) {
        return link_refuse(link, DSM__NOTICE_MACHINE,
                           "a node of another machine (uuid differs)");
    }
    if (hello->nr_nodes != config->nr_nodes) {
        return link_refuse(link, DSM__NOTICE_CONFIG,
                           "a machine of %u nodes offered, node %u expects %u",
                           hello->nr_nodes, self, config->nr_nodes);
    }
    if (hello->to != self) {
        return link_refuse(link, DSM__NOTICE_CONFIG,
                           "looked for node %u at the address of node %u",
                           hello->to, self);
    }
    if (hello->from >= config->nr_nodes || hello->from == self ||
        (link->outgoing ? hello->from != link->peer : hello->from < self)) {
        return link_refuse(link, DSM__NOTICE_CONFIG,
                           "node index %u offered where none such can be",
                           hello->from);
    }
    if (hello->coherence != config->coherence) {
        return link_refuse(link, DSM__NOTICE_CONFIG,
                           "coherence %s offered, node %u expects %s",
                           coherence_name(hello->coherence), self,
                           coherence_name(config->coherence));
    }
    if (hello->page_bytes != node->page_bytes) {
        return link_refuse(link, DSM__NOTICE_CONFIG,
                           "pages of %u bytes offered, node %u expects %u",
                           hello->page_bytes, self, node->page_bytes);
    }
    if (link->outgoing ? hello->channel != link->channel
                       : hello->channel == DSM__CHANNEL_PAGES && !node->pages) {
        return link_refuse(link, DSM__NOTICE_CONFIG,
                           "channel %u offered where none such can be",
                           hello->channel);
    }
    desc = &node->peers[hello->from].desc;
    if (strcmp(hello->name, desc->name) != 0) {
        char name[DSM_NAME_BYTES];

        dsm__wire_text(name, sizeof(name), hello->name,
                       strlen(hello->name));
        return link_refuse(link, DSM__NOTICE_CONFIG,
                           "node %u: name %s offered, node %u expects %s",
                           hello->from, name, self, desc->name);
    }
    if (hello->elf_machine != desc->elf_machine) {
        return link_refuse(link, DSM__NOTICE_CONFIG,
                           "node %u: ISA %u offered, node %u expects %u",
                           hello->from, hello->elf_machine, self,
                           desc->elf_machine);
    }
    if (hello->cpus != desc->cpus) {
        return link_refuse(link, DSM__NOTICE_CONFIG,
                           "node %u: %u CPUs offered, node %u expects %u",
                           hello->from, hello->cpus, self, desc->cpus);
    }
    if (hello->ram_bytes != desc->ram_bytes) {
        return link_refuse(link, DSM__NOTICE_CONFIG,
                           "node %u: %" PRIu64
                           " bytes of RAM offered, node %u expects %" PRIu64,
                           hello->from, hello->ram_bytes, self,
                           desc->ram_bytes);
    }
    return true;
}

static bool link_check_absent(struct dsm__link *link, uint16_t peer)
{
    bool paged = link->node->peers[peer].paged;

    switch (dsm__peer_get_state(&link->node->peers[peer])) {
    case DSM_PEER_ABSENT:
        if (link->channel == DSM__CHANNEL_PAGES && paged) {
            return link_refuse(link, DSM__NOTICE_DUPLICATE,
                               "node %u has a page channel already", peer);
        }
        if (link->channel == DSM__CHANNEL_LINK && link->node->pages &&
            !paged) {
            return link_refuse(link, DSM__NOTICE_BUSY,
                               "node %u has no page channel yet", peer);
        }
        return true;
    case DSM_PEER_UP:
        return link_refuse(link, DSM__NOTICE_DUPLICATE,
                           "node %u is connected already", peer);
    case DSM_PEER_DOWN:
    case DSM_PEER_FENCED:
        break;
    }
    return link_refuse(link, DSM__NOTICE_GONE,
                       "node %u was lost and cannot come back", peer);
}

static void link_handle_hello(struct dsm__link *link,
                              const struct dsm__hello *hello)
{
    struct dsm__frame f;

    if (!link_check_hello(link, hello)) {
        return;
    }
    link->channel = hello->channel;
    if (!link_check_absent(link, hello->from)) {
        return;
    }
    link->peer = hello->from;
    link->version = hello->version_max < DSM__WIRE_VERSION_MAX
                        ? hello->version_max
                        : DSM__WIRE_VERSION_MAX;
    memcpy(link->tx_window, hello->window, sizeof(link->tx_window));
    memcpy(link->tx_credit, hello->window, sizeof(link->tx_credit));
    link->tx_doorbell_window = hello->doorbell_window;
    link->tx_doorbell_credit = hello->doorbell_window;
    for (int i = 0; i < DSM_NR_CLASSES; i++) {
        link->rx_room[i] = link->node->config.credits[i];
    }
    link->rx_doorbell_room = LINK_DOORBELL_WINDOW;
    if (!link_map_kept(link)) {
        link_refuse(link, DSM__NOTICE_BUSY, "out of memory");
        return;
    }
    link->phase =
        link_passes_regions(link) ? DSM__PHASE_REGION : DSM__PHASE_READY;
    if (!link->outgoing) {
        f = link_hello(link, DSM__FRAME_HELLO_ACK);
        link_put_handshake(link, &f, -1);
        link_put_region(link);
    } else if (link->phase == DSM__PHASE_READY) {
        link_put_ready(link);
    }
}

static void link_handle_region(struct dsm__link *link,
                               const struct dsm__frame *f)
{
    const char *why;

    if (link->rx_fds.nr != 1) {
        link_refuse(link, DSM__NOTICE_REGION,
                    "its region came with %d file descriptors, not 1",
                    link->rx_fds.nr);
        return;
    }
    if (f->region.owner != link->peer ||
        f->region.bytes != link_peer(link)->desc.ram_bytes) {
        link_refuse(link, DSM__NOTICE_REGION,
                    "its region is not that of its HELLO");
        return;
    }
    if (dsm__region_check(link->rx_fds.fd[0], f->region.bytes, &why) < 0) {
        link_refuse(link, DSM__NOTICE_REGION, "%s", why);
        return;
    }
    link->region_fd = link->rx_fds.fd[0];
    link->rx_fds.nr = 0;
    link->phase = DSM__PHASE_READY;
    if (link->outgoing) {
        link_put_region(link);
        link_put_ready(link);
    }
}

/*
 * The side that was connected to decides: it is UP before it sends READY, so
 * of two connections that claim to be one node only one ever is.
 */
static void link_handle_ready(struct dsm__link *link)
{
    if (!link_check_absent(link, link->peer)) {
        return;
    }
    if (link->rx_fds.nr > 0) {
        link_refuse(link, DSM__NOTICE_REGION,
                    "file descriptors that nothing asked for");
        return;
    }
    if (!link->outgoing) {
        link_put_ready(link);
    }
    if (link->end != DSM__END_NONE || link->tx_dead) {
        return;
    }
    if (link->channel == DSM__CHANNEL_PAGES) {
        link_set_end(link, DSM__END_HANDED, 0, "page channel");
        return;
    }
    link->phase = DSM__PHASE_UP;
    *link->link_to_this = link->next;
    if (link->next) {
        link->next->link_to_this = link->link_to_this;
    }
    link->link_to_this = NULL;
    link->next = NULL;
    link->node->nr_handshakes--;
    for (int i = 0; i < DSM_NR_CLASSES; i++) {
        dsm__gauge(link_counters(link)->credits_left[i], link->tx_credit[i]);
    }
    link->deadline_ns = link->last_rx_ns +
                        link->node->config.heartbeat_ms * DSM__NSEC_PER_MSEC;
    dsm__node_arm(link->node, link->deadline_ns);
    dsm__peer_set_up(link->node, link);
}

/* Receiving: an established link */

static bool link_take_credits(struct dsm__link *link,
                              const struct dsm__frame *f)
{
    for (int i = 0; i < DSM_NR_CLASSES; i++) {
        if (f->credit[i] > link->tx_window[i] - link->tx_credit[i]) {
            return false;
        }
    }
    if (f->doorbell_credit >
        link->tx_doorbell_window - link->tx_doorbell_credit) {
        return false;
    }
    for (int i = 0; i < DSM_NR_CLASSES; i++) {
        if (f->credit[i]) {
            link->tx_credit[i] += f->credit[i];
            dsm__gauge(link_counters(link)->credits_left[i],
                       link->tx_credit[i]);
        }
    }
    link->tx_doorbell_credit += f->doorbell_credit;
    return true;
}

/* Return: true when it was taken. */
static bool link_deliver(struct dsm__link *link, enum dsm_class cls,
                         const void *data, uint32_t bytes)
{
    struct dsm_node *node = link->node;

    if (!node->ops.message(node->opaque, link->peer, cls, data, bytes)) {
        dsm__count(link_counters(link)->deliveries_refused[cls], 1);
        return false;
    }
    link->rx_owed[cls]++;
    return true;
}

static void link_handle_message(struct dsm__link *link,
                                const struct dsm__frame *f)
{
    struct dsm__kept *kept = &link->kept[f->cls];
    uint32_t slot;

    if (link->rx_room[f->cls] == 0) {
        link_refuse(link, DSM__NOTICE_PROTOCOL,
                    "message of class %u without a credit", f->cls);
        return;
    }
    link->rx_room[f->cls]--;
    dsm__count(link_counters(link)->messages_received[f->cls], 1);
    if (kept->nr == 0 &&
        link_deliver(link, f->cls, f->message.data, f->message.bytes)) {
        return;
    }
    /* Fits: of all messages sent and not taken there are at most a window. */
    slot = (kept->head + kept->nr) % link->node->config.credits[f->cls];
    memcpy(kept->slots + (size_t)slot * DSM_MAX_MESSAGE_BYTES,
           f->message.data, f->message.bytes);
    kept->bytes[slot] = f->message.bytes;
    kept->nr++;
    dsm__gauge(link_counters(link)->queued_in[f->cls], kept->nr);
}

static void link_deliver_kept(struct dsm__link *link, enum dsm_class cls)
{
    struct dsm__kept *kept = &link->kept[cls];

    while (kept->nr > 0 &&
           link_deliver(link, cls,
                        kept->slots +
                            (size_t)kept->head * DSM_MAX_MESSAGE_BYTES,
                        kept->bytes[kept->head])) {
        kept->head = (kept->head + 1) % link->node->config.credits[cls];
        kept->nr--;
    }
    dsm__gauge(link_counters(link)->queued_in[cls], kept->nr);
}

static void link_handle_pong(struct dsm__link *link, uint64_t token)
{
    uint64_t rtt_ns;
    int bucket;

    if (!link->ping_sent || token != link->ping_token) {
        link_refuse(link, DSM__NOTICE_PROTOCOL, "PONG without a PING");
        return;
    }
    link->ping_sent = false;
    rtt_ns = dsm__now_ns() - token;
    bucket = rtt_ns ? 63 - __builtin_clzll(rtt_ns) : 0;
    if (bucket >= DSM_HISTOGRAM_BUCKETS) {
        bucket = DSM_HISTOGRAM_BUCKETS - 1;
    }
    dsm__count(link_counters(link)->ping_rtt_ns[bucket], 1);
}

static void link_handle_notice(struct dsm__link *link,
                               const struct dsm__frame *f)
{
    char text[DSM_REASON_BYTES];

    dsm__wire_text(text, sizeof(text), f->notice.text, f->notice.text_bytes);
    if (f->type == DSM__FRAME_ERROR) {
        link_set_end(link, DSM__END_LOST, f->notice.code,
                     "closed by the peer: %.130s", text);
    } else {
        link_set_end(link, DSM__END_REFUSED, f->notice.code,
                     "refused by the peer: %.130s", text);
    }
}

static void link_handle_up(struct dsm__link *link, const struct dsm__frame *f)
{
    if (!link_take_credits(link, f)) {
        link_refuse(link, DSM__NOTICE_PROTOCOL,
                    "credits for messages that were not sent");
        return;
    }
    switch (f->type) {
    case DSM__FRAME_MESSAGE:
        link_handle_message(link, f);
        return;
    case DSM__FRAME_CREDIT:
        return;
    case DSM__FRAME_DOORBELL:
        if (link->rx_doorbell_room == 0) {
            link_refuse(link, DSM__NOTICE_PROTOCOL,
                        "DOORBELL without a credit");
            return;
        }
        link->rx_doorbell_room--;
        link->rx_doorbell_owed++;
        link->rx_bits |= f->bits;
        dsm__count(link_counters(link)->doorbell_frames_received, 1);
        return;
    case DSM__FRAME_PING:
        if (link->pong_due) {
            link_refuse(link, DSM__NOTICE_PROTOCOL,
                        "PING before the last was answered");
            return;
        }
        link->pong_due = true;
        link->pong_token = f->token;
        return;
    case DSM__FRAME_PONG:
        link_handle_pong(link, f->token);
        return;
    case DSM__FRAME_BYE:
        link_set_end(link, DSM__END_LOST, 0, "left");
        return;
    case DSM__FRAME_REJECT:
    case DSM__FRAME_ERROR:
        link_handle_notice(link, f);
        return;
    case DSM__FRAME_HELLO:
    case DSM__FRAME_HELLO_ACK:
    case DSM__FRAME_REGION:
    case DSM__FRAME_READY:
    case DSM__NR_FRAMES:
        break;
    }
    link_refuse(link, DSM__NOTICE_PROTOCOL, "%s after the handshake",
                dsm__wire_frame_name(f->type));
}

static void link_handle_handshake(struct dsm__link *link,
                                  const struct dsm__frame *f)
{
    static const uint8_t expected[] = {
        [DSM__PHASE_HELLO] = DSM__FRAME_HELLO,
        [DSM__PHASE_HELLO_ACK] = DSM__FRAME_HELLO_ACK,
        [DSM__PHASE_REGION] = DSM__FRAME_REGION,
        [DSM__PHASE_READY] = DSM__FRAME_READY,
    };
    bool credits = f->doorbell_credit;

    for (int i = 0; i < DSM_NR_CLASSES; i++) {
        credits |= f->credit[i] != 0;
    }
    if (f->type == DSM__FRAME_REJECT) {
        link_handle_notice(link, f);
    } else if (f->type != expected[link->phase]) {
        link_refuse(link, DSM__NOTICE_PROTOCOL, "%s in place of %s",
                    dsm__wire_frame_name(f->type),
                    dsm__wire_frame_name(expected[link->phase]));
    } else if (credits) {
        link_refuse(link, DSM__NOTICE_PROTOCOL,
                    "credits before the handshake is done");
    } else if (f->type == DSM__FRAME_REGION) {
        link_handle_region(link, f);
    } else if (f->type == DSM__FRAME_READY) {
        link_handle_ready(link);
    } else {
        link_handle_hello(link, &f->hello);
    }
}

/* Handle all whole frames in the buffer and move the rest to its start. */
static void link_parse(struct dsm__link *link)
{
    struct dsm__frame f;
    const char *why;
    int n;

    while (link->end == DSM__END_NONE && link->rx_start < link->rx_end) {
        const uint8_t *at = link->rx_buf + link->rx_start;

        n = dsm__wire_decode(at, link->rx_end - link->rx_start, &f, &why);
        if (n == 0) {
            break;
        }
        if (n == -EPROTONOSUPPORT) {
            link_refuse_version(link, at[4], at[4]);
            break;
        }
        if (n < 0) {
            link_refuse(link, DSM__NOTICE_PROTOCOL, "%s", why);
            break;
        }
        if (f.seq != link->rx_seq) {
            link_refuse(link, DSM__NOTICE_PROTOCOL,
                        "frame %u in place of frame %u", f.seq, link->rx_seq);
            break;
        }
        link->rx_seq++;
        link->rx_start += n;
        if (link->phase == DSM__PHASE_UP) {
            link_handle_up(link, &f);
        } else {
            link_handle_handshake(link, &f);
        }
    }
    if (link->rx_start > 0) {
        link->rx_end -= link->rx_start;
        memmove(link->rx_buf, link->rx_buf + link->rx_start, link->rx_end);
        link->rx_start = 0;
    }
}

/* What remains to do after anything has happened on an established link. */
static void link_settle(struct dsm__link *link)
{
    struct dsm_node *node = link->node;
    uint64_t bits = link->rx_bits;

    if (bits) {
        link->rx_bits = 0;
        node->ops.doorbell(node->opaque, link->peer, bits);
    }
    if (link->end == DSM__END_NONE) {
        link_put_own(link);
        link_tell_writable(link);
    }
}

static void link_receive_some(struct dsm__link *link)
{
    bool up = link->phase == DSM__PHASE_UP;
    struct dsm__fds fds = { .nr = 0 };
    ssize_t n;

    n = link->conn.transport->recv(&link->conn, link->rx_buf + link->rx_end,
                              LINK_RX_BYTES - link->rx_end, up ? NULL : &fds);
    if (n == -EAGAIN && !link->tx_dead) {
        return;
    }
    if (n == 0 && !up && link->rx_seq == 0 && link->rx_end == 0 &&
        !link->outgoing) {
        /* Somebody only looked whether we listen: no harm, no news. */
        link_set_end(link, DSM__END_SILENT, 0, "closed before a word");
        return;
    }
    if (n <= 0) {
        bool tell = n < 0 && n != -ECONNRESET && n != -EAGAIN;

        link_set_end(link, DSM__END_LOST, 0, "%s%s%s%s",
                     up ? "connection lost" : "connection closed",
                     link->rx_end > 0 ? " inside a frame"
                     : up             ? ""
                                      : " during the handshake",
                     tell ? ": " : "", tell ? strerror(-n) : "");
        return;
    }
    link->rx_end += n;
    link->last_rx_ns = link->node->now_ns;
    if (up) {
        dsm__count(link_counters(link)->bytes_received, n);
    }
    for (int i = 0; i < fds.nr; i++) {
        if (link->rx_fds.nr < DSM__RECV_FDS) {
            link->rx_fds.fd[link->rx_fds.nr++] = fds.fd[i];
        } else {
            close(fds.fd[i]);
            fds.truncated = true;
        }
    }
    if (fds.truncated) {
        link_refuse(link, DSM__NOTICE_REGION, "too many file descriptors");
        return;
    }
    link_parse(link);
}

static void link_receive(struct dsm__link *link)
{
    do {
        link_receive_some(link);
    } while (link->end == DSM__END_NONE && dsm__conn_pending(&link->conn));
}

/* The frames begin. */
static void link_open(struct dsm__link *link)
{
    struct dsm__frame f;

    if (link->outgoing) {
        link->phase = DSM__PHASE_HELLO_ACK;
        f = link_hello(link, DSM__FRAME_HELLO);
        link_put_handshake(link, &f, -1);
    } else {
        link->phase = DSM__PHASE_HELLO;
    }
}

static void link_secure(struct dsm__link *link)
{
    const char *why;
    bool out = false;
    int ret = link->conn.transport->secure(&link->conn, &out, &why);

    if (ret == -ENOLINK) {
        link_set_end(link, DSM__END_SILENT, 0, "closed before a word");
    } else if (ret < 0 && ret != -EAGAIN) {
        link_set_end(link, DSM__END_LOST, 0, "%s", why);
    } else {
        link_watch(link, EPOLL_CTL_MOD, EPOLLIN | (out ? EPOLLOUT : 0));
    }
    if (ret == 0 && link->end == DSM__END_NONE) {
        link_open(link);
        /* Frames may have come with the end of its handshake. */
        if (dsm__conn_pending(&link->conn)) {
            link_receive(link);
        }
    }
}

/* Connected in either direction; @link->who is known. */
static void link_begin(struct dsm__link *link)
{
    const struct dsm__transport *transport = link->conn.transport;
    struct dsm_node *node = link->node;
    int ret = 0;

    if (transport->begin) {
        link->phase = DSM__PHASE_SECURING;
        ret = transport->begin(dsm__node_transport_ctx(node, transport),
                               &link->conn, link->outgoing, link->who);
    }
    if (ret < 0) {
        link_set_end(link, DSM__END_LOST, 0, "%s", strerror(-ret));
    } else if (transport->begin) {
        link_secure(link);
    } else {
        link_watch(link, EPOLL_CTL_MOD, EPOLLIN);
        link_open(link);
    }
}

static void link_connected(struct dsm__link *link)
{
    int ret = link->conn.transport->connect_result(link->conn.fd);

    if (ret < 0) {
        link->connect_error = ret;
        link_set_end(link, DSM__END_SILENT, 0, "not connected");
        return;
    }
    if (link->conn.transport->authorise(link->conn.fd, link->who) < 0) {
        link_set_end(link, DSM__END_LOST, 0,
                     "the listener there is %.60s, which is not trusted",
                     link->who);
        return;
    }
    link_begin(link);
}

void dsm__link_event(struct dsm__link *link, uint32_t events)
{
    if (link->phase == DSM__PHASE_CONNECTING) {
        link_connected(link);
    } else if (link->phase == DSM__PHASE_SECURING) {
        link_secure(link);
        if (link->phase == DSM__PHASE_UP) {
            link_settle(link);
        }
    } else {
        if ((events & EPOLLOUT) && link->tx_blocked && link_put_rest(link)) {
            link->tx_blocked = false;
            link_watch(link, EPOLL_CTL_MOD, EPOLLIN);
            /* Before new messages come in, whose answers would overtake. */
            link_settle(link);
        }
        if (link->end == DSM__END_NONE &&
            (events & (EPOLLIN | EPOLLHUP | EPOLLERR))) {
            link_receive(link);
        }
        if (link->phase == DSM__PHASE_UP) {
            link_settle(link);
        }
    }
    if (link->end != DSM__END_NONE) {
        link_finish(link);
    }
}

void dsm__link_kicked(struct dsm__link *link)
{
    if (link->tx_dead) {
        /* Until there is nothing more to read, one piece at a time. */
        dsm__node_kick(link->node);
        link_receive(link);
    }
    for (int i = 0; i < DSM_NR_CLASSES; i++) {
        if (link->resume[i] && link->end == DSM__END_NONE) {
            link->resume[i] = false;
            link_deliver_kept(link, i);
        }
    }
    if (link->phase == DSM__PHASE_UP) {
        link_settle(link);
    }
    if (link->end != DSM__END_NONE) {
        link_finish(link);
    }
}

void dsm__link_lose(struct dsm__link *link, bool broke_protocol,
                    const char *reason)
{
    link_set_end(link, broke_protocol ? DSM__END_REFUSE : DSM__END_LOST,
                 broke_protocol ? DSM__NOTICE_PROTOCOL : 0, "%s", reason);
    link_finish(link);
}

void dsm__link_timer(struct dsm__link *link)
{
    const struct dsm_config *config = &link->node->config;
    uint64_t now_ns = link->node->now_ns;
    uint64_t ping_ns, timeout_ns;

    if (now_ns < link->deadline_ns) {
        return;
    }
    if (link->phase != DSM__PHASE_UP) {
        link_refuse(link, DSM__NOTICE_TIMEOUT,
                    "no complete handshake within %u ms",
                    config->handshake_timeout_ms);
        link_finish(link);
        return;
    }
    ping_ns = link->last_rx_ns + config->heartbeat_ms * DSM__NSEC_PER_MSEC;
    timeout_ns =
        link->last_rx_ns + config->peer_timeout_ms * DSM__NSEC_PER_MSEC;
    if (now_ns >= timeout_ns) {
        link_set_end(link, DSM__END_LOST, 0, "silent for %u ms",
                     config->peer_timeout_ms);
        link_finish(link);
        return;
    }
    link->deadline_ns = ping_ns;
    if (now_ns >= ping_ns) {
        link->deadline_ns =
            now_ns + config->heartbeat_ms * DSM__NSEC_PER_MSEC;
        if (link->deadline_ns > timeout_ns) {
            link->deadline_ns = timeout_ns;
        }
        if (!link->ping_sent) {
            link->ping_due = true;
            link_put_own(link);
        }
    }
}

int dsm__link_new(struct dsm_node *node,
                  const struct dsm__transport *transport, int fd,
                  int outgoing_to, bool connected)
{
    struct dsm__link *link = calloc(1, sizeof(*link));
    struct epoll_event ev = { .events = EPOLLIN, .data.ptr = link };
    int err = -ENOMEM;

    if (!link) {
        return err;
    }
    link->rx_buf = malloc(LINK_RX_BYTES);
    if (!link->rx_buf) {
        goto fail;
    }
    link->source = DSM__SOURCE_LINK;
    link->node = node;
    link->conn.transport = transport;
    link->conn.fd = fd;
    link->outgoing = outgoing_to >= 0;
    link->peer = outgoing_to;
    link->region_fd = -1;
    /* Before a secure transport has begun nothing can be said. */
    link->phase = link->outgoing     ? DSM__PHASE_CONNECTING
                  : transport->begin ? DSM__PHASE_SECURING
                                     : DSM__PHASE_HELLO;
    link->channel = link->outgoing && node->pages &&
                            !node->peers[outgoing_to].paged
                        ? DSM__CHANNEL_PAGES
                        : DSM__CHANNEL_LINK;
    link->last_rx_ns = dsm__now_ns();
    link->deadline_ns = link->last_rx_ns + node->config.handshake_timeout_ms *
                                               DSM__NSEC_PER_MSEC;
    if (node->options.sndbuf_bytes) {
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &node->options.sndbuf_bytes,
                   sizeof(node->options.sndbuf_bytes));
    }
    if (link->outgoing && !connected) {
        ev.events = EPOLLOUT;
    }
    if (epoll_ctl(node->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0) {
        err = -errno;
        goto fail;
    }
    link->next = node->handshakes;
    link->link_to_this = &node->handshakes;
    if (link->next) {
        link->next->link_to_this = &link->next;
    }
    node->handshakes = link;
    node->nr_handshakes++;
    dsm__node_arm(node, link->deadline_ns);

    if (link->outgoing && connected) {
        dsm__link_event(link, EPOLLOUT);
    } else if (!link->outgoing && transport->authorise(fd, link->who) < 0) {
        link_refuse(link, DSM__NOTICE_MACHINE,
                    "of another user, which is not trusted");
        link_finish(link);
    } else if (!link->outgoing &&
               node->nr_handshakes >
                   node->config.nr_nodes + LINK_SPARE_HANDSHAKES) {
        link_refuse(link, DSM__NOTICE_BUSY, "too many connections at once");
        link_finish(link);
    } else if (!link->outgoing) {
        link_begin(link);
        if (link->end != DSM__END_NONE) {
            link_finish(link);
        }
    }
    return 0;

fail:
    free(link->rx_buf);
    free(link);
    return err;
}

void dsm__link_leave(struct dsm__link *link)
{
    struct dsm__frame f;

    if (link->phase == DSM__PHASE_UP && link_put_rest(link)) {
        link->tx_blocked = false;
        if (link->tx_bits && link->tx_doorbell_credit > 0) {
            link_put_bits(link);
        }
        if (!link->tx_blocked) {
            f = link_frame(link, DSM__FRAME_BYE);
            link_put_frame(link, &f);
        }
    }
    link_free(link);
}
