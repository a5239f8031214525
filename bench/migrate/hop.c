/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The program that `chimera bench hop` measures: prints a line "DEPTH NS..." a
 * call depth, the times of moves.
 *
 *   CHIMERA_TRANSPORT=self|pipe CHIMERA_EVERY=1 hop
 *   hop floor AARCH64-IMAGE    half a round trip of a message instead, to a
 *                              process that runs the image, as depth 1
 *   hop echo FD                that process
 */
#include <chimera.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAIRS 1000
#define MESSAGE_BYTES 72        /* of the pipe transport's messages */

extern char **environ;
static long sample[PAIRS];

static long now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000 + t.tv_nsec;
}

static void print(int depth)
{
    printf("%d", depth);
    for (int i = 0; i < PAIRS; i++) {
        printf(" %ld", sample[i]);
    }
    printf("\n");
}

static __attribute__((noinline)) double down(int depth, long a, long b, double x)
{
    double y = x * 1.5 + depth, r;
    long c = a * 3 + b;

    if (depth <= 1) {
        for (int i = 0; i < PAIRS; i++) {
            long start;

            if (chimera_here() != 0) {
                chimera_point();        /* the clock is home's */
            }
            start = now_ns();
            chimera_point();
            chimera_point();
            sample[i] = (now_ns() - start) / 2;
        }
        return x + a;
    }
    r = down(depth - 1, b, c, y);
    return r * x + a - b + c + y;
}

static int echo(int fd)
{
    char message[MESSAGE_BYTES];

    while (read(fd, message, sizeof(message)) == sizeof(message)) {
        if (write(fd, message, sizeof(message)) != sizeof(message)) {
            return 1;
        }
    }
    return 0;
}

static int measure_floor(const char *image)
{
    char message[MESSAGE_BYTES] = "", fd[12];
    int s[2];
    char *argv[] = { "qemu-aarch64", (char *)image, "echo", fd, NULL };
    pid_t pid;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s) ||
        fcntl(s[1], F_SETFD, 0)) {
        perror("hop: socketpair");
        return 1;
    }
    snprintf(fd, sizeof(fd), "%d", s[1]);
    if (posix_spawnp(&pid, argv[0], NULL, NULL, argv, environ)) {
        perror("hop: qemu-aarch64");
        return 1;
    }
    close(s[1]);
    for (int i = 0; i < PAIRS; i++) {
        long start = now_ns();

        if (write(s[0], message, sizeof(message)) != sizeof(message) ||
            read(s[0], message, sizeof(message)) != sizeof(message)) {
            perror("hop: echo");
            return 1;
        }
        sample[i] = (now_ns() - start) / 2;
    }
    print(1);
    close(s[0]);
    return waitpid(pid, NULL, 0) != pid;
}

int main(int argc, char **argv)
{
    static const int depths[] = { 1, 10, 16, 100, 1000 };
    volatile double sum = 0;

    if (argc == 3 && !strcmp(argv[1], "echo")) {
        return echo(atoi(argv[2]));
    }
    if (argc == 3 && !strcmp(argv[1], "floor")) {
        return measure_floor(argv[2]);
    }
    for (unsigned i = 0; i < sizeof(depths) / sizeof(*depths); i++) {
        sum += down(depths[i], 1, 2, 3);
        print(depths[i]);
    }
    return 0;
}
