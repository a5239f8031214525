/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A wire that takes time: whatever comes in at one interface leaves all others
 * DELAY_US later, in the same order. For tests, on kernels without netem.
 *
 *   relay DELAY_US INTERFACE INTERFACE...
 *
 * Says "ready" when it is, and ends with its standard input. It knows nothing
 * of what it carries but where checksums and segments are still to be made:
 * the kernel says that in a header before each frame and takes it back.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define RELAY_INTERFACES 8
#define RELAY_FRAME_BYTES (sizeof(struct virtio_net_hdr) + 64 + 65536)
#define RELAY_BYTES (64 << 20) /* under way; more is lost, as on any wire */
#define RELAY_BATCH 64
#define NSEC_PER_SEC UINT64_C(1000000000)

struct frame {
    struct frame *next;
    uint64_t due_ns;
    int from;
    size_t bytes;
    uint8_t data[];
};

static struct frame *first, **last = &first;
static size_t under_way;

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * NSEC_PER_SEC + ts.tv_nsec;
}

static void die(const char *what)
{
    fprintf(stderr, "relay: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int open_interface(const char *name)
{
    struct sockaddr_ll sa = {
        .sll_family = AF_PACKET,
        .sll_protocol = htons(ETH_P_ALL),
        .sll_ifindex = if_nametoindex(name),
    };
    struct packet_mreq all = {
        .mr_ifindex = sa.sll_ifindex,
        .mr_type = PACKET_MR_PROMISC,
    };
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int on = 1, bytes = 8 << 20;

    if (!sa.sll_ifindex || fd < 0 ||
        setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)) < 0 ||
        setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on,
                   sizeof(on)) < 0 ||
        setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all,
                   sizeof(all)) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes)) < 0 ||
        bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
        die(name);
    }
    return fd;
}

/* Queue what is there. All frames are as long under way, so in order. */
static void take(int fd, int from, uint64_t delay_ns)
{
    static uint8_t buf[RELAY_FRAME_BYTES];

    for (int i = 0; i < RELAY_BATCH; i++) {
        ssize_t n = recv(fd, buf, sizeof(buf), 0);
        struct frame *f;

        if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
            return;
        }
        if (n < 0 && errno == ENETDOWN) {
            continue; /* its interface was only just set up */
        }
        if (n < 0) {
            die("receiving");
        }
        if (under_way + n > RELAY_BYTES) {
            continue;
        }
        f = malloc(sizeof(*f) + n);
        if (!f) {
            die("frame");
        }
        *f = (struct frame) {
            .due_ns = now_ns() + delay_ns,
            .from = from,
            .bytes = n,
        };
        memcpy(f->data, buf, n);
        under_way += n;
        *last = f;
        last = &f->next;
    }
}

static void give(const int *fd, int nr)
{
    uint64_t now = now_ns();

    while (first && first->due_ns <= now) {
        struct frame *f = first;

        for (int i = 0; i < nr; i++) {
            /* What a full interface does not take is lost. */
            if (i != f->from && send(fd[i], f->data, f->bytes, 0) < 0 &&
                errno != EAGAIN && errno != ENOBUFS && errno != ENETDOWN) {
                die("sending");
            }
        }
        first = f->next;
        if (!first) {
            last = &first;
        }
        under_way -= f->bytes;
        free(f);
    }
}

int main(int argc, char **argv)
{
    struct pollfd p[1 + RELAY_INTERFACES] = {
        { .fd = STDIN_FILENO, .events = POLLIN },
    };
    int fd[RELAY_INTERFACES];
    int nr = argc - 2;
    uint64_t delay_ns;

    if (nr < 2 || nr > RELAY_INTERFACES) {
        fprintf(stderr, "usage: relay DELAY_US INTERFACE INTERFACE...\n");
        return 2;
    }
    delay_ns = strtoull(argv[1], NULL, 10) * 1000;
    prctl(PR_SET_TIMERSLACK, 1);
    for (int i = 0; i < nr; i++) {
        fd[i] = open_interface(argv[2 + i]);
        p[1 + i] = (struct pollfd) { .fd = fd[i], .events = POLLIN };
    }
    printf("ready\n");
    fflush(stdout);
    while (!p[0].revents) {
        uint64_t now = now_ns();
        uint64_t wait_ns = !first                 ? NSEC_PER_SEC
                           : first->due_ns <= now ? 0
                                                  : first->due_ns - now;
        struct timespec ts = {
            .tv_sec = wait_ns / NSEC_PER_SEC,
            .tv_nsec = wait_ns % NSEC_PER_SEC,
        };

        if (ppoll(p, 1 + nr, &ts, NULL) < 0 && errno != EINTR) {
            die("ppoll");
        }
        for (int i = 0; i < nr; i++) {
            if (p[1 + i].revents) {
                take(fd[i], i, delay_ns);
            }
        }
        give(fd, nr);
    }
    return 0;
}
