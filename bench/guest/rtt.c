/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Round trips over the fabric, timed from inside a guest.
 *
 *   rtt serve PORT               answer user messages on PORT until told to stop
 *   rtt measure NODE PORT COUNT  print COUNT samples of each kind, in ns:
 *                                "rtt KIND NS NS ...", many lines a kind, and
 *                                stop the server
 *   rtt user NODE PORT COUNT     the same of kind user only; the server stays
 *   rtt stop NODE PORT           stop the server
 *
 * The kinds take turns in short blocks, so that a drift of the machine's
 * speed touches all of them alike. Kinds: kernel (answered by the peer's
 * kernel), doorbell, echo (the floor: a queue kick answered by an eventfd in
 * another process), user (answered by `rtt serve` there).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include <linux/chimera.h>

#define BLOCK 100
#define REPLY_TIMEOUT_NS 2000000000ll
#define CONNECT_TIMEOUT_NS 20000000000ll

static int device;

static void die(const char *what)
{
    fprintf(stderr, "rtt: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

static int send_to(unsigned node, unsigned port, const void *data, size_t len)
{
    struct chimera_msg msg = {
        .buf = (uintptr_t)data,
        .len = len,
        .node = node,
        .port = port,
        .timeout_ns = REPLY_TIMEOUT_NS,
    };

    return ioctl(device, CHIMERA_IOC_SEND, &msg);
}

static int receive(void *data, size_t room, int64_t timeout_ns,
                   struct chimera_msg *ret_msg)
{
    *ret_msg = (struct chimera_msg) {
        .buf = (uintptr_t)data,
        .len = room,
        .timeout_ns = timeout_ns,
    };
    return ioctl(device, CHIMERA_IOC_RECV, ret_msg);
}

static int serve(unsigned port)
{
    struct chimera_bind bind = { .port = port };
    char data[CHIMERA_MSG_BYTES];
    struct chimera_msg msg;

    if (ioctl(device, CHIMERA_IOC_BIND, &bind) < 0) {
        die("bind");
    }
    for (;;) {
        if (receive(data, sizeof(data), -1, &msg) < 0) {
            die("receive");
        }
        if (msg.len == 4 && !memcmp(data, "stop", 4)) {
            return 0;
        }
        if (send_to(msg.node, msg.port, data, msg.len) < 0) {
            die("answer");
        }
    }
}

static void print_block(const char *kind, const uint64_t *ns)
{
    printf("rtt %s", kind);
    for (int i = 0; i < BLOCK; i++) {
        printf(" %llu", (unsigned long long)ns[i]);
    }
    putchar('\n');
}

static int kernel_block(unsigned node, unsigned kind, uint64_t *ns)
{
    struct chimera_ping ping = {
        .node = node,
        .kind = kind,
        .count = BLOCK,
        .bytes = kind == CHIMERA_PING_KERNEL ? 16 : 0,
        .samples = (uintptr_t)ns,
    };

    return ioctl(device, CHIMERA_IOC_PING, &ping);
}

static void user_block(unsigned node, unsigned port, uint64_t *ns)
{
    char data[16] = "ping";
    struct chimera_msg msg;

    for (int i = 0; i < BLOCK; i++) {
        uint64_t start = now_ns();

        if (send_to(node, port, data, sizeof(data)) < 0) {
            die("send");
        }
        if (receive(data, sizeof(data), REPLY_TIMEOUT_NS, &msg) < 0) {
            die("receive");
        }
        ns[i] = now_ns() - start;
    }
}

/* The server may still be starting: refused until it is bound. */
static void await_server(unsigned node, unsigned port)
{
    uint64_t end = now_ns() + CONNECT_TIMEOUT_NS;
    char data[4] = "helo";
    struct chimera_msg msg;

    for (;;) {
        int ret = send_to(node, port, data, sizeof(data));

        if (ret == 0) {
            ret = receive(data, sizeof(data), 100000000, &msg);
        }
        if (ret == 0) {
            return;
        }
        if ((errno != ECONNREFUSED && errno != ETIMEDOUT) ||
            now_ns() > end) {
            die("server");
        }
    }
}

static void connect_to(unsigned node, unsigned port)
{
    struct chimera_bind bind = { .port = 0 };

    if (ioctl(device, CHIMERA_IOC_BIND, &bind) < 0) {
        die("bind");
    }
    await_server(node, port);
}

static int stop(unsigned node, unsigned port)
{
    if (send_to(node, port, "stop", 4) < 0) {
        die("stop");
    }
    return 0;
}

/* The first blocks only warm up. */
static void measure_user(unsigned node, unsigned port, unsigned count)
{
    uint64_t ns[BLOCK];

    for (unsigned done = 0; done < count + BLOCK; done += BLOCK) {
        user_block(node, port, ns);
        if (done) {
            print_block("user", ns);
        }
    }
}

static void measure(unsigned node, unsigned port, unsigned count)
{
    static const char *const names[] = { "kernel", "echo", "doorbell" };
    static const unsigned kinds[] = {
        CHIMERA_PING_KERNEL, CHIMERA_PING_ECHO, CHIMERA_PING_DOORBELL
    };
    uint64_t ns[BLOCK];

    for (unsigned done = 0; done < count + BLOCK; done += BLOCK) {
        for (int k = 0; k < 3; k++) {
            if (kernel_block(node, kinds[k], ns) < 0) {
                die(names[k]);
            }
            if (done) {
                print_block(names[k], ns);
            }
        }
        user_block(node, port, ns);
        if (done) {
            print_block("user", ns);
        }
    }
}

int main(int argc, char **argv)
{
    device = open("/dev/chimera", O_RDWR | O_CLOEXEC);
    if (device < 0) {
        die("/dev/chimera");
    }
    if (argc == 3 && !strcmp(argv[1], "serve")) {
        return serve(atoi(argv[2]));
    }
    if (argc == 5 && !strcmp(argv[1], "measure")) {
        connect_to(atoi(argv[2]), atoi(argv[3]));
        measure(atoi(argv[2]), atoi(argv[3]), atoi(argv[4]));
        return stop(atoi(argv[2]), atoi(argv[3]));
    }
    if (argc == 5 && !strcmp(argv[1], "user")) {
        connect_to(atoi(argv[2]), atoi(argv[3]));
        measure_user(atoi(argv[2]), atoi(argv[3]), atoi(argv[4]));
        return 0;
    }
    if (argc == 4 && !strcmp(argv[1], "stop")) {
        return stop(atoi(argv[2]), atoi(argv[3]));
    }
    fprintf(stderr, "usage: rtt serve PORT | rtt measure|user NODE PORT COUNT "
                    "| rtt stop NODE PORT\n");
    return 2;
}
