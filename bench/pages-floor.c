/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "pages-floor.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/param.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "uffd.h"

#define PAGE 4096
#define HEADER_BYTES 32

struct floor {
    int pages, uffd, socket;
    bool spin, upgrade;
    uint8_t *memory, *alias;
    pthread_t thread;
    int stop_fd;
    _Atomic bool stop;
    pid_t pid;
};

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * UINT64_C(1000000000) + ts.tv_nsec;
}

static void tcp_pair(int fd[2])
{
    struct sockaddr_in sa = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    socklen_t len = sizeof(sa);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

    fd[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || fd[0] < 0 ||
        bind(listener, (struct sockaddr *)&sa, len) < 0 ||
        getsockname(listener, (struct sockaddr *)&sa, &len) < 0 ||
        listen(listener, 1) < 0 ||
        connect(fd[0], (struct sockaddr *)&sa, len) < 0) {
        fail("tcp");
    }
    fd[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd[1] < 0) {
        fail("accept");
    }
    close(listener);
    for (int i = 0; i < 2; i++) {
        setsockopt(fd[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    }
}

static void pair(int fd[2], bool tcp)
{
    if (tcp) {
        tcp_pair(fd);
    } else if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) < 0) {
        fail("socketpair");
    }
}

/* Return: false: the other end is closed. */
static bool receive(int fd, void *buf, size_t bytes, bool spin)
{
    for (size_t have = 0; have < bytes;) {
        ssize_t n = recv(fd, (uint8_t *)buf + have, bytes - have,
                         spin ? MSG_DONTWAIT : 0);

        if (n > 0) {
            have += n;
        } else if (n == 0 || errno != EAGAIN) {
            return false;
        }
    }
    return true;
}

/* The peer: a header comes, a header goes, or with a page behind it. */
static void serve(int fd, bool spin)
{
    static uint8_t page[PAGE];
    uint8_t header[HEADER_BYTES];
    struct iovec iov[2] = {
        { header, sizeof(header) },
        { page, sizeof(page) },
    };

    while (receive(fd, header, sizeof(header), spin)) {
        if (writev(fd, iov, header[0] ? 1 : 2) < 0) {
            break;
        }
    }
    _exit(0);
}

static void serve_fault(struct floor *f, const struct dsm__fault *fault)
{
    size_t at = (fault->address - (uintptr_t)f->memory) & -(size_t)PAGE;
    uint8_t buf[HEADER_BYTES + PAGE] = { f->upgrade };
    int ret;

    if (send(f->socket, buf, HEADER_BYTES, 0) < 0 ||
        !receive(f->socket, buf, HEADER_BYTES + (f->upgrade ? 0 : PAGE),
                 f->spin)) {
        fail("floor");
    }
    if (f->upgrade) {
        ret = dsm__uffd_unprotect(f->uffd, f->memory + at, PAGE);
    } else {
        memcpy(f->alias + at, buf + HEADER_BYTES, PAGE);
        ret = dsm__uffd_map(f->uffd, f->memory + at, PAGE, PAGE, false);
    }
    if (ret < 0) {
        errno = -ret;
        fail("userfaultfd");
    }
}

static void *serve_faults(void *arg)
{
    struct floor *f = arg;
    struct dsm__fault faults[DSM__FAULTS];
    struct pollfd pfd[2] = {
        { .fd = f->uffd, .events = POLLIN },
        { .fd = f->stop_fd, .events = POLLIN },
    };

    while (!f->stop) {
        if (!f->spin) {
            poll(pfd, 2, -1);
        }
        for (int i = 0, nr = dsm__uffd_read(f->uffd, faults); i < nr; i++) {
            serve_fault(f, &faults[i]);
        }
    }
    return NULL;
}

static void pin(enum placement placement, int process)
{
    cpu_set_t set;
    int nr = sysconf(_SC_NPROCESSORS_ONLN);

    CPU_ZERO(&set);
    for (int i = 0; i < nr; i++) {
        if (placement == ANYWHERE ||
            i == (placement == ONE_CORE ? 0 : process % nr)) {
            CPU_SET(i, &set);
        }
    }
    sched_setaffinity(0, sizeof(set), &set);
}

struct floor *floor_begin(int pages, bool tcp, bool spin,
                          enum placement placement)
{
    struct floor *f = calloc(1, sizeof(*f));
    size_t bytes = (size_t)pages * PAGE;
    const char *why = "";
    int fd[2], memfd;

    pair(fd, tcp);
    f->pid = fork();
    if (f->pid < 0) {
        fail("fork");
    }
    if (f->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(fd[0]);
        pin(placement, 1);
        serve(fd[1], spin);
    }
    close(fd[1]);
    f->pages = pages;
    f->spin = spin;
    f->socket = fd[0];
    memfd = memfd_create("floor", MFD_CLOEXEC);
    if (memfd < 0 || ftruncate(memfd, bytes) < 0) {
        fail("memfd");
    }
    f->memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    f->alias = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    close(memfd);
    f->uffd = dsm__uffd_open(&why);
    if (f->memory == MAP_FAILED || f->alias == MAP_FAILED || f->uffd < 0 ||
        dsm__uffd_register(f->uffd, f->memory, bytes, true) < 0) {
        fail(why);
    }
    memset(f->alias, 1, bytes);
    f->stop_fd = eventfd(0, EFD_CLOEXEC);
    if (pthread_create(&f->thread, NULL, serve_faults, f) != 0) {
        fail("pthread_create");
    }
    return f;
}

void floor_prepare(struct floor *f, bool upgrade)
{
    size_t bytes = (size_t)f->pages * PAGE;

    f->upgrade = upgrade;
    if (dsm__uffd_zap(f->memory, bytes) < 0 ||
        (upgrade && dsm__uffd_map(f->uffd, f->memory, bytes, PAGE, false) < 0)) {
        fail("userfaultfd");
    }
}

uint64_t floor_fault(struct floor *f, int page, bool upgrade)
{
    volatile uint64_t *at = (uint64_t *)(f->memory + (size_t)page * PAGE);
    uint64_t begin = now_ns();

    if (upgrade) {
        *at = begin;
    } else {
        (void)*at;
    }
    return now_ns() - begin;
}

void floor_end(struct floor *f)
{
    uint64_t one = 1;

    f->stop = true;
    (void)!write(f->stop_fd, &one, sizeof(one));
    pthread_join(f->thread, NULL);
    close(f->socket);
    waitpid(f->pid, NULL, 0);
    close(f->uffd);
    close(f->stop_fd);
    munmap(f->memory, (size_t)f->pages * PAGE);
    munmap(f->alias, (size_t)f->pages * PAGE);
    free(f);
}

/* @bytes of memory, there already. */
static uint8_t *memory(size_t bytes)
{
    uint8_t *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED) {
        fail("mmap");
    }
    madvise(p, bytes, MADV_NOHUGEPAGE);
    memset(p, 1, bytes);
    return p;
}

double floor_bulk(size_t bytes, size_t span, bool tcp)
{
    size_t chunk = MIN(span, 131072), done = 0;
    uint64_t begin;
    uint8_t *buf;
    int fd[2];
    pid_t pid;

    pair(fd, tcp);
    pid = fork();
    buf = memory(span); /* not a copy of the other's */
    if (pid == 0) {
        close(fd[0]);
        /* ready; then the word to begin */
        if (send(fd[1], buf, 1, 0) != 1 || recv(fd[1], buf, 1, 0) != 1) {
            _exit(1);
        }
        while (done < bytes) {
            size_t at = done % span;
            ssize_t n = send(fd[1], buf + at, MIN(chunk, span - at), 0);

            if (n < 0) {
                _exit(1);
            }
            done += n;
        }
        _exit(0);
    }
    close(fd[1]);
    if (recv(fd[0], buf, 1, 0) != 1) {
        fail("recv");
    }
    begin = now_ns();
    if (send(fd[0], buf, 1, 0) != 1) {
        fail("send");
    }
    while (done < bytes) {
        size_t at = done % span;
        ssize_t n = recv(fd[0], buf + at, MIN(chunk, span - at), 0);

        if (n <= 0) {
            fail("recv");
        }
        done += n;
    }
    begin = now_ns() - begin;
    close(fd[0]);
    waitpid(pid, NULL, 0);
    munmap(buf, span);
    return bytes * 1e3 / begin;
}
