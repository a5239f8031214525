/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Program start: before the C library, on the stack that the kernel made.
 *
 * CHIMERA_TRANSPORT=self|pipe turns migration on for a program that runs
 * outside a Chimera machine; without it the library does nothing.
 */

#include "thread.h"

int __libc_start_main(int (*main)(int, char **, char **), int argc,
                      char **argv, void (*init)(void), void (*fini)(void),
                      void (*ldso_fini)(void));
int main(int argc, char **argv, char **envp);
void chimera_configure(char **envp);

enum mode chimera_mode;
int chimera_node;

#define NR_WRITE 1
#define NR_EXIT_GROUP 231

static size_t length(const char *s)
{
    size_t n = 0;

    while (s[n]) {
        n++;
    }
    return n;
}

static bool same(const char *a, const char *b)
{
    while (*a && *a == *b) {
        a++;
        b++;
    }
    return *a == *b;
}

_Noreturn void chimera_die(const char *text)
{
    static const char prefix[] = "chimera: ";

    chimera_native_syscall(NR_WRITE, 2, (long)prefix, sizeof(prefix) - 1, 0, 0,
                           0);
    chimera_native_syscall(NR_WRITE, 2, (long)text, length(text), 0, 0, 0);
    chimera_native_syscall(NR_WRITE, 2, (long)"\n", 1, 0, 0, 0);
    for (;;) {
        chimera_native_syscall(NR_EXIT_GROUP, 125, 0, 0, 0, 0, 0);
    }
}

uint64_t chimera_number(const char *s, const char **ret_end)
{
    uint64_t v = 0;

    while (*s >= '0' && *s <= '9' && v < (1ull << 56)) {
        v = v * 10 + (*s++ - '0');
    }
    *ret_end = s;
    return v;
}

/* The value of an environment variable, or NULL */
const char *chimera_env(char **envp, const char *name)
{
    size_t n = length(name);

    for (; *envp; envp++) {
        size_t i = 0;

        while (i < n && (*envp)[i] == name[i]) {
            i++;
        }
        if (i == n && (*envp)[n] == '=') {
            return *envp + n + 1;
        }
    }
    return NULL;
}

static _Noreturn void start_program(void *stack)
{
    long *sp = stack;

    __libc_start_main(main, sp[0], (char **)(sp + 1), NULL, NULL, NULL);
    __builtin_unreachable();
}

_Noreturn void chimera_start(long *stack)
{
    char **envp = (char **)(stack + 1) + stack[0] + 1;
    const char *peer = chimera_env(envp, "CHIMERA_PIPE_FDS");
    const char *how = chimera_env(envp, "CHIMERA_TRANSPORT");

    if (peer) {
        chimera_pipe_peer(peer);
    }
    if (how && *how) {
        chimera_configure(envp);
        if (same(how, "self")) {
            chimera_mode = MODE_SELF;
            chimera_transport = &chimera_transport_self;
        } else if (same(how, "pipe")) {
            chimera_transport = &chimera_transport_pipe;
            chimera_pipe_home(stack);   /* continues in start_program */
        } else {
            chimera_die("CHIMERA_TRANSPORT: self or pipe");
        }
    }
    start_program(stack);
}

_Noreturn void chimera_start_program(void *stack)
{
    start_program(stack);
}
