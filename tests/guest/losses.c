/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A node dies. The follower's node prints "kill node N now" on its standard
 * output and expects whoever runs the test to kill its QEMU with SIGKILL; the
 * leader then checks that the rest of the machine noticed and goes on.
 */
#include "harness.h"

#include <pthread.h>

#define RW (PROT_READ | PROT_WRITE)
#define SIZE (2000 * PAGE)

static unsigned self;

struct work {
    pthread_t thread;
    int fd;
    long result;
    int64_t ended;
};

/* Nobody takes these: the window fills and the sender waits. */
static void *sends(void *arg)
{
    struct work *w = arg;
    char buf[1000] = { 0 };

    do {
        w->result = msg_send(w->fd, peer, 4000, buf, sizeof(buf), 0, -1);
    } while (!w->result);
    w->ended = now_ns();
    return NULL;
}

static void *pings(void *arg)
{
    static uint64_t ns[1000000];
    struct work *w = arg;
    struct chimera_ping req = { .node = peer,
                                .kind = CHIMERA_PING_KERNEL,
                                .count = 1000000,
                                .samples = (uintptr_t)ns };

    do {
        w->result = sys(ioctl(dev, CHIMERA_IOC_PING, &req));
    } while (!w->result);
    w->ended = now_ns();
    return NULL;
}

static void *reads_memory(void *arg)
{
    struct work *w = arg;

    do {
        w->result = slurp(SYSFS "/node%d/mem_free_kb", peer)[0];
    } while (w->result);
    w->ended = now_ns();
    return NULL;
}

static void start(struct work *w, void *(*fn)(void *))
{
    if (pthread_create(&w->thread, NULL, fn, w)) {
        die("pthread_create");
    }
}

/* A child that touches one new page after the other until it gets SIGBUS. */
static pid_t touches(int fd)
{
    pid_t pid;

    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        struct timespec pause = { .tv_nsec = 2000000 };
        volatile uint64_t *at = mmap(NULL, SIZE, RW, MAP_SHARED, fd, 0);

        signal(SIGBUS, SIG_DFL);
        /* not all pages before the node dies: that is what this is about */
        for (size_t i = 0;; i = (i + 1) % (SIZE / PAGE)) {
            at[i * PAGE / 8] = i;
            nanosleep(&pause, NULL);
        }
    }
    return pid;
}

static const char *state(void)
{
    return slurp(SYSFS "/node%d/state", peer);
}

/* Wait for the state to change; returns when it did. */
static void wait_state(int fd, const char *want, int64_t until)
{
    char buf[16];

    while (strcmp(state(), want)) {
        struct pollfd p = { .fd = fd, .events = POLLPRI };
        int64_t left = (until - now_ns()) / 1000000;

        if (left <= 0 || poll(&p, 1, left) <= 0) {
            break;
        }
        check(p.revents & POLLPRI, "poll of state says %x", p.revents);
        if (pread(fd, buf, sizeof(buf), 0) < 0) {
            die("state: %s", strerror(errno));
        }
    }
    check(!strcmp(state(), want), "state is %s, not %s", state(), want);
}

static int lines(const char *path, const char *start_of_line)
{
    char line[16384];
    int n = 0;
    FILE *f = fopen(path, "r");

    while (f && fgets(line, sizeof(line), f)) {
        n += !strncmp(line, start_of_line, strlen(start_of_line));
    }
    if (f) {
        fclose(f);
    }
    return n;
}

static int follow_and_die(void)
{
    struct order_msg m;

    dev = endpoint(FOLLOW_PORT);
    /* receives the rest of the orders until "die" */
    for (;;) {
        struct result_msg r = { 0 };
        unsigned node = 0, port = 0;

        if (msg_recv(dev, &m, sizeof(m), &node, &port, 0, 120 * SECOND) !=
            sizeof(m)) {
            die("no order");
        }
        if (m.op == DO_EXIT) {
            printf("kill node %u now\n", self_node());
            fflush(stdout);
            for (;;) {
                pause();
            }
        }
        carry_out(&m, &r);
        if (msg_send(dev, node, port, &r, sizeof(r), 0, 20 * SECOND)) {
            die("cannot report");
        }
    }
}

int main(int argc, char **argv)
{
    struct work sender = { 0 }, pinger = { 0 }, reader = { 0 };
    int state_fd, status, cpus;
    long doomed, kept, rfd, later;
    uint64_t *at, *mine, value;
    struct chimera_seg_stat st;
    struct chimera_info info;
    int64_t rat, began, dead;
    pid_t child;
    char byte = 0;
    bool dsm;

    if (argc == 2 && !strcmp(argv[1], "follow")) {
        return follow_and_die();
    }
    if (argc != 3 || strcmp(argv[1], "lead")) {
        return usage(argv[0]);
    }
    lead(argv[2]);
    self = self_node();
    dsm = strcmp(slurp(SYSFS "/coherence"), "shared");
    cpus = lines("/proc/chimera/cpuinfo", "processor");

    /* its memory, mapped and partly touched here */
    rfd = there_named("doomed", DO_CREATE, .a = SIZE, .b = 0666,
                      .c = CHIMERA_SEG_PERSIST);
    check(rfd >= 0, "create there: %ld", rfd);
    rat = there(DO_MAP, .a = rfd, .b = SIZE, .c = RW);
    check_is(there(DO_FILL, .a = rat, .b = 8 * PAGE, .c = 1), 0, "fill there");
    doomed = seg_open("doomed", O_RDWR);
    check(doomed >= 0, "open: %ld", doomed);
    at = mmap(NULL, SIZE, RW, MAP_SHARED, doomed, 0);
    check_is(verify(at, 8 * PAGE, 1), 0, "words that differ");

    /* our memory, mapped there; the name has been seen there only */
    kept = seg_create("kept", SIZE, 0600, 0);
    rfd = there_named("kept", DO_OPEN, .a = O_RDWR);
    rat = there(DO_MAP, .a = rfd, .b = SIZE, .c = RW);
    check_is(there(DO_FILL, .a = rat, .b = SIZE, .c = 2), 0, "fill there");
    check_is(atoi(slurp(SYSFS "/segments/kept/attached")), peer, "attached");

    /* what waits for it when it dies */
    check(there(DO_BIND, .a = 4000) >= 0, "bind there");
    sender.fd = endpoint(4001);
    start(&sender, sends);
    start(&pinger, pings);
    start(&reader, reads_memory);
    child = touches(doomed);

    state_fd = open(SYSFS "/node1/state", O_RDONLY);
    if (peer != 1) {
        char path[64];

        close(state_fd);
        snprintf(path, sizeof(path), SYSFS "/node%d/state", peer);
        state_fd = open(path, O_RDONLY);
    }
    if (state_fd < 0 || pread(state_fd, &byte, 1, 0) != 1) {
        die("state: %s", strerror(errno));
    }
    began = now_ns();
    dismiss();
    wait_state(state_fd, "fenced", began + 20 * SECOND);
    dead = now_ns();

    /* everybody who waited was told */
    pthread_join(sender.thread, NULL);
    pthread_join(pinger.thread, NULL);
    pthread_join(reader.thread, NULL);
    check_is(sender.result, -EHOSTDOWN, "sender");
    check_is(pinger.result, -EHOSTDOWN, "ping");
    check_is(waitpid(child, &status, 0), child, "wait");
    check(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS,
          "child that touches pages: status %x", status);
    check(now_ns() - dead < 2 * SECOND, "telling took %lld ms",
          (long long)(now_ns() - dead) / 1000000);

    /* its memory is gone */
    check_is(peek(at, &value), SIGNALLED(SIGBUS), "touched page");
    check_is(poke(at, 1), SIGNALLED(SIGBUS), "touched page, write");
    check_is(peek(at + (SIZE - PAGE) / 8, &value), SIGNALLED(SIGBUS),
             "untouched page");
    check_is(write(STDERR_FILENO, at, 8), -1, "system call on its memory");
    check_is(errno, EFAULT, "system call on its memory");
    check_is(seg_stat(doomed, &st), 0, "stat");
    later = sys((long)mmap(NULL, PAGE, RW, MAP_SHARED, doomed, 0));
    if (later != -1) {
        check_is(peek((void *)later, &value), SIGNALLED(SIGBUS), "new mapping");
    }

    /* its names are gone, and free */
    check(!slurp(SYSFS "/segments/doomed/size")[0], "name is shown");
    later = seg_open("doomed", O_RDWR);
    check(later == -ENOENT || later == -EHOSTDOWN, "open: %ld", later);
    later = seg_create("doomed", PAGE, 0600, 0);
    check(later >= 0, "create again: %ld", later);
    close(later);

    /* what it had of ours is ours again, or lost */
    mine = mmap(NULL, SIZE, RW, MAP_SHARED, kept, 0);
    fflush(stdout);
    child = fork();
    if (child == 0) {
        signal(SIGBUS, SIG_DFL);
        _exit(mine[0] != pattern(2, 0));
    }
    check_is(waitpid(child, &status, 0), child, "wait");
    check_is(status, dsm ? SIGBUS : 0, "child that reads what may be lost");
    check_is(verify_lost(mine, SIZE, 2), dsm ? SIZE / PAGE : 0, "lost pages");
    check(!slurp(SYSFS "/segments/kept/attached")[0], "attached: %s",
          slurp(SYSFS "/segments/kept/attached"));

    /* nothing waits for it any more */
    began = now_ns();
    check_is(msg_send(sender.fd, peer, 4000, &byte, 1, 0, -1), -EHOSTDOWN,
             "send");
    check_is(msg_send(sender.fd, self, 4001, &byte, 1, 0, SECOND), 0,
             "send to oneself");
    check_is(msg_recv(sender.fd, &byte, 1, NULL, NULL, 0, SECOND), 1,
             "receive from oneself");
    check(!slurp(SYSFS "/node%d/mem_total_kb", peer)[0], "it answers");
    check(lines("/proc/chimera/cpuinfo", "processor") < cpus &&
              lines("/proc/chimera/cpuinfo", "processor") > 0,
          "%d processors", lines("/proc/chimera/cpuinfo", "processor"));
    check_is(sys(ioctl(dev, CHIMERA_IOC_INFO, &info)), 0, "INFO");
    check(!(info.up_mask >> peer & 1) && info.up_mask >> self & 1, "up mask");
    check(now_ns() - began < SECOND, "asking took %lld ms",
          (long long)(now_ns() - began) / 1000000);
    munmap(at, SIZE);
    munmap(mine, SIZE);
    close(doomed);
    close(kept);
    check(!slurp(SYSFS "/segments/kept/size")[0], "kept is kept");
    return report();
}
