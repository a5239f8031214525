/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Processes made by a thread that is away: fork, in either place; exec; spawn. */
#include <chimera.h>
#include <errno.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
static int data = 1;

static __attribute__((noinline)) long work(int depth, long x)
{
    long keep = x * 3 + depth;

    chimera_point();
    if (depth) {
        x = work(depth - 1, x + 1);
    }
    chimera_point();
    return x + keep;
}

/* In the child: memory is its own, and it can move. */
static int child(int nodes, int where)
{
    long sum = 0;

    data += 41;
    for (int i = 0; i < nodes; i++) {
        chimera_migrate(i);
        sum += work(5, i);
        if (chimera_here() != i) {
            return 90;
        }
    }
    (void)where;
    return data == 42 && sum == work(5, 0) * nodes + 19 * nodes * (nodes - 1) / 2
               ? 7
               : 91;
}

static __attribute__((noinline)) void forks(int node, int nodes)
{
    char *argv[] = { "true", NULL };
    int status = 0, before;
    pid_t pid;

    chimera_migrate(node);
    before = chimera_here();
    pid = fork();
    if (pid == 0) {
        _exit(chimera_here() == before ? child(nodes, node) : 92);
    }
    waitpid(pid, &status, 0);
    printf("child %d, data %d, stayed %d\n", WEXITSTATUS(status), data,
           chimera_here() == before);
    fflush(stdout);

    chimera_migrate(node);
    pid = fork();
    if (pid == 0) {
        execl("/bin/sh", "sh", "-c", "exit 5", NULL);
        _exit(93);
    }
    waitpid(pid, &status, 0);
    printf("exec %d\n", WEXITSTATUS(status));

    chimera_migrate(node);
    errno = posix_spawnp(&pid, "true", NULL, NULL, argv, environ);
    printf("spawn %d\n", errno);
    waitpid(pid, &status, 0);
    printf("true %d\n", WEXITSTATUS(status));
    printf("system %d\n", WEXITSTATUS(system("exit 3")));
    fflush(stdout);
}

/* The child forks again while it is away. */
static __attribute__((noinline)) void deeper(int node)
{
    int status = 0;
    pid_t pid = fork();

    if (pid == 0) {
        chimera_migrate(node);
        pid = fork();
        if (pid == 0) {
            _exit(work(3, 1) == 40 ? 4 : 94);
        }
        waitpid(pid, &status, 0);
        _exit(WEXITSTATUS(status) + 1);
    }
    waitpid(pid, &status, 0);
    printf("grandchild %d\n", WEXITSTATUS(status) - 1);
}

int main(void)
{
    int nodes = chimera_nodes();

    for (int i = 0; i < 2; i++) {
        forks(i % nodes, nodes);
    }
    deeper(1 % nodes);
    return 0;
}
