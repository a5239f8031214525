/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Program start: before the C library, on the stack that the kernel made.
 *
 * In a Chimera machine threads can move, unless CHIMERA_TRANSPORT=none.
 * CHIMERA_TRANSPORT=self|pipe turns migration on for a program that runs
 * outside of one; without it the library does nothing there.
 */

#include "thread.h"

int __libc_start_main(int (*main)(int, char **, char **), int argc,
                      char **argv, void (*init)(void), void (*fini)(void),
                      void (*ldso_fini)(void));
int main(int argc, char **argv, char **envp);
void chimera_configure(char **envp);

enum mode chimera_mode;
int chimera_node;
int chimera_home;
int chimera_nr_nodes = 1;
char chimera_file[4096];
/* Read where the thread runs. */
SHARED_DATA uint64_t chimera_nodes_mask;

#define NR_WRITE 1
#define NR_EXIT_GROUP 231
#define NR_PRCTL 157
#define PR_SET_NAME 15

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

uint64_t chimera_hex(const char *s, const char **ret_end)
{
    uint64_t v = 0;

    for (;; s++) {
        if (*s >= '0' && *s <= '9') {
            v = v << 4 | (*s - '0');
        } else if (*s >= 'a' && *s <= 'f') {
            v = v << 4 | (*s - 'a' + 10);
        } else {
            break;
        }
    }
    *ret_end = s;
    return v;
}

/* These write a NUL, too, and return its place. */
char *chimera_put_text(char *p, const char *s)
{
    while (*s) {
        *p++ = *s++;
    }
    *p = '\0';
    return p;
}

static char *put_digits(char *p, uint64_t v, unsigned base)
{
    if (v >= base) {
        p = put_digits(p, v / base, base);
    }
    *p++ = "0123456789abcdef"[v % base];
    *p = '\0';
    return p;
}

char *chimera_put_number(char *p, uint64_t v)
{
    return put_digits(p, v, 10);
}

char *chimera_put_hex(char *p, uint64_t v)
{
    return put_digits(p, v, 16);
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

#define AT_PLATFORM 15
#define AT_RANDOM 25
#define AT_EXECFN 31

long *chimera_copy_stack(long *stack, char *top)
{
    char *low = (char *)stack, *high, *to;
    long *p = stack + 1, *copy, delta;
    uint64_t len;

    for (int lists = 0; lists < 2; lists++, p++) {
        while (*p) {
            p++;
        }
    }
    high = (char *)p;
    for (long *q = stack + 1; q < p; q++) {
        if (*q) {
            char *end = (char *)*q + length((char *)*q) + 1;

            high = end > high ? end : high;
        }
    }
    for (; *p; p += 2) {
        if (*p == AT_EXECFN || *p == AT_PLATFORM) {
            char *end = (char *)p[1] + length((char *)p[1]) + 1;

            high = end > high ? end : high;
        } else if (*p == AT_RANDOM && (char *)p[1] + 16 > high) {
            high = (char *)p[1] + 16;
        }
    }
    if ((char *)(p + 2) > high) {
        high = (char *)(p + 2);
    }
    len = ((uint64_t)(high - low) + 15) & ~15ul;
    to = top - len - 64;
    to -= ((uint64_t)to - (uint64_t)low) & 15;
    delta = to - low;
    __builtin_memcpy(to, low, high - low);
    copy = (long *)to;
    for (p = copy + 1; *p; p++) {
        *p += delta;
    }
    for (p++; *p; p++) {
        *p += delta;
    }
    for (p++; *p; p += 2) {
        if (p[1] >= (long)low && p[1] < (long)high) {
            p[1] += delta;
        }
    }
    return copy;
}

static _Noreturn void start_program(void *stack)
{
    long *sp = stack;

    __libc_start_main(main, sp[0], (char **)(sp + 1), NULL, NULL, NULL);
    __builtin_unreachable();
}

/* What /proc/PID/comm would be without chimera-image. */
static void set_name(const char *path)
{
    const char *name = path;

    for (; *path; path++) {
        if (*path == '/') {
            name = path + 1;
        }
    }
    chimera_native_syscall(NR_PRCTL, PR_SET_NAME, (long)name, 0, 0, 0, 0);
}

/*
 * CHIMERA_FILE is the file that this image was taken from (chimera-image); it
 * concerns this process only, so it goes out of the environment.
 */
static long *take_file(long *stack)
{
    char **envp = (char **)(stack + 1) + stack[0] + 1;
    const char *value = chimera_env(envp, "CHIMERA_FILE");

    if (!value || length(value) >= sizeof(chimera_file)) {
        return stack;
    }
    chimera_put_text(chimera_file, value);
    set_name(value);
    while (*envp + sizeof("CHIMERA_FILE=") - 1 != value) {
        envp++;
    }
    for (; envp != (char **)stack; envp--) {
        envp[0] = envp[-1];
    }
    return stack + 1;
}

_Noreturn void chimera_start(long *stack)
{
    stack = take_file(stack);

    char **envp = (char **)(stack + 1) + stack[0] + 1;
    const char *peer = chimera_env(envp, "CHIMERA_PIPE_FDS");
    const char *stub = chimera_env(envp, "CHIMERA_STUB");
    const char *how = chimera_env(envp, "CHIMERA_TRANSPORT");

    if (peer) {
        chimera_configure(envp);
        chimera_pipe_peer(peer);
    }
    if (stub) {
        chimera_configure(envp);
        chimera_kernel_peer(stub);
    }
    if (!how || !*how) {
        chimera_kernel_home(stack, false);  /* continues in start_program */
    } else if (!same(how, "none")) {
        chimera_configure(envp);
        if (same(how, "self")) {
            chimera_mode = MODE_SELF;
            chimera_transport = &chimera_transport_self;
        } else if (same(how, "pipe")) {
            chimera_pipe_home(stack);   /* continues in start_program */
        } else if (same(how, "kernel")) {
            chimera_kernel_home(stack, true);
        } else {
            chimera_die("CHIMERA_TRANSPORT: kernel, none, pipe or self");
        }
    }
    start_program(stack);
}

_Noreturn void chimera_start_program(void *stack)
{
    start_program(stack);
}
