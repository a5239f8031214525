/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include <chimera/guest.h>
#include <chimera/team.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* INDEX:NR:SEGMENT, or INDEX:NR:/FD for local members */
#define TEAM_VARIABLE "CHIMERA_TEAM"
#define PAGE_BYTES 4096u

/* The first page of the segment. */
struct team_page {
    _Atomic uint32_t failed;
};

static int __attribute__((format(printf, 3, 4)))
team_error(struct chimera_team *t, int err, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(t->error, sizeof(t->error), fmt, ap);
    va_end(ap);
    return err;
}

bool chimera_team_is_member(void)
{
    return getenv(TEAM_VARIABLE) != NULL;
}

bool chimera_team_failed(const struct chimera_team *t)
{
    const struct team_page *page = t->shared;

    return atomic_load_explicit(&page->failed, memory_order_relaxed);
}

void chimera_team_fail(const struct chimera_team *t)
{
    struct team_page *page = t->shared;

    atomic_store_explicit(&page->failed, 1, memory_order_relaxed);
}

bool chimera_team_pause(const struct chimera_team *t, unsigned spins)
{
    /*
     * A processor of a node may be one thread among many of a busy host, and
     * spinning keeps those from running for which we wait.
     */
    const struct timespec nap = { .tv_nsec = 50000 };

    if (chimera_team_failed(t)) {
        return false;
    }
    if (spins < 4096) {
        sched_yield();
    } else {
        nanosleep(&nap, NULL);
    }
    return true;
}

bool chimera_barrier_wait(const struct chimera_team *t,
                          struct chimera_barrier *b, unsigned parties)
{
    uint32_t round = atomic_load_explicit(&b->round, memory_order_acquire);

    /*
     * acq_rel: what everybody did before is visible to the last one, and
     * through its release of round to all.
     */
    if (atomic_fetch_add_explicit(&b->arrived, 1, memory_order_acq_rel) + 1 ==
        parties) {
        atomic_store_explicit(&b->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&b->round, round + 1, memory_order_release);
        return true;
    }
    for (unsigned spins = 0;
         atomic_load_explicit(&b->round, memory_order_acquire) == round;
         spins++) {
        if (spins % 256 == 255 && !chimera_team_pause(t, spins)) {
            return false;
        }
    }
    return true;
}

static int team_map(struct chimera_team *t, size_t size)
{
    void *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, t->fd, 0);

    if (page == MAP_FAILED) {
        return team_error(t, -errno, "mapping the segment: %s",
                          strerror(errno));
    }
    t->shared = page;
    t->mem = (char *)page + PAGE_BYTES;
    t->size = size - PAGE_BYTES;
    return 0;
}

static int add_member(struct chimera_team *t, const struct chimera_node *node)
{
    struct chimera_team_member *m = &t->members[t->nr];

    for (unsigned i = 0; i < t->nr; i++) {
        if (t->members[i].node == node->index) {
            return 0; /* named twice, or the leader's own */
        }
    }
    if (!chimera_node_up(node)) {
        return team_error(t, -EHOSTDOWN, "node %s is %s", node->name,
                          node->state);
    }
    snprintf(m->name, sizeof(m->name), "%s", node->name);
    snprintf(m->arch, sizeof(m->arch), "%s", node->arch);
    m->cpus = node->cpus;
    m->node = node->index;
    t->nr++;
    return 0;
}

static int choose_nodes(struct chimera_team *t, const char *list)
{
    struct chimera_node *nodes;
    int nr = chimera_nodes(&nodes), rc = 0;
    char *names, *save, *name;

    if (nr < 0) {
        return team_error(t, nr, "the nodes of this machine: %s",
                          nr == -ENODEV ? "this kernel has no fabric device"
                                        : strerror(-nr));
    }
    for (int i = 0; i < nr && !rc; i++) {
        rc = nodes[i].self ? add_member(t, &nodes[i]) : 0;
    }
    if (!strcmp(list, "all")) {
        for (int i = 0; i < nr && !rc; i++) {
            rc = add_member(t, &nodes[i]);
        }
    } else {
        names = strdup(list);
        for (name = strtok_r(names, ",", &save); name && !rc;
             name = strtok_r(NULL, ",", &save)) {
            int at = chimera_node_find(nodes, nr, name);

            rc = at < 0 ? team_error(t, at, "there is no node '%s'", name)
                        : add_member(t, &nodes[at]);
        }
        free(names);
    }
    free(nodes);
    return rc;
}

static void choose_commands(struct chimera_team *t, char *const *commands,
                            unsigned nr)
{
    for (unsigned i = 0; i <= nr && t->nr < CHIMERA_TEAM_MAX; i++) {
        struct chimera_team_member *m = &t->members[t->nr++];
        struct utsname uts;

        uname(&uts);
        snprintf(m->name, sizeof(m->name), "local%u", i);
        snprintf(m->arch, sizeof(m->arch), "%.15s", i ? "-" : uts.machine);
        m->cpus = 1;
        m->node = i;
        m->command = i ? commands[i - 1] : NULL;
    }
}

int chimera_team_create(struct chimera_team *t, const char *nodes,
                        char *const *commands, unsigned nr_commands,
                        size_t size)
{
    int rc = 0;

    memset(t, 0, sizeof(*t));
    t->fd = -1;
    size = PAGE_BYTES + ((size + PAGE_BYTES - 1) & ~(size_t)(PAGE_BYTES - 1));
    t->members = calloc(CHIMERA_TEAM_MAX + 1, sizeof(*t->members));
    if (!t->members) {
        return team_error(t, -ENOMEM, "no memory");
    }
    if (nodes) {
        rc = choose_nodes(t, nodes);
        if (rc) {
            return rc;
        }
        snprintf(t->segment, sizeof(t->segment), "team-%u-%d",
                 t->members[0].node, (int)getpid());
        t->fd = chimera_segment_create(t->segment, size, 0600, 0);
        if (t->fd < 0) {
            return team_error(t, t->fd, "a segment of %zu bytes: %s", size,
                              strerror(-t->fd));
        }
    } else {
        choose_commands(t, commands, nr_commands);
        t->fd = memfd_create("team", 0);
        if (t->fd < 0 || ftruncate(t->fd, size) < 0) {
            return team_error(t, -errno, "a memory file of %zu bytes: %s", size,
                              strerror(errno));
        }
    }
    return team_map(t, size);
}

int chimera_team_join(struct chimera_team *t)
{
    const char *how = getenv(TEAM_VARIABLE);
    int at = 0;
    off_t size;

    memset(t, 0, sizeof(*t));
    t->fd = -1;
    if (!how || sscanf(how, "%u:%u:%n", &t->self, &t->nr, &at) < 2 || !at ||
        !t->self || t->self >= t->nr || t->nr > CHIMERA_TEAM_MAX) {
        return team_error(t, -EINVAL, TEAM_VARIABLE " is not INDEX:NR:SEGMENT");
    }
    how += at;
    if (*how == '/') {
        t->fd = atoi(how + 1);
        size = lseek(t->fd, 0, SEEK_END);
    } else {
        struct chimera_seg_stat st = { 0 };

        t->fd = chimera_segment_open(how, O_RDWR);
        if (t->fd >= 0 && chimera_segment_stat(t->fd, &st) < 0) {
            st.size = 0;
        }
        size = st.size;
    }
    if (t->fd < 0) {
        return team_error(t, t->fd, "segment %s: %s", how, strerror(-t->fd));
    }
    if (size <= (off_t)PAGE_BYTES) {
        return team_error(t, -EINVAL, "segment %s is too small", how);
    }
    return team_map(t, size);
}

/*
 * This program for another ISA: the same path with the ISA's own directory in
 * it, as in libexec/chimera/guest/x86_64/wordcount.
 */
static int program_for(struct chimera_team *t, const char *arch, char *path,
                       size_t size)
{
    char own[PATH_MAX], part[80];
    struct utsname uts;
    ssize_t n = readlink("/proc/self/exe", own, sizeof(own) - 1);
    char *at = NULL, *next;

    if (n < 0) {
        return team_error(t, -errno, "/proc/self/exe: %s", strerror(errno));
    }
    own[n] = '\0';
    uname(&uts);
    if (!strcmp(uts.machine, arch)) {
        snprintf(path, size, "%s", own);
        return 0;
    }
    snprintf(part, sizeof(part), "/%s/", uts.machine);
    for (next = strstr(own, part); next; next = strstr(next + 1, part)) {
        at = next;
    }
    if (!at) {
        return team_error(t, -ENOEXEC,
                          "%s: which program is it on %s? (its path has no "
                          "directory %s to replace)",
                          own, arch, uts.machine);
    }
    if (snprintf(path, size, "%.*s/%s/%s", (int)(at - own), own, arch,
                 at + strlen(part)) >= (int)size) {
        return team_error(t, -ENAMETOOLONG, "%s: path too long", own);
    }
    return 0;
}

static int start_member(struct chimera_team *t, unsigned index,
                        char *const *argv)
{
    struct chimera_team_member *m = &t->members[index];
    char path[PATH_MAX], how[128], node[16];
    pid_t leader = getpid();
    size_t nr = 0, at = 0;
    const char **args;
    int rc;

    if (!m->command) {
        rc = program_for(t, m->arch, path, sizeof(path));
        if (rc) {
            return rc;
        }
        snprintf(how, sizeof(how), "%u:%u:%s", index, t->nr, t->segment);
    } else {
        snprintf(how, sizeof(how), "%u:%u:/%d", index, t->nr, t->fd);
    }
    while (argv[nr]) {
        nr++;
    }
    args = calloc(nr + 8, sizeof(*args));
    if (!args) {
        return team_error(t, -ENOMEM, "no memory");
    }
    if (m->command) {
        args[at++] = "sh";
        args[at++] = "-c";
        if (asprintf((char **)&args[at++], "exec %s \"$@\"", m->command) < 0) {
            free(args);
            return team_error(t, -ENOMEM, "no memory");
        }
        args[at++] = "sh";
    } else {
        snprintf(node, sizeof(node), "%u", m->node);
        args[at++] = "onnode";
        args[at++] = "-n";
        args[at++] = node;
        args[at++] = path;
    }
    memcpy(&args[at], argv + 1, (nr - 1) * sizeof(*args));

    m->pid = fork();
    if (m->pid == 0) {
        /* A leader that is killed takes its members with it. */
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        if (getppid() == leader) {
            setenv(TEAM_VARIABLE, how, 1);
            execvp(args[0], (char *const *)args);
            dprintf(STDERR_FILENO, "%s: %s\n", args[0], strerror(errno));
        }
        _exit(127);
    }
    if (m->command) {
        free((char *)args[2]);
    }
    free(args);
    if (m->pid < 0) {
        m->pid = 0;
        return team_error(t, -errno, "fork: %s", strerror(errno));
    }
    return 0;
}

int chimera_team_start(struct chimera_team *t, char *const *argv)
{
    for (unsigned i = 1; i < t->nr; i++) {
        int rc = start_member(t, i, argv);

        if (rc) {
            char why[sizeof(t->error)];

            memcpy(why, t->error, sizeof(why));
            chimera_team_fail(t); /* ends those that have started */
            chimera_team_wait(t);
            memcpy(t->error, why, sizeof(why));
            return rc;
        }
    }
    return 0;
}

int chimera_team_wait(struct chimera_team *t)
{
    int rc = 0;

    for (unsigned left = t->nr - 1; left;) {
        struct chimera_team_member *m = NULL;
        int status;
        pid_t pid = waitpid(-1, &status, 0);

        if (pid < 0 && errno == EINTR) {
            continue;
        }
        if (pid < 0) {
            break; /* none that was started is left */
        }
        for (unsigned i = 1; i < t->nr; i++) {
            m = t->members[i].pid == pid ? &t->members[i] : m;
        }
        if (!m) {
            continue;
        }
        left--;
        m->pid = 0;
        if (status && !rc) {
            /* The others may be waiting for it. */
            chimera_team_fail(t);
            rc = team_error(t, -ECHILD, "the process on %s ended with %s %d",
                            m->name, WIFSIGNALED(status) ? "signal" : "status",
                            WIFSIGNALED(status) ? WTERMSIG(status)
                                                : WEXITSTATUS(status));
        }
    }
    return rc;
}

void chimera_team_free(struct chimera_team *t)
{
    if (t->shared) {
        munmap(t->shared, t->size + PAGE_BYTES);
    }
    if (t->fd >= 0) {
        close(t->fd);
    }
    free(t->members);
    memset(t, 0, sizeof(*t));
    t->fd = -1;
}
