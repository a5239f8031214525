/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "supervisor.h"

#include "control.h"
#include "guard.h"
#include "machine.h"
#include "recorder.h"
#include "rundir.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static gboolean on_signal(int fd, GIOCondition cond, gpointer opaque)
{
    struct machine *m = opaque;
    struct signalfd_siginfo info;

    if (read(fd, &info, sizeof(info)) == sizeof(info)) {
        machine_log(m, "got signal %u", info.ssi_signo);
        control_stop(m->opaque, false);
    }
    return G_SOURCE_CONTINUE;
}

static void handle_signals(struct machine *m)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_SETMASK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    g_unix_fd_add(signalfd(-1, &set, SFD_CLOEXEC), G_IO_IN, on_signal, m);
}

/* Log files live in @dir then; RUN has links to them. */
static bool link_logs(const struct rundir *rd, const char *dir,
                      unsigned nr_nodes, GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);

    if (g_mkdir_with_parents(dir, 0777) < 0) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_HOST,
                    "cannot create the folder for logs %s: %s", dir,
                    g_strerror(errno));
        return false;
    }
    g_ptr_array_add(names, g_strdup("supervisor.log"));
    for (unsigned i = 0; i < nr_nodes; i++) {
        g_ptr_array_add(names, g_strdup_printf("qemu-%u.log", i));
        g_ptr_array_add(names, g_strdup_printf("console-%u.log", i));
    }
    for (unsigned i = 0; i < names->len; i++) {
        const char *name = names->pdata[i];
        g_autofree char *link = rundir_file(rd, name);
        g_autofree char *real = g_build_filename(dir, name, NULL);

        if ((unlink(real) < 0 && errno != ENOENT) || symlink(real, link) < 0) {
            g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_HOST,
                        "cannot use %s for a log: %s", real, g_strerror(errno));
            return false;
        }
    }
    return true;
}

static void redirect_output(const struct rundir *rd)
{
    g_autofree char *path = rundir_file(rd, "supervisor.log");
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

    if (fd >= 0) {
        dup2(fd, STDOUT_FILENO);
        dup2(fd, STDERR_FILENO);
        close(fd);
    }
}

/* For people and scripts that look at the run directory; status asks us. */
static bool write_machine_json(const struct machine *m, GError **error)
{
    g_autofree char *path = rundir_file(m->rd, "machine.json");
    g_autoptr(JsonNode) status = machine_status(m);
    g_autofree char *text = json_to_string(status, TRUE);

    return g_file_set_contents(path, text, -1, error);
}

static void detach(int lifeline_fd)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    setsid();
    prctl(PR_SET_NAME, "chimera-super");
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fd != lifeline_fd) {
            dup2(null, fd);
        }
    }
    close(null);
    if (chdir("/") < 0) {
        _exit(EXIT_FAILED); /* cannot fail; a warning otherwise */
    }
}

static G_NORETURN void supervisor_main(const struct supervisor_options *o,
                                       int lifeline_fd)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *why = NULL;
    struct machine m = {
        .config = o->config,
        .accels = o->accels,
        .echo_floor = o->echo_floor,
        .start_us = g_get_monotonic_time(),
        .loop = g_main_loop_new(NULL, FALSE),
        .uuid = g_uuid_string_random(),
    };
    struct control *control = NULL;
    struct recorder *recorder = NULL;
    int guard_lifeline = fcntl(lifeline_fd, F_DUPFD_CLOEXEC, 3);

    detach(lifeline_fd);
    handle_signals(&m);
    control = control_new(&m, lifeline_fd, o->ephemeral);
    m.rd = rundir_create(o->config->name, &error);
    if (m.rd) {
        m.guard = guard_start(m.rd, guard_lifeline, &error);
    }
    if (m.guard && (!o->logs_dir || link_logs(m.rd, o->logs_dir,
                                              o->config->nodes->len, &error))) {
        redirect_output(m.rd);
        if (o->record) {
            recorder = recorder_new(&m, o->record, &error);
            control_record(control, recorder);
        }
        if (!error && control_listen(control, &error) &&
            machine_start(&m, &error) &&
            write_machine_json(&m, &error)) {
            g_main_loop_run(m.loop);
        }
    }
    if (error || m.boot_error) {
        why = g_strdup(error ? error->message : m.boot_error);
    }
    m.state = MACHINE_STOPPING;
    machine_clear(&m);
    recorder_free(recorder);
    if (m.guard) {
        guard_finish(m.guard);
    } else if (m.rd) {
        rundir_remove(m.rd->path);
    }
    while (waitpid(-1, NULL, WNOHANG) > 0) {}
    control_finish(control, why);
    _exit(why ? EXIT_FAILED : EXIT_OK);
}

bool supervisor_fork(const struct supervisor_options *options, int *ret_fd,
                     pid_t *ret_pid, GError **error)
{
    int pair[2];
    pid_t pid;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_HOST, "socketpair: %s",
                    g_strerror(errno));
        return false;
    }
    pid = fork();
    if (pid < 0) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_HOST, "fork: %s",
                    g_strerror(errno));
        close(pair[0]);
        close(pair[1]);
        return false;
    }
    if (pid == 0) {
        close(pair[0]);
        supervisor_main(options, pair[1]);
    }
    close(pair[1]);
    *ret_fd = pair[0];
    *ret_pid = pid;
    return true;
}
