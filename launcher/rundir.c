/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "rundir.h"

#include "paths.h"
#include "util.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* How long the end of a machine may take, and how often to look. */
#define OWNER_TIMEOUT_US (60 * G_USEC_PER_SEC)
#define OWNER_PAUSE_US 2000

static pid_t read_owner(int lock_fd)
{
    char buf[24] = "";
    uint64_t pid;
    ssize_t n = pread(lock_fd, buf, sizeof(buf) - 1, 0);

    buf[MAX(n, 0)] = '\0';
    return parse_uint(g_strchomp(buf), 1, INT32_MAX, &pid) ? (pid_t)pid : 0;
}

/*
 * Opens and locks @path/lock. Return: the descriptor; -1 and errno:
 * EWOULDBLOCK it is owned (*ret_pid), EAGAIN the directory went away under
 * us: look again.
 */
static int take_lock(const char *path, bool create, pid_t *ret_pid)
{
    g_autofree char *file = g_build_filename(path, "lock", NULL);
    struct stat a, b;
    int fd = open(
        file, O_RDWR | O_CLOEXEC | O_NOFOLLOW | (create ? O_CREAT : 0), 0600);

    if (fd < 0) {
        errno = errno == ENOENT ? EAGAIN : errno;
        return -1;
    }
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        int err = errno;

        *ret_pid = read_owner(fd);
        close(fd);
        errno = err;
        return -1;
    }
    /* A lock on a file that its last owner has just removed locks nothing. */
    if (fstat(fd, &a) < 0 || stat(file, &b) < 0 || a.st_ino != b.st_ino ||
        a.st_dev != b.st_dev) {
        close(fd);
        errno = EAGAIN;
        return -1;
    }
    return fd;
}

/* Whether @pid runs; one that nobody has waited for yet does not. */
static bool process_runs(pid_t pid)
{
    struct pollfd p = { .fd = (int)syscall(SYS_pidfd_open, pid, 0),
                        .events = POLLIN };
    bool runs = p.fd >= 0 && poll(&p, 1, 0) == 0;

    close_fd(&p.fd);
    return runs;
}

/*
 * The lock is held, but not by a machine that runs: a guard or a command that met
 * a stale directory is removing it, or its next owner has not written its pid
 * yet. Either takes bounded time; flock() has no time-out. Return: whether to
 * look again.
 */
static bool wait_for_owner(gint64 *deadline_us)
{
    gint64 now_us = g_get_monotonic_time();

    if (!*deadline_us) {
        *deadline_us = now_us + OWNER_TIMEOUT_US;
    }
    if (now_us >= *deadline_us) {
        return false;
    }
    g_usleep(OWNER_PAUSE_US);
    return true;
}

static void empty_directory(const char *path, const char *keep)
{
    DIR *dir = opendir(path);
    struct dirent *e;

    if (!dir) {
        return;
    }
    while ((e = readdir(dir))) {
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 &&
            g_strcmp0(e->d_name, keep) != 0) {
            unlinkat(dirfd(dir), e->d_name, 0);
        }
    }
    closedir(dir);
}

void rundir_remove(const char *path)
{
    g_autofree char *lock = g_build_filename(path, "lock", NULL);
    g_autofree char *root = g_path_get_dirname(path);

    /* The lock last: until then nobody else takes the directory. */
    empty_directory(path, "lock");
    unlink(lock);
    rmdir(path);
    rmdir(root); /* of the last machine; fails while there are others */
}

struct rundir *rundir_create(const char *name, GError **error)
{
    /* Each round is lost to another process's progress; a bound for safety */
    enum { MAX_ROUNDS = 1000 };
    g_autofree char *path = NULL;
    gint64 deadline_us = 0;
    pid_t owner = 0;
    int fd = -1;

    for (int round = 0; round < MAX_ROUNDS; round++) {
        g_autofree char *root = runtime_root_create(error);

        if (!root) {
            return NULL;
        }
        g_free(path);
        path = g_build_filename(root, name, NULL);
        if (mkdir(path, 0700) < 0 && errno != EEXIST) {
            if (errno == ENOENT) {
                continue;
            }
            break;
        }
        fd = take_lock(path, true, &owner);
        if (fd < 0 && errno == EWOULDBLOCK &&
            (!owner || !process_runs(owner))) {
            if (wait_for_owner(&deadline_us)) {
                round--;
                continue;
            }
            owner = 0;
            errno = EWOULDBLOCK;
        }
        if (fd >= 0 || errno != EAGAIN) {
            break;
        }
    }
    if (fd < 0 && errno == EWOULDBLOCK) {
        g_autofree char *who = owner ? g_strdup_printf("process %d", (int)owner)
                                     : g_strdup("another process");

        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_STATE,
                    "machine '%s' is running already, owned by %s; "
                    "'chimera down %s' ends it, another [machine] name= "
                    "starts a second one",
                    name, who, name);
        return NULL;
    }
    if (fd < 0) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_HOST,
                    "cannot create the run directory %s: %s", path,
                    g_strerror(errno));
        return NULL;
    }
    empty_directory(path, "lock");

    g_autofree char *text = g_strdup_printf("%d\n", (int)getpid());

    if (ftruncate(fd, 0) < 0 ||
        pwrite(fd, text, strlen(text), 0) != (ssize_t)strlen(text)) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_HOST,
                    "cannot write %s/lock: %s", path, g_strerror(errno));
        rundir_remove(path);
        close(fd);
        return NULL;
    }

    struct rundir *rd = g_new0(struct rundir, 1);

    rd->name = g_strdup(name);
    rd->path = g_steal_pointer(&path);
    rd->lock_fd = fd;
    return rd;
}

void rundir_free(struct rundir *rd)
{
    if (rd) {
        close_fd(&rd->lock_fd);
        g_free(rd->name);
        g_free(rd->path);
        g_free(rd);
    }
}

char *rundir_file(const struct rundir *rd, const char *name)
{
    return g_build_filename(rd->path, name, NULL);
}

enum rundir_state rundir_probe(const char *name, pid_t *ret_pid)
{
    g_autofree char *root = runtime_root();
    g_autofree char *path = g_build_filename(root, name, NULL);
    struct stat st;
    int fd;

    *ret_pid = 0;
    if (lstat(path, &st) < 0 || !S_ISDIR(st.st_mode) || st.st_uid != getuid()) {
        return RUNDIR_NONE;
    }
    /* Without a lock file it is being created, or was left just then. */
    if (rmdir(path) == 0) {
        return RUNDIR_STALE_REMOVED;
    }
    fd = take_lock(path, false, ret_pid);
    if (fd >= 0) {
        rundir_remove(path);
        close(fd);
        return RUNDIR_STALE_REMOVED;
    }
    return errno == EWOULDBLOCK ? RUNDIR_OWNED : RUNDIR_NONE;
}

static int compare_strings(gconstpointer a, gconstpointer b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

char **rundir_list(void)
{
    g_autofree char *root = runtime_root();
    GPtrArray *names = g_ptr_array_new();
    DIR *dir = opendir(root);
    struct dirent *e;
    pid_t pid;

    while (dir && (e = readdir(dir))) {
        if (e->d_name[0] != '.' &&
            rundir_probe(e->d_name, &pid) == RUNDIR_OWNED) {
            g_ptr_array_add(names, g_strdup(e->d_name));
        }
    }
    if (dir) {
        closedir(dir);
    }
    g_ptr_array_sort(names, compare_strings);
    g_ptr_array_add(names, NULL);
    return (char **)g_ptr_array_free(names, FALSE);
}

char *rundir_longest_socket(const char *name, unsigned nr_nodes)
{
    g_autofree char *root = runtime_root();
    g_autofree char *link =
        g_strdup_printf("link-%u.sock", nr_nodes ? nr_nodes - 1 : 0);
    const char *control = "control.sock";

    return g_build_filename(
        root, name, strlen(link) > strlen(control) ? link : control, NULL);
}
