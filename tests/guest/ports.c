/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Messages between programs: order, back-pressure, ends. */
#include "harness.h"

#include <pthread.h>

#define HERE 3000
#define FAR 3001

static unsigned self;

static int events(int fd, short want, int timeout_ms)
{
    struct pollfd p = { .fd = fd, .events = want };

    return poll(&p, 1, timeout_ms) > 0 ? p.revents : 0;
}

static void test_bind(void)
{
    int a = open("/dev/chimera", O_RDWR), b = open("/dev/chimera", O_RDWR);
    unsigned port = HERE, other = HERE, any = 0;
    char byte;

    check_is(msg_recv(a, &byte, 1, NULL, NULL, 0, 0), -ENOTCONN, "unbound");
    check_is(port_bind(a, &port), 0, "bind");
    check_is(port, HERE, "port");
    check_is(port_bind(a, &port), -EINVAL, "bind twice");
    check_is(port_bind(b, &other), -EADDRINUSE, "bind the same");
    check_is(port_bind(b, &any), 0, "bind any");
    check(any >= 32768 && any <= 65535, "any port is %u", any);
    close(a);
    close(b);
    a = open("/dev/chimera", O_RDWR);
    check_is(port_bind(a, &port), 0, "bind after close");
    close(a);
}

/* Every size arrives whole, with the right sender. */
static void test_sizes(unsigned node)
{
    int rx = endpoint(HERE), tx = endpoint(FAR);
    static const unsigned sizes[] = {
        0, 1, 7, 8, 9, 63, 64, 65, 1000, 3967, CHIMERA_MSG_BYTES
    };
    char out[CHIMERA_MSG_BYTES + 1], in[CHIMERA_MSG_BYTES + 1];
    unsigned from = 0, port = 0;

    for (size_t i = 0; i < sizeof(out); i++) {
        out[i] = i * 7 + 3;
    }
    if (node == self) {
        for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
            check_is(msg_send(tx, node, HERE, out, sizes[i], 0, SECOND), 0,
                     "send %u", sizes[i]);
            memset(in, 0, sizeof(in));
            check_is(msg_recv(rx, in, sizeof(in), &from, &port, 0, SECOND),
                     sizes[i], "receive %u", sizes[i]);
            check(!memcmp(in, out, sizes[i]) && !in[sizes[i]],
                  "%u bytes differ", sizes[i]);
            check(from == node && port == FAR, "from %u:%u", from, port);
        }
    }
    check_is(msg_send(tx, node, HERE, out, sizeof(out), 0, SECOND), -EMSGSIZE,
             "too long");

    /* a message that does not fit stays */
    if (node == self) {
        struct chimera_msg msg = { .buf = (uintptr_t)in, .len = 10 };

        check_is(msg_send(tx, node, HERE, out, 100, 0, SECOND), 0, "send");
        check_is(sys(ioctl(rx, CHIMERA_IOC_RECV, &msg)), -EMSGSIZE, "short");
        check_is(msg.len, 100, "need");
        check_is(msg_recv(rx, (void *)8, 200, NULL, NULL, 0, SECOND), -EFAULT,
                 "bad pointer");
        check_is(msg_recv(rx, in, 100, NULL, NULL, 0, SECOND), 100, "stays");
        check(!memcmp(in, out, 100), "bytes differ");
    }
    close(rx);
    close(tx);
}

static void test_stream(void)
{
    long far = there(DO_BIND, .a = FAR);
    int rx = endpoint(HERE);

    for (size_t bytes = 8; bytes <= CHIMERA_MSG_BYTES; bytes *= 7) {
        /* far more than the window: the sender must wait for us */
        order_send((struct order_msg){ .op = DO_SEND,
                                       .a = far,
                                       .b = self << 16 | HERE,
                                       .c = 3000,
                                       .d = bytes });
        check_is(recv_stream(rx, 0, 3000, bytes), 0, "stream of %zu bytes",
                 bytes);
        check_is(order_result().ret, 0, "sender");
        /* and the other way */
        order_send((struct order_msg){
            .op = DO_RECV, .a = far, .b = 0, .c = 3000, .d = bytes });
        check_is(send_stream(rx, peer, FAR, 3000, bytes), 0, "send");
        check_is(order_result().ret, 0, "stream there");
    }
    there(DO_CLOSE, .a = far);
    close(rx);
}

/* Nobody receives: the window fills, and nothing is lost. */
static void test_back_pressure(void)
{
    long far = there(DO_BIND, .a = FAR), sent = 0, err;
    uint64_t buf[CHIMERA_MSG_BYTES / 8] = { 0 };
    int tx = endpoint(HERE);
    int64_t start;
    unsigned other;

    check_is(msg_send(tx, peer, FAR, buf, 8, CHIMERA_MSG_DONTWAIT, 0), -EAGAIN,
             "first send without waiting");
    check(events(tx, POLLOUT, 5000) & POLLOUT, "never writable");
    for (;;) {
        fill(buf, sizeof(buf), sent);
        buf[0] = sent;
        err = msg_send(tx, peer, FAR, buf, sizeof(buf), CHIMERA_MSG_DONTWAIT,
                       0);
        if (err == -EAGAIN && events(tx, POLLOUT, 200) & POLLOUT) {
            continue; /* the device was busy, not the window full */
        }
        if (err) {
            break;
        }
        sent++;
    }
    check_is(err, -EAGAIN, "full window");
    check(sent >= 8 && sent <= 64, "%ld messages fit", sent);
    check(!(events(tx, POLLOUT, 0) & POLLOUT), "writable though full");
    start = now_ns();
    check_is(msg_send(tx, peer, FAR, buf, sizeof(buf), 0, SECOND / 5),
             -ETIMEDOUT, "send with a limit");
    check(now_ns() - start >= SECOND / 5 && now_ns() - start < 2 * SECOND,
          "limit of 200 ms took %lld ms",
          (long long)(now_ns() - start) / 1000000);
    /* another pair is not held up */
    other = there(DO_BIND, .a = FAR + 1);
    check_is(msg_send(tx, peer, FAR + 1, buf, 8, 0, SECOND), 0, "other pair");
    there(DO_CLOSE, .a = other);

    /* as it is taken, more fits; the message that timed out is not there */
    check_is(there(DO_RECV, .a = far, .b = 0, .c = sent / 2, .d = sizeof(buf)),
             0, "first half");
    check(events(tx, POLLOUT, 5000) & POLLOUT, "half drained and full");
    check_is(there(DO_RECV, .a = far, .b = sent / 2, .c = sent - sent / 2,
                   .d = sizeof(buf)),
             0, "second half");
    there(DO_CLOSE, .a = far);
    close(tx);
}

struct waiter {
    int fd;
    unsigned node, port;
    long result;
    bool receive;
};

static void *wait_in_send(void *arg)
{
    struct waiter *w = arg;
    char buf[CHIMERA_MSG_BYTES] = { 0 };

    if (w->receive) {
        w->result = msg_recv(w->fd, buf, sizeof(buf), NULL, NULL, 0,
                             20 * SECOND);
        return NULL;
    }
    do {
        w->result = msg_send(w->fd, w->node, w->port, buf, sizeof(buf), 0,
                             20 * SECOND);
    } while (!w->result);
    return NULL;
}

/* The receiver goes while a sender waits. */
static void test_reset(unsigned node)
{
    long far = node == self ? endpoint(FAR) : there(DO_BIND, .a = FAR);
    struct waiter w = { .fd = endpoint(HERE), .node = node, .port = FAR };
    struct pollfd none = { .fd = -1 };
    pthread_t thread;
    char byte = 0;

    check_is(msg_send(w.fd, node, 9, &byte, 1, 0, SECOND), -ECONNREFUSED,
             "nobody there");
    check_is(msg_send(w.fd, node, 9, &byte, 1, 0, SECOND), -ECONNREFUSED,
             "nobody there, again");
    pthread_create(&thread, NULL, wait_in_send, &w);
    poll(&none, 1, 100); /* more likely that it waits; right either way */
    if (node == self) {
        close(far);
    } else {
        there(DO_CLOSE, .a = far);
    }
    pthread_join(thread, NULL);
    check_is(w.result, -ECONNREFUSED, "sender when the receiver went");

    /* a new receiver there is another one, and reachable */
    far = node == self ? endpoint(FAR) : there(DO_BIND, .a = FAR);
    check_is(msg_send(w.fd, node, FAR, &byte, 1, 0, SECOND), 0, "new receiver");
    if (node == self) {
        check_is(msg_recv(far, &byte, 1, NULL, NULL, 0, SECOND), 1, "receive");
        close(far);
    } else {
        there(DO_CLOSE, .a = far);
    }
    /* POLLERR until the next call */
    check(events(w.fd, 0, 5000) & POLLERR, "no POLLERR");
    check_is(msg_send(w.fd, node, FAR, &byte, 1, 0, SECOND), -ECONNREFUSED,
             "send after that");
    check(!(events(w.fd, 0, 0) & POLLERR), "POLLERR stays");
    close(w.fd);
}

/* What a sender sent before it closed can still be received. */
static void test_close_behind(void)
{
    long far = there(DO_BIND, .a = FAR);
    int rx = endpoint(HERE);

    check_is(there(DO_SEND, .a = far, .b = self << 16 | HERE, .c = 5, .d = 64),
             0, "send there");
    check_is(there(DO_CLOSE, .a = far), 0, "close there");
    check_is(recv_stream(rx, 0, 5, 64), 0, "receive after close");
    check_is(msg_recv(rx, NULL, 0, NULL, NULL, CHIMERA_MSG_DONTWAIT, 0),
             -EAGAIN, "nothing more");
    check_is(msg_recv(rx, NULL, 0, NULL, NULL, 0, SECOND / 10), -ETIMEDOUT,
             "receive with a limit");
    close(rx);
}

static volatile sig_atomic_t alarms;

static void on_alarm(int sig)
{
    (void)sig;
    alarms++;
}

static void test_interrupted(void)
{
    struct sigaction sa = { .sa_handler = on_alarm };
    int rx = endpoint(HERE);
    char byte;

    sigaction(SIGALRM, &sa, NULL);
    alarm(1);
    check_is(msg_recv(rx, &byte, 1, NULL, NULL, 0, -1), -EINTR, "signal");
    check_is(alarms, 1, "signals");
    close(rx);
}

/* Many senders to one receiver, from both nodes: none starves, none is lost. */
static void test_many(void)
{
    enum { SENDERS = 12, EACH = 400 };
    int rx = endpoint(HERE), count[SENDERS] = { 0 }, wrong = 0, status;
    long far = there(DO_BIND, .a = FAR);

    order_send((struct order_msg){ .op = DO_SEND,
                                   .a = far,
                                   .b = self << 16 | HERE,
                                   .c = 2000,
                                   .d = 16 });
    fflush(stdout);
    for (int s = 0; s < SENDERS; s++) {
        if (fork() == 0) {
            int fd = open("/dev/chimera", O_RDWR);

            for (uint64_t i = 0; i < EACH; i++) {
                uint64_t word[3] = { i, s, 0 };

                if (msg_send(fd, self, HERE, word, 24, 0, 20 * SECOND)) {
                    _exit(1);
                }
            }
            _exit(0);
        }
    }
    for (int i = 0; i < SENDERS * EACH + 2000; i++) {
        uint64_t word[3];
        unsigned node = 0;
        long n = msg_recv(rx, word, sizeof(word), &node, NULL, 0, 20 * SECOND);

        if (n == 24 && word[1] < SENDERS && node == self) {
            wrong += word[0] != (uint64_t)count[word[1]]++;
        } else {
            wrong += n != 16 || node == self;
        }
    }
    for (int s = 0; s < SENDERS; s++) {
        wrong += wait(&status) < 0 || status || count[s] != EACH;
    }
    check_is(wrong, 0, "messages lost, doubled or out of order");
    check_is(order_result().ret, 0, "sender there");
    there(DO_CLOSE, .a = far);
    close(rx);
}

static void *refused_main(void *arg)
{
    struct waiter *w = arg;
    char byte = 0;

    for (int i = 0; i < 100 && w->result == -ECONNREFUSED; i++) {
        w->result = msg_send(w->fd, w->node, w->port, &byte, 1, 0,
                             20 * SECOND);
    }
    return NULL;
}

/* More askers than calls that a kernel has under way: none goes unanswered. */
static void test_first_sends(void)
{
    enum { ASKERS = 24 };
    struct waiter w[ASKERS];
    pthread_t thread[ASKERS];
    char before[256], path[64];

    snprintf(path, sizeof(path), "node%u/messages_dropped", self);
    snprintf(before, sizeof(before), "%s", order(NAMED(path, DO_SYSFS)).text);
    for (int i = 0; i < ASKERS; i++) {
        w[i] = (struct waiter){ .fd = endpoint(0),
                                .node = peer,
                                .port = 4000 + i,
                                .result = -ECONNREFUSED };
        pthread_create(&thread[i], NULL, refused_main, &w[i]);
    }
    for (int i = 0; i < ASKERS; i++) {
        pthread_join(thread[i], NULL);
        check_is(w[i].result, -ECONNREFUSED, "nobody at port %u", w[i].port);
        close(w[i].fd);
    }
    check(!strcmp(order(NAMED(path, DO_SYSFS)).text, before),
          "messages were dropped there");
}

/* Endpoints come and go; nothing of them may stay. */
static void test_churn(void)
{
    char byte = 1;

    for (int i = 0; i < 200; i++) {
        long far = there(DO_BIND, .a = FAR);
        int tx = endpoint(0);
        long err = msg_send(tx, peer, FAR, &byte, 1, 0, 5 * SECOND);

        if (err && !check(false, "round %d: %ld", i, err)) {
            break;
        }
        if (i % 2) {
            close(tx);
        }
        there(DO_CLOSE, .a = far);
        if (!(i % 2)) {
            close(tx);
        }
    }
    check(true, "churn");
}

static void test_bad_input(void)
{
    struct chimera_msg msg = { .node = self, .port = HERE };
    struct chimera_bind bind_req = { .port = 65536 };
    int fd = open("/dev/chimera", O_RDWR);

    check_is(sys(ioctl(fd, CHIMERA_IOC_BIND, &bind_req)), -EINVAL, "port");
    bind_req = (struct chimera_bind){ .reserved = 1 };
    check_is(sys(ioctl(fd, CHIMERA_IOC_BIND, &bind_req)), -EINVAL, "reserved");
    msg.reserved = 1;
    check_is(sys(ioctl(fd, CHIMERA_IOC_SEND, &msg)), -EINVAL, "reserved");
    check_is(sys(ioctl(fd, CHIMERA_IOC_RECV, &msg)), -EINVAL, "reserved");
    msg.reserved = 0;
    msg.flags = 2;
    check_is(sys(ioctl(fd, CHIMERA_IOC_SEND, &msg)), -EINVAL, "flags");
    check_is(sys(ioctl(fd, CHIMERA_IOC_RECV, &msg)), -EINVAL, "flags");
    check_is(msg_send(fd, 63, HERE, "", 1, 0, 0), -EINVAL, "node");
    check_is(msg_send(fd, 65535, HERE, "", 1, 0, 0), -EINVAL, "node");
    check_is(msg_send(fd, self, 0, "", 1, 0, 0), -EINVAL, "port 0");
    check_is(msg_send(fd, self, 70000, "", 1, 0, 0), -EINVAL, "port 70000");
    check_is(msg_send(fd, self, HERE, (void *)8, 100, 0, 0), -EFAULT, "buf");
    check_is(sys(ioctl(fd, CHIMERA_IOC_SEND, (void *)8)), -EFAULT, "pointer");
    check_is(sys(ioctl(fd, CHIMERA_IOC_RECV, (void *)8)), -EFAULT, "pointer");
    check_is(sys(ioctl(fd, 0xC5FF, &msg)), -ENOTTY, "unknown ioctl");
    close(fd);

    check_is(there(DO_UID, .a = 1000), 0, "become another user");
    check(there(DO_UID, .a = 0) == 0, "become root again");
    fflush(stdout);
    if (fork() == 0) {
        unsigned port = 1023, user = 1024;

        if (setuid(1000)) {
            _exit(1);
        }
        fd = open("/dev/chimera", O_RDWR);
        if (fd < 0) {
            _exit(2);
        }
        if (port_bind(fd, &port) != -EACCES) {
            _exit(3);
        }
        _exit(port_bind(fd, &user) ? 4 : 0);
    }
    int status;

    wait(&status);
    check_is(WEXITSTATUS(status), 0, "ports of the system");
}

int main(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "follow")) {
        return follow();
    }
    if (argc != 3 || strcmp(argv[1], "lead")) {
        return usage(argv[0]);
    }
    lead(argv[2]);
    self = self_node();
    test_bind();
    test_sizes(self);
    test_sizes(peer);
    test_stream();
    test_back_pressure();
    test_reset(self);
    test_reset(peer);
    test_close_behind();
    test_interrupted();
    test_many();
    test_first_sends();
    test_churn();
    test_bad_input();
    dismiss();
    return report();
}
