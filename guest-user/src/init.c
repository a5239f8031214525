/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * PID 1 of a node. It makes the usual places of a Linux system, mounts the
 * share, starts the agent and noded and keeps them running, waits for the
 * machine to become whole, offers a shell on the console and powers off.
 *
 * Everything is one poll loop over a signalfd, the nodes' state files, the
 * console and one timer; nothing here waits by time except for what refuses
 * to die or dies again and again. On a kernel without a fabric device it says
 * so and does the rest.
 *
 * Kernel parameters: chimera.node=NAME (host name), chimera.share=DIR (where
 * to mount the 9p tag "share"), chimera.run=COMMAND (run it by a shell on the
 * console once the machine is whole, then power off).
 */
#define _GNU_SOURCE
#include "noded-proto.h"

#include <chimera/guest.h>

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define SHARE_TAG "share"
/*
 * cache=none: every read and write goes to the host, so that nodes (and the
 * host) see each other's files as processes of one system would. Only pages
 * of programs and read-only mappings are kept, per open file.
 * msize: 512000 is the most that virtio-9p of this kernel takes.
 */
#define SHARE_OPTIONS "trans=virtio,version=9p2000.L,cache=none,msize=512000"

#define RESPAWN_LIMIT 5       /* starts ... */
#define RESPAWN_WINDOW_S 10   /* ... in so many seconds, then give up */
#define POWEROFF_PATIENCE_S 2 /* between SIGTERM and SIGKILL */

enum { SERVICE_AGENT, SERVICE_NODED, SERVICE_SHELL, SERVICE_RUN, NR_SERVICES };

struct service {
    const char *name;
    char *argv[4];
    bool respawn;
    bool on_console; /* gets the console as its controlling terminal */
    bool with_sockets; /* gets noded's as descriptors 3 and 4 */
    pid_t pid;
    unsigned nr_starts;
    time_t first_start;
};

static struct {
    struct service service[NR_SERVICES];
    char *node, *share, *run;
    char console[64];
    int console_fd;
    int signal_fd, timer_fd;
    int noded_fd[2]; /* its socket and its endpoint */
    int state_fd[CHIMERA_MAX_NODES];
    unsigned nr_nodes;
    bool whole;
    bool leaving;
    unsigned reboot_how;
} init = {
    .service = {
        [SERVICE_AGENT] = { "agent", { "/sbin/chimera-agent" }, true },
        [SERVICE_NODED] = { "noded", { "/sbin/chimera-noded" }, true,
                            .with_sockets = true },
        [SERVICE_SHELL] = { "shell", { "-sh" }, false, true },
        [SERVICE_RUN] = { "run", { "sh", "-c" }, false, true },
    },
    .console_fd = -1,
    .noded_fd = { -1, -1 },
};

static void __attribute__((format(printf, 1, 2))) say(const char *fmt, ...)
{
    char line[512];
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(line, sizeof(line) - 1, fmt, ap);
    va_end(ap);
    n = n < (int)sizeof(line) - 1 ? n : (int)sizeof(line) - 2;
    line[n++] = '\n';
    /* One write: several processes use this console. */
    if (write(STDERR_FILENO, line, n) < 0) {
        errno = 0; /* a node without a console works all the same */
    }
}

/* ---- files and mounts ---- */

static int make_dirs(const char *path)
{
    char part[PATH_MAX];

    if (strlen(path) >= sizeof(part)) {
        return -ENAMETOOLONG;
    }
    for (const char *p = path + 1;; p++) {
        if (*p == '/' || !*p) {
            memcpy(part, path, p - path);
            part[p - path] = '\0';
            if (mkdir(part, 0755) < 0 && errno != EEXIST) {
                return -errno;
            }
        }
        if (!*p) {
            return 0;
        }
    }
}

static void mount_one(const char *type, const char *dir, unsigned long flags,
                      const char *options)
{
    if (mkdir(dir, 0755) < 0 && errno != EEXIST) {
        say("chimera: %s: %s", dir, strerror(errno));
    } else if (mount(type, dir, type, flags, options) < 0 && errno != EBUSY) {
        say("chimera: mount %s: %s", dir, strerror(errno));
    }
}

static void mount_system(void)
{
    const unsigned long safe = MS_NOSUID | MS_NODEV | MS_NOEXEC;

    mount_one("devtmpfs", "/dev", MS_NOSUID, "mode=0755");
    mount_one("proc", "/proc", safe, NULL);
    mount_one("sysfs", "/sys", safe, NULL);
    mount_one("cgroup2", "/sys/fs/cgroup", safe, NULL);
    mount_one("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC,
              "gid=5,mode=620,ptmxmode=666");
    mount_one("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777");
    mount_one("tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=755");
    mount_one("tmpfs", "/tmp", MS_NOSUID | MS_NODEV, "mode=1777");
    if (symlink("/proc/self/fd", "/dev/fd") < 0 ||
        symlink("/proc/self/fd/0", "/dev/stdin") < 0 ||
        symlink("/proc/self/fd/1", "/dev/stdout") < 0 ||
        symlink("/proc/self/fd/2", "/dev/stderr") < 0) {
        say("chimera: /dev: %s", strerror(errno));
    }
}

/*
 * Programs of the other ISA that carry an image for this one: any file of that
 * ISA goes to chimera-image, which says what is missing. P: it gets argv[0], too.
 */
static void register_images(void)
{
#ifdef __x86_64__
#define OTHER_MACHINE "\\xb7\\x00"
#else
#define OTHER_MACHINE "\\x3e\\x00"
#endif
#define ANY "\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00"
    static const char dir[] = "/proc/sys/fs/binfmt_misc";
    static const char rule[] =
        ":chimera:M::\\x7f" "ELF\\x02\\x01" ANY "\\x00\\x00\\x02\\x00"
        OTHER_MACHINE ":\\xff\\xff\\xff\\xff\\xff\\xff" ANY
        "\\x00\\x00\\xff\\xff\\xff\\xff:/sbin/chimera-image:P";
    int fd;

    /* A kernel without it starts programs of its own ISA only. */
    if (mount("binfmt_misc", dir, "binfmt_misc", 0, NULL) < 0) {
        return;
    }
    fd = open("/proc/sys/fs/binfmt_misc/register", O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, rule, sizeof(rule) - 1) < 0) {
        say("chimera: binfmt_misc: %s", strerror(errno));
    }
    if (fd >= 0) {
        close(fd);
    }
}

static ssize_t read_file(const char *path, char *to, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n, got = 0;

    if (fd < 0) {
        return -errno;
    }
    while (got < (ssize_t)size - 1 &&
           (n = read(fd, to + got, size - 1 - got)) > 0) {
        got += n;
    }
    close(fd);
    to[got] = '\0';
    return got;
}

/* Split as the kernel does: blanks separate, double quotes protect them. */
static void parse_cmdline(void)
{
    static char line[8192];
    char *p = line;

    if (read_file("/proc/cmdline", line, sizeof(line)) < 0) {
        return;
    }
    while (*p) {
        struct {
            const char *key;
            char **value;
        } known[] = { { "chimera.node=", &init.node },
                      { "chimera.share=", &init.share },
                      { "chimera.run=", &init.run } };
        char *word, *to;
        bool quoted = false;

        p += strspn(p, " \t\n");
        for (word = to = p; *p && (quoted || !isspace((unsigned char)*p));
             p++) {
            if (*p == '"') {
                quoted = !quoted;
            } else {
                *to++ = *p;
            }
        }
        p += *p != '\0';
        *to = '\0';
        for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
            size_t n = strlen(known[i].key);

            if (!strncmp(word, known[i].key, n)) {
                *known[i].value = word + n;
            }
        }
    }
}

static bool share_would_hide(const char *dir)
{
    static const char *const system[] = { "bin", "dev", "etc", "lib", "proc",
                                          "root", "run", "sbin", "sys", "tmp",
                                          "usr", "usr/bin", "usr/sbin" };
    size_t n;

    dir += strspn(dir, "/");
    n = strlen(dir);
    while (n && dir[n - 1] == '/') {
        n--;
    }
    for (size_t i = 0; i < sizeof(system) / sizeof(system[0]); i++) {
        if (strlen(system[i]) == n && !memcmp(dir, system[i], n)) {
            return true;
        }
    }
    return !n;
}

static void mount_share(void)
{
    const char *dir = init.share;
    int rc;

    if (!dir) {
        return;
    }
    if (*dir != '/' || share_would_hide(dir)) {
        say("chimera: share: cannot mount it at '%s': %s", dir,
            *dir != '/' ? "not an absolute path" : "it would hide the system");
        return;
    }
    rc = make_dirs(dir);
    if (!rc && mount(SHARE_TAG, dir, "9p", MS_NOSUID | MS_NODEV,
                     SHARE_OPTIONS) < 0) {
        rc = -errno;
    }
    if (rc) {
        say("chimera: share: %s: %s", dir,
            rc == -ENOENT ? "this machine has no share" : strerror(-rc));
    }
}

static void loopback_up(void)
{
    struct ifreq ifr = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &ifr) < 0) {
        say("chimera: loopback: %s", strerror(errno));
    }
    if (fd >= 0) {
        close(fd);
    }
}

/* ---- services ---- */

/*
 * noded's socket and port exist from before the agent says hello until the
 * end, so that nobody finds them missing while noded starts, or starts again.
 */
static void make_noded_sockets(void)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX,
                                .sun_path = NODED_SOCKET };
    int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    int endpoint;

    if (sock < 0 || bind(sock, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
        chmod(NODED_SOCKET, 0666) < 0 || listen(sock, SOMAXCONN) < 0) {
        say("chimera: noded: %s: %s", NODED_SOCKET, strerror(errno));
        return;
    }
    endpoint = chimera_endpoint_open(NODED_PORT, NULL);
    if (endpoint < 0) {
        say("chimera: noded: port %d: %s", NODED_PORT, strerror(-endpoint));
        close(sock);
        return;
    }
    init.noded_fd[0] = sock;
    init.noded_fd[1] = endpoint;
}

/* The terminal behind /dev/console: the last one that is listed. */
static void find_console(void)
{
    char names[128];

    strcpy(init.console, "/dev/console");
    if (read_file("/sys/class/tty/console/active", names, sizeof(names)) > 0) {
        char *last;

        names[strcspn(names, "\n")] = '\0';
        last = strrchr(names, ' ');
        snprintf(init.console, sizeof(init.console), "/dev/%.48s",
                 last ? last + 1 : names);
    }
    init.console_fd = open(init.console, O_RDWR | O_NOCTTY | O_CLOEXEC |
                                             O_NONBLOCK);
}

static void start_later(void);

static void start(struct service *s)
{
    const char *path = s->on_console ? "/bin/sh" : s->argv[0];
    struct timespec now;
    sigset_t none;
    pid_t pid;

    clock_gettime(CLOCK_MONOTONIC, &now);
    if (!s->nr_starts || now.tv_sec - s->first_start > RESPAWN_WINDOW_S) {
        s->nr_starts = 0;
        s->first_start = now.tv_sec;
    }
    if (s->respawn && ++s->nr_starts > RESPAWN_LIMIT) {
        say("chimera: %s ended %d times in %d s; next try in %d s", s->name,
            RESPAWN_LIMIT, RESPAWN_WINDOW_S, RESPAWN_WINDOW_S);
        s->nr_starts = 0;
        start_later();
        return;
    }
    pid = fork();
    if (pid < 0) {
        say("chimera: %s: %s", s->name, strerror(errno));
        if (s->respawn) {
            start_later();
        }
        return;
    }
    if (pid > 0) {
        s->pid = pid;
        return;
    }
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setsid();
    if (s->with_sockets) {
        /* Neither is below 5: descriptors 3 and 4 are taken before them. */
        dup2(init.noded_fd[0], NODED_SOCKET_FD);
        dup2(init.noded_fd[1], NODED_ENDPOINT_FD);
    }
    if (s->on_console) {
        int fd = open(init.console, O_RDWR | O_NOCTTY);

        if (fd >= 0) {
            ioctl(fd, TIOCSCTTY, 1);
            for (int i = 0; i < 3; i++) {
                dup2(fd, i);
            }
            if (fd > 2) {
                close(fd);
            }
        }
        if (chdir("/root") < 0) {
            errno = 0; /* the shell starts in / then */
        }
    }
    execv(path, s->argv);
    say("chimera: %s: %s: %s", s->name, path, strerror(errno));
    _exit(127);
}

/*
 * It dies as fast as it is started, or there is no process for it: once in a
 * window, not as a busy loop.
 */
static void start_later(void)
{
    struct itimerspec when = { .it_value.tv_sec = RESPAWN_WINDOW_S };

    timerfd_settime(init.timer_fd, 0, &when, NULL);
}

static void start_missing(void)
{
    for (int i = 0; i < NR_SERVICES; i++) {
        struct service *s = &init.service[i];

        if (s->respawn && !s->pid &&
            (!s->with_sockets || init.noded_fd[0] >= 0)) {
            start(s);
        }
    }
}

/* ---- leaving ---- */

static _Noreturn void leave_now(void)
{
    /* The share holds nothing back (cache=none), so it needs no unmount. */
    sync();
    reboot(init.reboot_how);
    for (;;) { /* no such facility in this machine: PID 1 must not end */
        pause();
    }
}

static void leave(unsigned how)
{
    struct itimerspec when = { .it_value.tv_sec = POWEROFF_PATIENCE_S };

    if (init.leaving) {
        return;
    }
    init.leaving = true;
    init.reboot_how = how;
    timerfd_settime(init.timer_fd, 0, &when, NULL);
    kill(-1, SIGTERM);
    kill(-1, SIGHUP); /* shells do not end by the other */
    kill(-1, SIGCONT);
}

/* ---- events ---- */

static void reap(void)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        for (int i = 0; i < NR_SERVICES; i++) {
            struct service *s = &init.service[i];

            if (s->pid != pid) {
                continue;
            }
            s->pid = 0;
            if (init.leaving) {
                continue;
            }
            if (s->respawn) {
                say("chimera: %s ended (%s %d)", s->name,
                    WIFSIGNALED(status) ? "signal" : "status",
                    WIFSIGNALED(status) ? WTERMSIG(status)
                                        : WEXITSTATUS(status));
                start(s);
            } else if (i == SERVICE_RUN) {
                say("chimera: run: %s %d",
                    WIFSIGNALED(status) ? "signal" : "exit",
                    WIFSIGNALED(status) ? WTERMSIG(status)
                                        : WEXITSTATUS(status));
                leave(RB_POWER_OFF);
            }
        }
    }
    /* Orphans become our children, so none left means nobody left. */
    if (pid < 0 && errno == ECHILD && init.leaving) {
        leave_now();
    }
}

static void handle_signals(void)
{
    struct signalfd_siginfo info;

    while (read(init.signal_fd, &info, sizeof(info)) == sizeof(info)) {
        switch (info.ssi_signo) {
        case SIGUSR1: /* busybox halt */
            leave(RB_HALT_SYSTEM);
            break;
        case SIGUSR2: /* busybox poweroff, and the agent */
            leave(RB_POWER_OFF);
            break;
        case SIGTERM: /* busybox reboot */
        case SIGINT:  /* ctrl-alt-del */
            leave(RB_AUTOBOOT);
            break;
        }
    }
    reap();
}

static void run_command(void)
{
    if (init.run) {
        init.service[SERVICE_RUN].argv[2] = init.run;
        start(&init.service[SERVICE_RUN]);
    }
}

static void check_whole(void)
{
    static const char *const views[] = { "cpuinfo", "meminfo", "stat" };
    unsigned up = 0;

    for (unsigned i = 0; i < init.nr_nodes; i++) {
        char state[16];

        /* Reading also arms the next POLLPRI. */
        if (!chimera_node_state_read(init.state_fd[i], state, sizeof(state)) &&
            !strcmp(state, "up")) {
            up++;
        }
    }
    if (init.whole || up < init.nr_nodes) {
        return;
    }
    init.whole = true;
    for (size_t i = 0; i < sizeof(views) / sizeof(views[0]); i++) {
        char from[32], to[32];

        snprintf(from, sizeof(from), "/proc/chimera/%s", views[i]);
        snprintf(to, sizeof(to), "/proc/%s", views[i]);
        if (mount(from, to, NULL, MS_BIND, NULL) < 0) {
            say("chimera: %s: %s", to, strerror(errno));
        }
    }
    say("chimera: machine whole: %u nodes", init.nr_nodes);
    run_command();
}

static void watch_nodes(void)
{
    for (unsigned i = 0; i < CHIMERA_MAX_NODES; i++) {
        int fd = chimera_node_state_open(i);

        if (fd < 0) {
            break;
        }
        init.state_fd[init.nr_nodes++] = fd;
    }
    if (!init.nr_nodes) {
        say("chimera: no fabric device: this is a machine of its own");
        run_command();
        return;
    }
    check_whole();
}

/* A shell costs memory and boot time: it is started when somebody types. */
static void console_input(short revents)
{
    if (revents & POLLIN) {
        start(&init.service[SERVICE_SHELL]); /* which reads what was typed */
    } else {
        close(init.console_fd); /* hung up: nobody will type */
        init.console_fd = -1;
    }
}

static _Noreturn void loop(void)
{
    for (;;) {
        enum { SIGNALS, TIMER, CONSOLE, STATES };
        struct pollfd p[STATES + CHIMERA_MAX_NODES] = {
            [SIGNALS] = { .fd = init.signal_fd, .events = POLLIN },
            [TIMER] = { .fd = init.timer_fd, .events = POLLIN },
            [CONSOLE] = { .fd = init.service[SERVICE_SHELL].pid ||
                                        init.service[SERVICE_RUN].pid ||
                                        init.leaving
                                    ? -1
                                    : init.console_fd,
                          .events = POLLIN },
        };
        nfds_t n = STATES;
        uint64_t ticks;

        /* Once whole, it stays so here: the kernel keeps the views true. */
        for (unsigned i = 0; i < init.nr_nodes && !init.whole; i++) {
            p[n++] = (struct pollfd){ .fd = init.state_fd[i],
                                      .events = POLLPRI };
        }
        if (poll(p, n, -1) < 0) {
            continue;
        }
        if (p[SIGNALS].revents) {
            handle_signals();
        }
        if (p[TIMER].revents &&
            read(init.timer_fd, &ticks, sizeof(ticks)) > 0) {
            if (init.leaving) {
                kill(-1, SIGKILL);
            } else {
                start_missing();
            }
        }
        if (n > STATES && !init.whole) {
            for (nfds_t i = STATES; i < n; i++) {
                if (p[i].revents) {
                    check_whole();
                    break;
                }
            }
        }
        if (p[CONSOLE].revents) {
            console_input(p[CONSOLE].revents);
        }
    }
}

int main(void)
{
    const struct rlimit core = { 0, RLIM_INFINITY };
    sigset_t all;
    int fd;

    if (getpid() != 1) {
        fprintf(stderr, "init: this is not PID 1 of a node\n");
        return 1;
    }
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    mount_system();
    register_images();
    /* Without a console the kernel starts us without these. */
    while ((fd = open("/dev/null", O_RDWR)) >= 0 && fd <= STDERR_FILENO) {
        continue;
    }
    close(fd);
    init.signal_fd = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
    init.timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    reboot(RB_DISABLE_CAD); /* ctrl-alt-del becomes SIGINT */
    umask(022);
    setrlimit(RLIMIT_CORE, &core);

    parse_cmdline();
    find_console();
    if (sethostname(init.node ? init.node : "chimera",
                    strlen(init.node ? init.node : "chimera")) < 0) {
        say("chimera: host name '%s': %s", init.node, strerror(errno));
    }
    clearenv();
    setenv("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", 1);
    setenv("HOME", "/root", 1);
    setenv("SHELL", "/bin/sh", 1);
    setenv("TERM", "vt102", 1);
    setenv("USER", "root", 1);
    loopback_up();
    mount_share();
    if (chimera_self() >= 0) {
        make_noded_sockets();
    }
    start_missing();
    watch_nodes();
    loop();
}
