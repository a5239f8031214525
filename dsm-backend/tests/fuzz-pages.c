/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A page engine whose peer sends anything. It must live, must not touch
 * memory that nobody asked it to, and must leave no file descriptor behind.
 *
 * The engine is node 0 of three, with its own region and the peer's; node 2
 * never comes. Input: records of
 *   {what, region, node, count, page, stride, bytes of the body / 256}
 * become frames with the right magic, version and number, so that the fuzzer
 * need not find those; "what" beyond the types of frames is something that
 * happens at this node: faults, pages wanted ahead, time.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "pages.h"
#include "region.h"

#define PAGES 8
#define PEER 1

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

struct target {
    struct dsm__pages *pages;
    int fd[2];
    int memory_fd[2];
    uint8_t *memory[2];
    uint32_t page_bytes, seq;
};

static void drain(struct target *t)
{
    uint8_t buf[65536];

    for (int i = 0; i < 8; i++) {
        dsm__pages_step(t->pages, 0);
        while (recv(t->fd[1], buf, sizeof(buf), MSG_DONTWAIT) > 0) {
        }
    }
}

static void send_record(struct target *t, const uint8_t *r)
{
    static const uint8_t body[65536];
    uint8_t header[DSM__PAGE_HEADER_BYTES];
    struct dsm__page_frame f = {
        .type = r[0],
        .region = r[1],
        .node = r[2],
        .count = r[3],
        .page = r[4],
        .seq = t->seq++,
    };

    if (f.type == DSM__PAGE_AHEAD || f.type == DSM__COH_DECLINE) {
        f.stride = (int8_t)r[5];
    }
    if (f.type == DSM__PAGE_PING || f.type == DSM__PAGE_PONG) {
        f.token = r[5];
    }
    dsm__page_encode(header, &f);
    send(t->fd[1], header, sizeof(header), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (dsm__coh_has_data(f.type)) {
        /* All of it, or a little less, or more. */
        size_t bytes = (size_t)f.count * t->page_bytes + r[6] % 3 - 1;

        send(t->fd[1], body, bytes > sizeof(body) ? sizeof(body) : bytes,
             MSG_DONTWAIT | MSG_NOSIGNAL);
    }
}

/* What happens here. */
static void act(struct target *t, const uint8_t *r)
{
    struct dsm__pregion *region = t->pages->regions[r[1] % 2];
    uint64_t page = r[4] % PAGES;

    switch (r[0] % 4) {
    case 0:
        dsm__coh_fault(&region->coh, page, r[3] & 1);
        break;
    case 1:
        dsm__coh_ahead(&region->coh, page);
        break;
    case 2:
        dsm__coh_release(&region->coh, page);
        break;
    case 3:
        send(t->fd[1], r, 7, MSG_DONTWAIT | MSG_NOSIGNAL);
        break;
    }
}

static void begin(struct target *t)
{
    struct dsm__pages_config config = {
        .nr_nodes = 3,
        .page_bytes = t->page_bytes,
        .hold_us = 20,
        .heartbeat_ms = 1000000,
        .peer_timeout_ms = 10000000,
        .no_thread = true,
    };
    int ret = dsm__pages_create(&config, &t->pages);

    assert(ret == 0);
    for (int i = 0; i < 2; i++) {
        size_t bytes = PAGES * (size_t)t->page_bytes;
        struct dsm_region_params params = { .ahead = true };

        t->memory_fd[i] = dsm__region_create("fuzz", bytes);
        assert(t->memory_fd[i] >= 0);
        t->memory[i] = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
                            t->memory_fd[i], 0);
        assert(t->memory[i] != MAP_FAILED);
        params.memory = t->memory[i];
        ret = dsm__pages_attach(t->pages, i, t->memory_fd[i], bytes, &params);
        assert(ret == 0);
    }
    ret = socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0,
                     t->fd);
    assert(ret == 0);
    ret = dsm__pages_connect(t->pages, PEER,
                             &(struct dsm__conn) {
                                 .transport = &dsm__transport_unix,
                                 .fd = t->fd[0],
                             },
                             NULL, 0);
    assert(ret == 0);
}

static void end(struct target *t)
{
    char reason[DSM_REASON_BYTES];
    uint16_t peer;
    bool broke;

    close(t->fd[1]);
    for (int i = 0; i < 64 && t->pages->links[PEER].up; i++) {
        dsm__pages_step(t->pages, 0);
    }
    assert(!t->pages->links[PEER].up);
    while (t->pages->held_nr > 0) {
        dsm__pages_step(t->pages, 1000000); /* for 20 us at most */
    }
    assert(dsm__pages_note(t->pages, &peer, &broke, reason) && peer == PEER);
    assert(reason[0] && !dsm__pages_note(t->pages, &peer, &broke, reason));
    for (int i = 0; i < 2; i++) {
        assert(t->pages->regions[i]->coh.nr_waiting == 0);
    }
    dsm__pages_destroy(t->pages);
    for (int i = 0; i < 2; i++) {
        munmap(t->memory[i], PAGES * (size_t)t->page_bytes);
        close(t->memory_fd[i]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct target t = { .page_bytes = sysconf(_SC_PAGESIZE) };
    const char *why;
    int lowest, probe;

    if (dsm_pages_available(&why) < 0) {
        printf("%s\n", why);
        exit(77);
    }
    lowest = dup(0);
    close(lowest);
    begin(&t);
    for (; bytes >= 7; data += 7, bytes -= 7) {
        if (data[0] < DSM__NR_PAGE) {
            send_record(&t, data);
        } else {
            act(&t, data);
        }
        drain(&t);
    }
    end(&t);
    probe = dup(0);
    assert(probe == lowest);
    close(probe);
    return 0;
}
