/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A node: its configuration, peers, listener, timer and event loop. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"
#include "region.h"

#define NODE_DEFAULT_CREDITS 64
#define NODE_DEFAULT_CONNECT_RETRY_MS 20
#define NODE_DEFAULT_HANDSHAKE_TIMEOUT_MS 5000
#define NODE_DEFAULT_HEARTBEAT_MS 2000
#define NODE_DEFAULT_PEER_TIMEOUT_MS 30000
/* Some times what it takes to wake a thread: who got a page gets to use it. */
#define NODE_DEFAULT_HOLD_US 50

#define NODE_EVENTS 64
/* Most connections taken from the listener in one dispatch. */
#define NODE_ACCEPTS 16
/* After a failed handshake attempts get rarer, up to this. */
#define NODE_BACKOFF_MAX_NS (1000 * DSM__NSEC_PER_MSEC)
/* How long accepting pauses when the process has no file descriptor left. */
#define NODE_ACCEPT_PAUSE_NS (100 * DSM__NSEC_PER_MSEC)

uint64_t dsm__now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * UINT64_C(1000000000) + ts.tv_nsec;
}

const char *dsm_version(void)
{
    return DSM_VERSION;
}

/* Creation */

static const struct dsm__transport *node_find_transport(
    const struct dsm__options *options, const struct dsm_key *key,
    const char *address, const char **ret_where)
{
    const struct dsm__transport *const all[] = {
        &dsm__transport_unix,
        key ? &dsm__transport_tls : &dsm__transport_tcp,
        options->transport,
    };

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        size_t len = all[i] ? strlen(all[i]->scheme) : 0;

        if (all[i] && strncmp(address, all[i]->scheme, len) == 0 &&
            address[len] == ':') {
            *ret_where = address + len + 1;
            return all[i];
        }
    }
    return NULL;
}

void *dsm__node_transport_ctx(const struct dsm_node *node,
                              const struct dsm__transport *transport)
{
    return transport == &dsm__transport_tls ? node->config.key
                                            : node->options.transport_ctx;
}

static bool name_is_valid(const char *name)
{
    size_t len = strnlen(name, DSM_NAME_BYTES);

    if (len == 0 || len == DSM_NAME_BYTES) {
        return false;
    }
    for (size_t i = 0; i < len; i++) {
        if (name[i] <= ' ' || name[i] > '~') {
            return false;
        }
    }
    return true;
}

static int node_init_peer(struct dsm_node *node, uint16_t index,
                          const struct dsm_node_desc *desc)
{
    struct dsm__peer *peer = &node->peers[index];

    if (!name_is_valid(desc->name) || !desc->elf_machine || !desc->cpus ||
        !desc->ram_bytes || desc->ram_bytes % node->page_bytes ||
        desc->ram_bytes > INT64_MAX || !desc->address) {
        return -EINVAL;
    }
    snprintf(peer->desc.name, sizeof(peer->desc.name), "%s", desc->name);
    peer->desc.elf_machine = desc->elf_machine;
    peer->desc.cpus = desc->cpus;
    peer->desc.ram_bytes = desc->ram_bytes;
    peer->address = strdup(desc->address);
    if (!peer->address) {
        return -ENOMEM;
    }
    peer->transport =
        node_find_transport(&node->options, node->config.key, peer->address,
                            &peer->where);
    if (!peer->transport || peer->transport->check(peer->where) < 0 ||
        (dsm__node_passes_regions(node) && !peer->transport->passes_fds)) {
        return -EINVAL;
    }
    if (!node->config.key && dsm_address_needs_key(peer->address)) {
        return -ENOKEY;
    }
    for (uint16_t i = 0; i < index; i++) {
        if (strcmp(node->peers[i].desc.name, peer->desc.name) == 0 ||
            strcmp(node->peers[i].address, peer->address) == 0) {
            return -EINVAL;
        }
    }
    return 0;
}

static void set_default(uint32_t *value, uint32_t standard)
{
    if (!*value) {
        *value = standard;
    }
}

static int node_init_config(struct dsm_node *node,
                            const struct dsm_config *config)
{
    struct dsm_config *c = &node->config;
    int ret;

    *c = *config;
    c->nodes = NULL;
    for (int i = 0; i < DSM_NR_CLASSES; i++) {
        set_default(&c->credits[i], NODE_DEFAULT_CREDITS);
        if (c->credits[i] > DSM_MAX_CREDITS) {
            return -EINVAL;
        }
    }
    set_default(&c->connect_retry_ms, NODE_DEFAULT_CONNECT_RETRY_MS);
    set_default(&c->handshake_timeout_ms, NODE_DEFAULT_HANDSHAKE_TIMEOUT_MS);
    set_default(&c->heartbeat_ms, NODE_DEFAULT_HEARTBEAT_MS);
    set_default(&c->peer_timeout_ms, NODE_DEFAULT_PEER_TIMEOUT_MS);
    set_default(&c->hold_us, NODE_DEFAULT_HOLD_US);
    /* A PING needs time for its answer; see also node_forgive_silence(). */
    if (c->peer_timeout_ms / 2 < c->heartbeat_ms) {
        return -EINVAL;
    }
    for (uint16_t i = 0; i < c->nr_nodes; i++) {
        ret = node_init_peer(node, i, &config->nodes[i]);
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

static int node_watch(struct dsm_node *node, int fd, enum dsm__source *source)
{
    struct epoll_event ev = { .events = EPOLLIN, .data.ptr = source };

    return epoll_ctl(node->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0 ? -errno : 0;
}

static int node_init_loop(struct dsm_node *node)
{
    int ret;

    node->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (node->epoll_fd < 0) {
        return -errno;
    }
    node->timer_fd =
        timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (node->timer_fd < 0) {
        return -errno;
    }
    node->kick_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (node->kick_fd < 0) {
        return -errno;
    }
    ret = node_watch(node, node->timer_fd, &node->timer_source);
    if (ret < 0) {
        return ret;
    }
    return node_watch(node, node->kick_fd, &node->kick_source);
}

/*
 * The page engine, and with the page protocol a place for this node's copy of
 * every region.
 */
static int node_init_pages(struct dsm_node *node)
{
    const struct dsm_config *c = &node->config;
    /*
     * Who waits for a page may hold up this node's dispatch. That has to end
     * before others, who hear nothing from it meanwhile, take it for lost.
     */
    uint32_t patience_ms = c->peer_timeout_ms / 4 * 3;
    const struct dsm__pages_config config = {
        .self = c->self,
        .nr_nodes = c->nr_nodes,
        .page_bytes = node->page_bytes,
        .rights = c->code,
        .hold_us = c->no_hold ? 0 : c->hold_us,
        .spin_us = c->spin_us,
        .heartbeat_ms = c->heartbeat_ms,
        .peer_timeout_ms = patience_ms > 2 * c->heartbeat_ms
                               ? patience_ms
                               : 2 * c->heartbeat_ms,
    };
    int ret;

    ret = dsm__pages_create(&config, &node->pages);
    if (ret < 0) {
        return ret;
    }
    for (uint16_t i = 0; i < c->nr_nodes && !c->code; i++) {
        struct dsm__peer *peer = &node->peers[i];

        peer->region_fd = dsm__region_create(peer->desc.name,
                                             peer->desc.ram_bytes);
        if (peer->region_fd < 0) {
            return peer->region_fd;
        }
    }
    return node_watch(node, node->pages->note_fd, &node->pages_source);
}

int dsm__node_create(const struct dsm_config *config,
                     const struct dsm_ops *ops, void *opaque,
                     const struct dsm__options *options,
                     struct dsm_node **ret_node)
{
    struct dsm_node *node;
    struct dsm__peer *self;
    int ret;

    if (!ops->message || !ops->writable || !ops->doorbell ||
        !ops->peer_state || config->nr_nodes < 1 ||
        config->nr_nodes > DSM_MAX_NODES ||
        config->self >= config->nr_nodes || !config->nodes) {
        return -EINVAL;
    }
    if (config->coherence != DSM_COHERENCE_SHARED &&
        (config->coherence != DSM_COHERENCE_PAGES || config->code)) {
        return -EINVAL;
    }

    node = calloc(1, sizeof(*node) + config->nr_nodes * sizeof(*self));
    if (!node) {
        return -ENOMEM;
    }
    node->ops = *ops;
    node->opaque = opaque;
    node->options = *options;
    node->page_bytes = sysconf(_SC_PAGESIZE);
    node->listener_source = DSM__SOURCE_LISTENER;
    node->timer_source = DSM__SOURCE_TIMER;
    node->kick_source = DSM__SOURCE_KICK;
    node->pages_source = DSM__SOURCE_PAGES;
    node->epoll_fd = node->timer_fd = node->kick_fd = -1;
    node->accept_at_ns = DSM__NEVER;
    node->armed_ns = DSM__NEVER;
    node->now_ns = dsm__now_ns();
    ret = -pthread_mutex_init(&node->reason_lock, NULL);
    if (ret < 0) {
        free(node);
        return ret;
    }
    for (uint16_t i = 0; i < config->nr_nodes; i++) {
        node->peers[i].region_fd = -1;
        node->peers[i].connect_at_ns = DSM__NEVER;
        atomic_init(&node->peers[i].state, DSM_PEER_ABSENT);
    }

    ret = node_init_config(node, config);
    if (ret == 0) {
        ret = node_init_loop(node);
    }
    self = &node->peers[config->self];
    atomic_store(&self->state, DSM_PEER_UP);
    if (ret == 0 && dsm__node_passes_regions(node)) {
        ret = dsm__region_create(self->desc.name, self->desc.ram_bytes);
        self->region_fd = ret;
        if (ret >= 0 && config->code) {
            ret = node_init_pages(node);
        }
    } else if (ret == 0 && !options->links_only) {
        ret = node_init_pages(node);
    }
    if (ret < 0) {
        dsm_node_destroy(node);
        return ret;
    }
    *ret_node = node;
    return 0;
}

int dsm_node_create(const struct dsm_config *config, const struct dsm_ops *ops,
                    void *opaque, struct dsm_node **ret_node)
{
    static const struct dsm__options none;

    return dsm__node_create(config, ops, opaque, &none, ret_node);
}

static void close_fd(int fd)
{
    if (fd >= 0) {
        close(fd);
    }
}

void dsm_node_destroy(struct dsm_node *node)
{
    if (!node) {
        return;
    }
    for (uint16_t i = 0; i < node->config.nr_nodes; i++) {
        struct dsm__peer *peer = &node->peers[i];

        if (peer->link) {
            dsm__link_leave(peer->link);
        }
        close_fd(peer->region_fd);
    }
    while (node->handshakes) {
        dsm__link_leave(node->handshakes);
    }
    dsm__pages_destroy(node->pages);
    if (node->listening) {
        node->listener.transport->unlisten(&node->listener);
    }
    for (uint16_t i = 0; i < node->config.nr_nodes; i++) {
        free(node->peers[i].address); /* the listener's path is in one */
    }
    close_fd(node->kick_fd);
    close_fd(node->timer_fd);
    close_fd(node->epoll_fd);
    pthread_mutex_destroy(&node->reason_lock);
    free(node);
}

int dsm_node_start(struct dsm_node *node)
{
    struct dsm__peer *self = &node->peers[node->config.self];
    int ret;

    if (node->listening) {
        return -EALREADY;
    }
    if (node->pages && !(node->attached & (UINT64_C(1) << node->config.self))) {
        return -ENXIO;
    }
    ret = self->transport->listen(
        dsm__node_transport_ctx(node, self->transport), self->where,
        &node->listener);
    if (ret < 0) {
        return ret;
    }
    ret = node_watch(node, node->listener.fd, &node->listener_source);
    if (ret < 0) {
        node->listener.transport->unlisten(&node->listener);
        return ret;
    }
    node->listening = true;
    for (uint16_t i = 0; i < node->config.self; i++) {
        node->peers[i].connect_at_ns = dsm__now_ns();
        dsm__node_arm(node, node->peers[i].connect_at_ns);
    }
    return 0;
}

/* Peers */

void dsm__node_rejected(struct dsm_node *node, const char *reason)
{
    if (node->ops.rejected) {
        node->ops.rejected(node->opaque, reason);
    }
}

void dsm__peer_set_up(struct dsm_node *node, struct dsm__link *link)
{
    struct dsm__peer *peer = &node->peers[link->peer];

    peer->link = link;
    if (dsm__node_passes_regions(node)) {
        peer->region_fd = link->region_fd;
        link->region_fd = -1;
    }
    atomic_store_explicit(&peer->state, DSM_PEER_UP, memory_order_release);
    node->ops.peer_state(node->opaque, link->peer, DSM_PEER_UP, "");
}

void dsm__peer_set_down(struct dsm_node *node, uint16_t index,
                        const char *reason)
{
    struct dsm__peer *peer = &node->peers[index];

    peer->link = NULL;
    peer->connect_at_ns = DSM__NEVER;
    if (node->pages) {
        dsm__pages_lose(node->pages, index);
    }
    for (int i = 0; i < DSM_NR_CLASSES; i++) {
        dsm__gauge(peer->counters.credits_left[i], 0);
        dsm__gauge(peer->counters.queued_in[i], 0);
    }
    pthread_mutex_lock(&node->reason_lock);
    snprintf(peer->down_reason, sizeof(peer->down_reason), "%s", reason);
    pthread_mutex_unlock(&node->reason_lock);
    atomic_store_explicit(&peer->state, DSM_PEER_DOWN, memory_order_release);
    node->ops.peer_state(node->opaque, index, DSM_PEER_DOWN, reason);
}

/* A node that has not started yet is no news; anything else is, once. */
static bool connect_error_is_news(int err)
{
    return err != -ENOENT && err != -ECONNREFUSED && err != -EAGAIN;
}

void dsm__peer_retry(struct dsm_node *node, uint16_t index, int connect_error)
{
    struct dsm__peer *peer = &node->peers[index];
    uint64_t retry_ns = node->config.connect_retry_ms * DSM__NSEC_PER_MSEC;
    bool news = connect_error && connect_error != peer->connect_error &&
                connect_error_is_news(connect_error);
    char reason[DSM_REASON_BYTES];

    if (connect_error) {
        peer->backoff_ns = retry_ns;
    } else {
        peer->backoff_ns = peer->backoff_ns ? 2 * peer->backoff_ns : retry_ns;
        if (peer->backoff_ns > NODE_BACKOFF_MAX_NS) {
            peer->backoff_ns = NODE_BACKOFF_MAX_NS;
        }
    }
    if (peer->backoff_ns < retry_ns) {
        peer->backoff_ns = retry_ns;
    }
    peer->connect_error = connect_error;
    peer->connect_at_ns = node->now_ns + peer->backoff_ns;
    dsm__node_arm(node, peer->connect_at_ns);
    if (news) {
        snprintf(reason, sizeof(reason), "connecting to node %u: %s", index,
                 strerror(-connect_error));
        dsm__node_rejected(node, reason);
    }
}

void dsm__peer_connect_next(struct dsm_node *node, uint16_t index)
{
    node->peers[index].backoff_ns = 0;
    node->peers[index].connect_at_ns = node->now_ns;
    dsm__node_arm(node, node->now_ns);
}

static void peer_connect(struct dsm_node *node, uint16_t index)
{
    struct dsm__peer *peer = &node->peers[index];
    int fd, ret, err;

    peer->connect_at_ns = DSM__NEVER;
    ret = peer->transport->connect(
        dsm__node_transport_ctx(node, peer->transport), peer->where, &fd);
    if (ret == 0 || ret == -EINPROGRESS) {
        err = dsm__link_new(node, peer->transport, fd, index, ret == 0);
        if (err == 0) {
            return;
        }
        close(fd);
        ret = err;
    }
    dsm__peer_retry(node, index, ret);
}

static void node_watch_listener(struct dsm_node *node, uint32_t events)
{
    struct epoll_event ev = {
        .events = events,
        .data.ptr = &node->listener_source,
    };

    epoll_ctl(node->epoll_fd, EPOLL_CTL_MOD, node->listener.fd, &ev);
}

static void node_accept(struct dsm_node *node)
{
    char reason[DSM_REASON_BYTES];
    int fd, ret = 0;

    for (int i = 0; i < NODE_ACCEPTS; i++) {
        fd = node->listener.transport->accept(&node->listener);
        if (fd == -EAGAIN) {
            return;
        }
        if (fd == -EMFILE || fd == -ENFILE || fd == -ENOBUFS ||
            fd == -ENOMEM) {
            ret = fd;
            break;
        }
        if (fd < 0) {
            continue; /* that connection is gone already */
        }
        ret = dsm__link_new(node, node->listener.transport, fd, -1, true);
        if (ret < 0) {
            close(fd);
            break;
        }
    }
    if (ret < 0) {
        /* The listener stays readable; without a pause this would spin. */
        snprintf(reason, sizeof(reason), "cannot accept a connection: %s",
                 strerror(-ret));
        node_watch_listener(node, 0);
        node->accept_at_ns = node->now_ns + NODE_ACCEPT_PAUSE_NS;
        dsm__node_arm(node, node->accept_at_ns);
        dsm__node_rejected(node, reason);
    }
}

/* The loop */

static void node_set_timer(struct dsm_node *node, uint64_t deadline_ns)
{
    struct itimerspec its = { .it_interval = { 0 } };

    node->armed_ns = deadline_ns;
    if (deadline_ns != DSM__NEVER) {
        its.it_value.tv_sec = deadline_ns / UINT64_C(1000000000);
        its.it_value.tv_nsec = deadline_ns % UINT64_C(1000000000);
    }
    timerfd_settime(node->timer_fd, TFD_TIMER_ABSTIME, &its, NULL);
}

void dsm__node_arm(struct dsm_node *node, uint64_t deadline_ns)
{
    if (deadline_ns < node->armed_ns) {
        node_set_timer(node, deadline_ns);
    }
}

void dsm__node_kick(struct dsm_node *node)
{
    uint64_t one = 1;

    if (!node->kicked) {
        node->kicked = true;
        /* Cannot fail: the counter is 0. */
        (void)!write(node->kick_fd, &one, sizeof(one));
    }
}

static void node_take_kick(struct dsm_node *node)
{
    struct dsm__link *link, *next;
    uint64_t count;

    (void)!read(node->kick_fd, &count, sizeof(count));
    node->kicked = false;
    for (link = node->handshakes; link; link = next) {
        next = link->next;
        dsm__link_kicked(link);
    }
    for (uint16_t i = 0; i < node->config.nr_nodes; i++) {
        if (node->peers[i].link) {
            dsm__link_kicked(node->peers[i].link);
        }
    }
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t node_next_deadline(const struct dsm_node *node)
{
    uint64_t next_ns = node->accept_at_ns;

    for (const struct dsm__link *l = node->handshakes; l; l = l->next) {
        next_ns = min_u64(next_ns, l->deadline_ns);
    }
    for (uint16_t i = 0; i < node->config.nr_nodes; i++) {
        const struct dsm__peer *peer = &node->peers[i];

        next_ns = min_u64(next_ns, peer->connect_at_ns);
        if (peer->link) {
            next_ns = min_u64(next_ns, peer->link->deadline_ns);
        }
    }
    return next_ns;
}

/*
 * If this process did not run for a while, its peers were not silent, it was
 * deaf: begin to count anew.
 */
static void node_forgive_silence(struct dsm_node *node)
{
    uint64_t heartbeat_ns = node->config.heartbeat_ms * DSM__NSEC_PER_MSEC;

    if (node->now_ns < node->armed_ns ||
        node->now_ns - node->armed_ns < heartbeat_ns) {
        return;
    }
    for (uint16_t i = 0; i < node->config.nr_nodes; i++) {
        struct dsm__link *link = node->peers[i].link;

        if (link && link->last_rx_ns < node->now_ns - heartbeat_ns) {
            link->last_rx_ns = node->now_ns - heartbeat_ns;
        }
    }
}

static void node_take_timer(struct dsm_node *node)
{
    struct dsm__link *link, *next;
    uint64_t count;

    (void)!read(node->timer_fd, &count, sizeof(count));
    node_forgive_silence(node);
    if (node->accept_at_ns <= node->now_ns) {
        node->accept_at_ns = DSM__NEVER;
        node_watch_listener(node, EPOLLIN);
    }
    for (link = node->handshakes; link; link = next) {
        next = link->next;
        dsm__link_timer(link);
    }
    for (uint16_t i = 0; i < node->config.nr_nodes; i++) {
        if (node->peers[i].link) {
            dsm__link_timer(node->peers[i].link);
        }
        if (node->peers[i].connect_at_ns <= node->now_ns) {
            peer_connect(node, i);
        }
    }
    node_set_timer(node, node_next_deadline(node));
}

/*
 * Page channels that were lost. A process that leaves or dies ends its link,
 * too: what that says is the better reason, so it is read first.
 */
static void node_take_pages(struct dsm_node *node)
{
    char reason[DSM_REASON_BYTES];
    bool broke_protocol;
    uint16_t index;
    uint64_t count;

    (void)!read(node->pages->note_fd, &count, sizeof(count));
    while (dsm__pages_note(node->pages, &index, &broke_protocol, reason)) {
        struct dsm__peer *peer = &node->peers[index];

        for (int i = 0; i < NODE_EVENTS && peer->link && !broke_protocol;
             i++) {
            dsm__link_event(peer->link, EPOLLIN);
        }
        if (peer->link) {
            dsm__link_lose(peer->link, broke_protocol, reason);
        } else if (dsm__peer_get_state(peer) == DSM_PEER_ABSENT) {
            dsm__peer_set_down(node, index, reason);
        }
    }
}

int dsm_node_dispatch(struct dsm_node *node)
{
    struct epoll_event events[NODE_EVENTS];
    bool timer = false, kick = false, pages = false;
    int nr;

    if (node->dispatching) {
        return -EBUSY;
    }
    nr = epoll_wait(node->epoll_fd, events, NODE_EVENTS, 0);
    if (nr <= 0) {
        return 0;
    }
    node->dispatching = true;
    node->now_ns = dsm__now_ns();
    /*
     * Each fd is in events[] at most once and the handling of one ends only
     * its own link, so no entry can be stale. The timer and the kick may end
     * any link: they come last. Then what arrived has also been read before
     * anybody is declared silent.
     */
    for (int i = 0; i < nr; i++) {
        void *source = events[i].data.ptr;

        switch (*(enum dsm__source *)source) {
        case DSM__SOURCE_LISTENER:
            node_accept(node);
            break;
        case DSM__SOURCE_TIMER:
            timer = true;
            break;
        case DSM__SOURCE_KICK:
            kick = true;
            break;
        case DSM__SOURCE_LINK:
            dsm__link_event(source, events[i].events);
            break;
        case DSM__SOURCE_PAGES:
            pages = true;
            break;
        }
    }
    if (pages) {
        node_take_pages(node);
    }
    if (kick) {
        node_take_kick(node);
    }
    if (timer) {
        node_take_timer(node);
    }
    node->dispatching = false;
    return nr;
}

int dsm_node_fd(const struct dsm_node *node)
{
    return node->epoll_fd;
}

/* The rest of the public interface */

enum dsm_peer_state dsm_peer_state(const struct dsm_node *node, uint16_t peer)
{
    return peer < node->config.nr_nodes
               ? dsm__peer_get_state(&node->peers[peer])
               : DSM_PEER_ABSENT;
}

static bool is_peer(const struct dsm_node *node, uint16_t index)
{
    return index < node->config.nr_nodes && index != node->config.self;
}

int dsm_region_fd(const struct dsm_node *node, uint16_t owner)
{
    const struct dsm__peer *peer;

    if (owner >= node->config.nr_nodes) {
        return -EINVAL;
    }
    peer = &node->peers[owner];
    if (!dsm__node_passes_regions(node) && !node->pages) {
        return -EOPNOTSUPP;
    }
    if (dsm__peer_get_state(peer) == DSM_PEER_FENCED) {
        return -EHOSTDOWN;
    }
    return peer->region_fd >= 0 ? peer->region_fd : -ENODATA;
}

int dsm_peer_fence(struct dsm_node *node, uint16_t index)
{
    struct dsm__peer *peer;

    if (!is_peer(node, index)) {
        return -EINVAL;
    }
    peer = &node->peers[index];
    if (dsm__peer_get_state(peer) != DSM_PEER_DOWN) {
        return -EBUSY;
    }
    if (node->pages) {
        dsm__pages_detach(node->pages, index);
    }
    close_fd(peer->region_fd);
    peer->region_fd = -1;
    atomic_store_explicit(&peer->state, DSM_PEER_FENCED,
                          memory_order_release);
    return 0;
}

int dsm_region_attach(struct dsm_node *node, uint16_t owner,
                      const struct dsm_region_params *params)
{
    const struct dsm__peer *peer;
    int ret;

    if (owner >= node->config.nr_nodes) {
        return -EINVAL;
    }
    peer = &node->peers[owner];
    if (!node->pages) {
        return -EOPNOTSUPP;
    }
    if (peer->region_fd < 0) {
        return -EHOSTDOWN;
    }
    ret = dsm__pages_attach(node->pages, owner, peer->region_fd,
                            peer->desc.ram_bytes, params);
    if (ret == 0) {
        node->attached |= UINT64_C(1) << owner;
    }
    return ret;
}

int dsm_region_execute(struct dsm_node *node, uint16_t owner,
                       uint64_t page_idx)
{
    if (owner >= node->config.nr_nodes || !node->pages) {
        return -ENXIO;
    }
    return dsm__pages_execute(node->pages, owner, page_idx);
}

int dsm_region_detach(struct dsm_node *node, uint16_t owner)
{
    if (owner >= node->config.nr_nodes || !node->pages) {
        return -ENXIO;
    }
    return dsm__pages_detach(node->pages, owner);
}

int dsm_region_stats(struct dsm_node *node, uint16_t owner,
                     struct dsm_region_stats *ret_stats)
{
    if (owner >= node->config.nr_nodes || !node->pages) {
        return -ENXIO;
    }
    return dsm__pages_stats(node->pages, owner, ret_stats);
}

int dsm_region_heat(struct dsm_node *node, uint16_t owner,
                    struct dsm_region_heat *ret_heat)
{
    if (owner >= node->config.nr_nodes || !node->pages) {
        return -ENXIO;
    }
    return dsm__pages_heat(node->pages, owner, ret_heat);
}

int dsm_send(struct dsm_node *node, uint16_t to, enum dsm_class cls,
             const struct iovec *iov, int iovcnt)
{
    size_t bytes = 0;

    if (!is_peer(node, to) || (unsigned int)cls >= DSM_NR_CLASSES ||
        iovcnt < 0) {
        return -EINVAL;
    }
    for (int i = 0; i < iovcnt; i++) {
        if (iov[i].iov_len > DSM_MAX_MESSAGE_BYTES - bytes) {
            return -EMSGSIZE;
        }
        bytes += iov[i].iov_len;
    }
    if (!node->peers[to].link) {
        return -EHOSTDOWN;
    }
    return dsm__link_send(node->peers[to].link, cls, iov, iovcnt, bytes);
}

void dsm_resume(struct dsm_node *node, uint16_t from, enum dsm_class cls)
{
    struct dsm__link *link;

    if (!is_peer(node, from) || (unsigned int)cls >= DSM_NR_CLASSES) {
        return;
    }
    link = node->peers[from].link;
    if (link && link->kept[cls].nr > 0) {
        link->resume[cls] = true;
        dsm__node_kick(node);
    }
}

int dsm_doorbell(struct dsm_node *node, uint16_t to, uint64_t bits)
{
    if (!is_peer(node, to) || bits == 0) {
        return -EINVAL;
    }
    if (!node->peers[to].link || node->peers[to].link->tx_dead) {
        return -EHOSTDOWN;
    }
    dsm__link_ring(node->peers[to].link, bits);
    return 0;
}

int dsm_link_stats(struct dsm_node *node, uint16_t index,
                   struct dsm_link_stats *ret_stats)
{
    struct dsm__counters *c;

    if (!is_peer(node, index)) {
        return -EINVAL;
    }
    c = &node->peers[index].counters;

#define READ(counter) atomic_load_explicit(&(counter), memory_order_relaxed)
    for (int i = 0; i < DSM_NR_CLASSES; i++) {
        ret_stats->messages_sent[i] = READ(c->messages_sent[i]);
        ret_stats->messages_received[i] = READ(c->messages_received[i]);
        ret_stats->sends_refused[i] = READ(c->sends_refused[i]);
        ret_stats->deliveries_refused[i] = READ(c->deliveries_refused[i]);
        ret_stats->credits_left[i] = READ(c->credits_left[i]);
        ret_stats->queued_in[i] = READ(c->queued_in[i]);
    }
    ret_stats->bytes_sent = READ(c->bytes_sent);
    ret_stats->bytes_received = READ(c->bytes_received);
    ret_stats->doorbells_sent = READ(c->doorbells_sent);
    ret_stats->doorbell_frames_sent = READ(c->doorbell_frames_sent);
    ret_stats->doorbell_frames_received = READ(c->doorbell_frames_received);
    ret_stats->protocol_errors = READ(c->protocol_errors);
    for (int i = 0; i < DSM_HISTOGRAM_BUCKETS; i++) {
        ret_stats->ping_rtt_ns[i] = READ(c->ping_rtt_ns[i]);
    }
#undef READ
    pthread_mutex_lock(&node->reason_lock);
    memcpy(ret_stats->down_reason, node->peers[index].down_reason,
           sizeof(ret_stats->down_reason));
    pthread_mutex_unlock(&node->reason_lock);
    return 0;
}
