/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "machine.h"

#include "courier.h"
#include "qemu.h"
#include "paths.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    /* sync and power-off of a guest take some 100 ms under TCG */
    POWEROFF_GRACE_MS = 3000,
    QUIT_GRACE_MS = 2000, /* QEMU's own exit, after QMP quit */
    EXIT_GRACE_MS = 1000, /* from the end of its sockets to its own */
    CONSOLE_LOG_BYTES = 16 << 20, /* then the last part of it is kept: */
    CONSOLE_LOG_KEEP = 1 << 20,
    ERROR_LINES = 20, /* of a console or of QEMU's stderr in a message */
};

const char *node_state_name(enum node_state state)
{
    static const char *const names[] = { "starting", "booting", "up", "down" };

    return names[state];
}

const char *machine_state_name(enum machine_state state)
{
    static const char *const names[] = { "booting", "running", "stopping" };

    return names[state];
}

void machine_log(const struct machine *m, const char *fmt, ...)
{
    g_autoptr(GString) s = g_string_new(NULL);
    va_list ap;

    g_string_append_printf(
        s, "[%9.3f] ", (double)(g_get_monotonic_time() - m->start_us) / 1e6);
    va_start(ap, fmt);
    g_string_append_vprintf(s, fmt, ap);
    va_end(ap);
    g_string_append_c(s, '\n');
    write_all(STDERR_FILENO, s->str, s->len);
}

static char *node_file(const struct node *n, const char *kind)
{
    g_autofree char *name = g_strdup_printf("%s-%u.log", kind, n->index);

    return rundir_file(n->machine->rd, name);
}

/* The last lines of a log under a heading; "" when there are none. */
static char *log_excerpt(const struct node *n, const char *kind,
                         const char *heading)
{
    g_autofree char *path = node_file(n, kind);
    g_autofree char *tail = tail_of_file(path, ERROR_LINES, "  | ");

    return *tail ? g_strdup_printf("\n%s of node %s:\n%s", heading,
                                   n->config->name, tail)
                 : g_strdup("");
}

static void boot_failed(struct machine *m, char *error)
{
    if (m->boot_error || m->state != MACHINE_BOOTING) {
        g_free(error);
        return;
    }
    m->boot_error = g_strchomp(error);
    machine_log(m, "boot failed: %s", error);
    machine_stop(m, true);
}

/* ---- a node goes down ---- */

static void node_disconnect(struct node *n)
{
    if (n->agent_timer) {
        g_source_remove(n->agent_timer);
        n->agent_timer = 0;
    }
    g_clear_pointer(&n->qmp, qmp_free);
    g_clear_pointer(&n->agent, agent_free);
    g_clear_pointer(&n->console, conn_free);
    g_clear_pointer(&n->key_ids, conn_free);
}

/* What stood between us and its QEMU says itself what became of it. */
static char *courier_reason(const struct node *n)
{
    g_autofree char *path = node_file(n, "qemu");
    g_autofree char *line = tail_of_file(path, 1, "");
    const char *text = line;

    if (g_str_has_prefix(text, "chimera: ")) {
        text += strlen("chimera: ");
    }
    return g_strchomp(g_strdup(*text ? text : "its host is gone"));
}

static char *exit_reason(const struct node *n, const siginfo_t *info)
{
    if (n->given_up && info->si_code == CLD_KILLED) {
        return g_strdup_printf("%s; so it was killed", n->given_up);
    }
    if (n->config->host && info->si_code == CLD_EXITED &&
        info->si_status == EXIT_LAUNCHER) {
        return courier_reason(n);
    }
    if (info->si_code == CLD_EXITED && info->si_status == 0) {
        if (g_strcmp0(n->shutdown, "guest-shutdown") == 0) {
            return g_strdup("the guest powered off");
        }
        if (g_strcmp0(n->shutdown, "guest-reset") == 0 ||
            g_strcmp0(n->shutdown, "guest-panic") == 0) {
            return g_strdup("the guest restarted or panicked");
        }
        return g_strdup_printf("QEMU ended: %s",
                               n->shutdown ? n->shutdown : "no reason given");
    }
    if (info->si_code == CLD_EXITED) {
        return g_strdup_printf("QEMU exited with status %d", info->si_status);
    }
    return g_strdup_printf("QEMU was killed by signal %d (%s)", info->si_status,
                           strsignal(info->si_status));
}

static void node_down(struct node *n, const siginfo_t *info)
{
    struct machine *m = n->machine;
    g_autofree char *reason = exit_reason(n, info);

    m->nr_alive--;
    n->state = NODE_DOWN;
    g_free(n->reason);
    n->reason = g_strdup(m->state == MACHINE_STOPPING && !m->boot_error
                             ? "the machine was shut down"
                             : reason);
    machine_log(m, "node %s is down: %s", n->config->name, reason);
    node_disconnect(n);
    if (m->state == MACHINE_BOOTING) {
        g_autofree char *err = log_excerpt(n, "qemu", "QEMU's messages");
        g_autofree char *con = log_excerpt(n, "console", "The last lines");

        boot_failed(m, g_strdup_printf("node %s did not boot: %s%s%s",
                                       n->config->name, reason, err, con));
    } else if (m->state == MACHINE_RUNNING) {
        m->on_node_down(m, n);
    }
    if (m->state == MACHINE_STOPPING && m->nr_alive == 0) {
        g_main_loop_quit(m->loop);
    }
}

static gboolean on_child_exit(int fd, GIOCondition cond, gpointer opaque)
{
    struct node *n = opaque;
    siginfo_t info = { 0 };

    if (waitid(P_PIDFD, (id_t)fd, &info, WEXITED) < 0) {
        info.si_code = CLD_KILLED; /* cannot happen: it is our child */
        info.si_status = SIGKILL;
    }
    n->pid_source = 0;
    /* Its last words may say why, and how its sessions ended. */
    if (n->qmp) {
        qmp_drain(n->qmp);
    }
    if (n->agent) {
        agent_drain(n->agent);
    }
    if (n->console) {
        conn_drain(n->console);
    }
    node_down(n, &info);
    return G_SOURCE_REMOVE;
}

/* ---- a node comes up ---- */

static void check_ready(struct node *n)
{
    struct machine *m = n->machine;

    if (n->state != NODE_BOOTING || !n->system || !n->whole) {
        return;
    }
    n->state = NODE_UP;
    n->up_us = g_get_monotonic_time();
    machine_log(m, "node %s is up", n->config->name);
    m->on_progress(m, n, "up");
    for (unsigned i = 0; i < m->nr_nodes; i++) {
        if (m->nodes[i].state != NODE_UP) {
            return;
        }
    }
    if (m->state == MACHINE_BOOTING) {
        m->state = MACHINE_RUNNING;
        m->up_us = n->up_us;
        g_source_remove(m->boot_timer);
        m->boot_timer = 0;
        machine_log(m, "machine is up");
        m->on_ready(m);
    }
}

static void on_qmp_ready(struct qmp *qmp, void *opaque)
{
    struct node *n = opaque;

    n->qmp_us = g_get_monotonic_time();
    if (n->state == NODE_STARTING) {
        n->state = NODE_BOOTING;
        n->machine->on_progress(n->machine, n, "booting");
        check_ready(n);
    }
}

static const char *member(JsonObject *data, const char *name)
{
    JsonNode *v = data ? json_object_get_member(data, name) : NULL;

    return v && JSON_NODE_HOLDS_VALUE(v) &&
                   json_node_get_value_type(v) == G_TYPE_STRING
               ? json_node_get_string(v)
               : "";
}

/*
 * A node whose QEMU runs, but another one has not heard of it for too long: it
 * was stopped, or hung, and does not know that it was lost. In memory that all
 * share it would write, when it goes on, to pages that the others have taken
 * back by then.
 */
static void end_silent(struct node *n)
{
    if (n->machine->config->coherence != COHERENCE_SHARED || n->given_up) {
        return;
    }
    n->given_up = g_strdup(n->reason);
    machine_log(n->machine, "node %s: killed, because %s", n->config->name,
                n->reason);
    syscall(SYS_pidfd_send_signal, n->pidfd, SIGKILL, NULL, 0);
}

/*
 * Node @n says about another one that it is no longer there. Its QEMU may
 * still run: that is worth showing.
 */
static void on_peer_state(struct node *n, JsonObject *data)
{
    JsonNode *v = data ? json_object_get_member(data, "node") : NULL;
    struct machine *m = n->machine;
    const char *state = member(data, "state");
    gint64 index = v && JSON_NODE_HOLDS_VALUE(v) ? json_node_get_int(v) : -1;
    struct node *peer;

    if (index < 0 || index >= m->nr_nodes) {
        return;
    }
    peer = &m->nodes[index];
    machine_log(m, "node %s: node %s is %s %s", n->config->name,
                peer->config->name, state, member(data, "reason"));
    if (peer->state != NODE_DOWN && peer != n && !n->given_up &&
        (!strcmp(state, "down") || !strcmp(state, "fenced"))) {
        g_free(peer->reason);
        peer->reason =
            g_strdup_printf("node %s says it is %s: %s", n->config->name, state,
                            member(data, "reason"));
        if (strstr(member(data, "reason"), "silent for ")) {
            end_silent(peer);
        }
    }
}

static void on_qmp_event(struct qmp *qmp, const char *name, JsonObject *data,
                         void *opaque)
{
    struct node *n = opaque;

    if (!strcmp(name, "SHUTDOWN")) {
        g_free(n->shutdown);
        n->shutdown = g_strdup(member(data, "reason"));
    } else if (!strcmp(name, "DSM_NODE_STATE")) {
        on_peer_state(n, data);
    } else if (!strcmp(name, "VSERPORT_CHANGE") && n->agent &&
               !strcmp(member(data, "id"), "agent")) {
        agent_port_changed(n->agent, json_object_get_boolean_member_with_default(
                                         data, "open", FALSE));
    }
}

/* QEMU closes its ends when it exits; the exit itself is what counts. */
static void on_qmp_closed(struct qmp *qmp, const GError *error, void *opaque)
{
    struct node *n = opaque;

    if (error) {
        machine_log(n->machine, "node %s: monitor: %s", n->config->name,
                    error->message);
    }
    qmp_free(qmp);
    n->qmp = NULL;
}

static const struct qmp_ops node_qmp_ops = {
    .ready = on_qmp_ready,
    .event = on_qmp_event,
    .closed = on_qmp_closed,
};

static void on_agent_hello(struct agent *agent, const char *system, void *opaque)
{
    struct node *n = opaque;

    g_free(n->system);
    n->system = g_strdup(system);
    if (!n->agent_us) {
        n->agent_us = g_get_monotonic_time();
        n->machine->on_progress(n->machine, n, "agent");
    }
    machine_log(n->machine, "node %s: agent: %s", n->config->name, system);
    check_ready(n);
}

static void on_agent_machine(struct agent *agent, uint32_t up, uint32_t total,
                             void *opaque)
{
    struct node *n = opaque;
    struct machine *m = n->machine;

    machine_log(m, "node %s sees %u of %u nodes", n->config->name, up, total);
    if (total != m->nr_nodes) {
        g_autofree char *con = log_excerpt(n, "console", "The last lines");

        boot_failed(m, g_strdup_printf(
                           total == 0
                               ? "node %s: its kernel shows no fabric device%s"
                               : "node %s: its kernel counts other nodes%s",
                           n->config->name, con));
        return;
    }
    n->whole = up == total;
    check_ready(n);
}

static void on_agent_trouble(struct agent *agent, const char *what, void *opaque)
{
    struct node *n = opaque;

    machine_log(n->machine, "node %s: %s", n->config->name, what);
}

static gboolean on_agent_gone(gpointer opaque)
{
    struct node *n = opaque;

    n->agent_timer = 0;
    g_clear_pointer(&n->agent, agent_free);
    return G_SOURCE_REMOVE;
}

static void on_agent_closed(struct agent *agent, const GError *error,
                            void *opaque)
{
    struct node *n = opaque;
    struct machine *m = n->machine;

    if (error) {
        boot_failed(
            m, g_strdup_printf("node %s: %s", n->config->name, error->message));
    }
    /*
     * A process that ends closes its descriptors first and can be waited for
     * a little later; its sessions shall hear the reason.
     */
    if (!n->agent_timer) {
        n->agent_timer = g_timeout_add(EXIT_GRACE_MS, on_agent_gone, n);
    }
}

static const struct agent_ops node_agent_ops = {
    .hello = on_agent_hello,
    .machine = on_agent_machine,
    .trouble = on_agent_trouble,
    .closed = on_agent_closed,
};

/* ---- the console's log ---- */

/* A guest can say what it likes for as long as it likes; its end is kept. */
static void log_begin_anew(struct node *n)
{
    g_autofree char *path = node_file(n, "console");
    g_autofree char *tail = g_malloc(CONSOLE_LOG_KEEP);
    static const char note[] = "[chimera: what was before is not kept]\n";
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? 0
                         : pread(fd, tail, CONSOLE_LOG_KEEP,
                                 (off_t)n->log_bytes - CONSOLE_LOG_KEEP);

    close_fd(&fd);
    if (ftruncate(n->log_fd, 0) == 0) {
        write_all(n->log_fd, note, strlen(note));
        write_all(n->log_fd, tail, (size_t)MAX(got, 0));
        n->log_bytes = strlen(note) + (uint64_t)MAX(got, 0);
    }
}

static void log_write(struct node *n, const uint8_t *data, gsize len)
{
    int err = n->log_fd < 0 ? 0 : write_all(n->log_fd, data, len);

    if (err) {
        machine_log(n->machine, "node %s: its console is not logged: %s",
                    n->config->name, g_strerror(err));
        close_fd(&n->log_fd);
    }
    n->log_bytes += len;
    if (n->log_bytes > CONSOLE_LOG_BYTES && n->log_fd >= 0) {
        log_begin_anew(n);
    }
}

static bool log_open(struct node *n, GError **error)
{
    g_autofree char *path = node_file(n, "console");

    n->log_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (n->log_fd < 0) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_HOST,
                    "cannot create %s: %s", path, g_strerror(errno));
    }
    return n->log_fd >= 0;
}

static gsize on_console_input(struct conn *conn, const uint8_t *data, gsize len,
                              void *opaque)
{
    struct node *n = opaque;

    log_write(n, data, len);
    n->machine->on_console(n->machine, n, data, len);
    return len;
}

static void on_console_closed(struct conn *conn, const GError *error,
                              void *opaque)
{
    struct node *n = opaque;

    conn_free(conn);
    n->console = NULL;
}

static const struct conn_ops node_console_ops = {
    .input = on_console_input,
    .closed = on_console_closed,
};

/* ---- the key of its host ---- */

static char *key_place(const struct node *n)
{
    return n->config->host ? g_strdup_printf("host %s", n->config->host)
                           : g_strdup("this host");
}

/*
 * Nodes with different keys would refuse each other until boot-timeout: that
 * of a node that answers can be a stranger's, so they cannot know. Here the
 * hosts themselves have said which keys they have.
 */
static void node_has_key(struct node *n, char *key_id)
{
    struct machine *m = n->machine;

    g_free(n->key_id);
    n->key_id = key_id;
    for (unsigned i = 0; key_id && i < m->nr_nodes; i++) {
        struct node *other = &m->nodes[i];

        if (other->key_id && strcmp(other->key_id, key_id) != 0) {
            g_autofree char *where = config_where(m->config, NULL, "key");
            g_autofree char *here = key_place(n), *there = key_place(other);

            boot_failed(m, g_strdup_printf(
                               "%s: nodes %s and %s have different keys: %s is "
                               "not the same on %s as on %s; copy one to the "
                               "other",
                               where, other->config->name, n->config->name,
                               m->config->key, there, here));
            return;
        }
    }
}

static gsize on_key_id_input(struct conn *conn, const uint8_t *data, gsize len,
                             void *opaque)
{
    if (len < PREFLIGHT_KEY_ID_BYTES) {
        return 0;
    }
    node_has_key(opaque,
                 g_strndup((const char *)data, PREFLIGHT_KEY_ID_BYTES));
    return PREFLIGHT_KEY_ID_BYTES;
}

static void on_key_id_closed(struct conn *conn, const GError *error,
                             void *opaque)
{
    struct node *n = opaque;

    conn_free(conn);
    n->key_ids = NULL;
}

static const struct conn_ops node_key_id_ops = {
    .input = on_key_id_input,
    .closed = on_key_id_closed,
};

/* ---- start ---- */

static bool make_pair(int pair[2], GError **error)
{
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_HOST, "socketpair: %s",
                    g_strerror(errno));
        return false;
    }
    return true;
}

static int watch_child(struct machine *m, pid_t pid, bool ask, GError **error)
{
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);

    if (pidfd < 0) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_HOST, "pidfd_open: %s",
                    g_strerror(errno));
        kill(pid, SIGKILL);
        return -1;
    }
    if (!guard_watch(m->guard, pidfd, ask, error)) {
        kill(pid, SIGKILL);
        close(pidfd);
        return -1;
    }
    return pidfd;
}

static bool node_start(struct node *n, int echo_kick, int echo_call,
                       GError **error)
{
    struct machine *m = n->machine;
    struct qemu_spec spec = {
        .config = m->config,
        .self = n->index,
        .accel = n->accel->accel,
        .run_path = m->rd->path,
        .machine_uuid = m->uuid,
        .echo_floor = echo_kick >= 0,
    };
    g_autofree char *log = node_file(n, "qemu");
    int qmp[2] = { -1, -1 }, agent[2] = { -1, -1 }, console[2] = { -1, -1 };
    int key_ids[2] = { -1, -1 };
    bool ok = false;

    if (!log_open(n, error) || !make_pair(qmp, error) ||
        !make_pair(agent, error) || !make_pair(console, error) ||
        !make_pair(key_ids, error)) {
        goto out;
    }
    const int fds[QEMU_FD_END - QEMU_FD_QMP] = { qmp[1], agent[1], console[1],
                                                 echo_kick, echo_call };

    n->start_us = g_get_monotonic_time();
    n->pid = n->config->host
                 ? courier_start(&spec, fds, key_ids[1], log, error)
                 : qemu_start(&spec, fds, log, error);
    if (n->pid < 0) {
        goto out;
    }
    n->pidfd = watch_child(m, n->pid, n->config->host != NULL, error);
    if (n->pidfd < 0) {
        goto out;
    }
    m->nr_alive++;
    n->pid_source = g_unix_fd_add(n->pidfd, G_IO_IN, on_child_exit, n);
    n->qmp = qmp_new(g_steal_fd(&qmp[0]), &node_qmp_ops, n);
    n->agent = agent_new(g_steal_fd(&agent[0]), &node_agent_ops, n);
    n->console =
        conn_new(g_steal_fd(&console[0]), 1 << 20, &node_console_ops, n);
    if (n->config->host) {
        n->key_ids =
            conn_new(g_steal_fd(&key_ids[0]), PREFLIGHT_KEY_ID_BYTES,
                     &node_key_id_ops, n);
    } else {
        node_has_key(n, preflight_key_id(m->config, m->uuid));
    }
    machine_log(m, "node %s: %s is process %d", n->config->name,
                n->config->host ? "the way to its host" : "QEMU", (int)n->pid);
    m->on_progress(m, n, "starting");
    ok = true;
out:
    for (int i = 0; i < 2; i++) {
        close_fd(&qmp[i]);
        close_fd(&agent[i]);
        close_fd(&console[i]);
        close_fd(&key_ids[i]);
    }
    if (!ok) {
        g_prefix_error(error, "node %s: ", n->config->name);
    }
    return ok;
}

/*
 * The process that answers node 0's echo queue, a floor for measurements; it
 * is the guard's to end.
 */
static bool echo_start(struct machine *m, int *ret_kick, int *ret_call,
                       GError **error)
{
    g_autofree char *program = prefix_path("libexec/chimera/bench/echo-floor");
    char *argv[] = { program, (char *)"3", (char *)"4", NULL };
    g_autofree char *log = rundir_file(m->rd, "echo.log");
    const int targets[] = { 3, 4 };
    int fds[2];
    pid_t pid;

    fds[0] = *ret_kick = eventfd(0, EFD_CLOEXEC);
    fds[1] = *ret_call = eventfd(0, EFD_CLOEXEC);
    if (fds[0] < 0 || fds[1] < 0) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_HOST, "eventfd: %s",
                    g_strerror(errno));
        return false;
    }
    pid = child_start(argv, fds, targets, 2, NULL, log, error);
    if (pid < 0) {
        return false;
    }
    m->echo_pidfd = watch_child(m, pid, false, error);
    return m->echo_pidfd >= 0;
}

static gboolean on_boot_timeout(gpointer opaque)
{
    struct machine *m = opaque;
    GString *s = g_string_new(NULL);

    m->boot_timer = 0;
    for (unsigned i = 0; i < m->nr_nodes; i++) {
        struct node *n = &m->nodes[i];

        if (n->state != NODE_UP) {
            g_autofree char *con = log_excerpt(n, "console", "The last lines");
            g_autofree char *err = log_excerpt(n, "qemu", "QEMU's messages");
            const char *missing = n->state == NODE_STARTING
                                      ? "QEMU's monitor does not answer"
                                  : !n->system ? "its agent does not answer"
                                               : "it does not see all nodes";

            g_string_append_printf(
                s, "%snode %s did not boot within %u s (boot-timeout): %s%s%s",
                s->len ? "\n" : "", n->config->name, m->config->boot_timeout_s,
                missing, err, con);
            if (s->str[s->len - 1] == '\n') {
                g_string_truncate(s, s->len - 1);
            }
        }
    }
    boot_failed(m, g_string_free(s, FALSE));
    return G_SOURCE_REMOVE;
}

static gboolean on_guard_end(int fd, GIOCondition cond, gpointer opaque)
{
    struct machine *m = opaque;
    g_autoptr(GError) error = NULL;

    machine_log(m, "the guard died; starting another");
    if (!guard_restart(m->guard, &error)) {
        machine_log(m, "no guard: %s", error->message);
    } else {
        g_unix_fd_add(guard_fd(m->guard), G_IO_IN | G_IO_HUP, on_guard_end, m);
    }
    return G_SOURCE_REMOVE;
}

bool machine_start(struct machine *m, GError **error)
{
    int kick = -1, call = -1;
    bool ok = true;

    m->echo_pidfd = -1;
    m->uuid = g_uuid_string_random();
    m->nr_nodes = m->config->nodes->len;
    m->nodes = g_new0(struct node, m->nr_nodes);
    for (unsigned i = 0; i < m->nr_nodes; i++) {
        struct node *n = &m->nodes[i];

        n->machine = m;
        n->config = config_node(m->config, i);
        n->accel = &m->accels[i];
        n->index = i;
        n->pidfd = -1;
        n->log_fd = -1;
        n->reason = g_strdup("");
    }
    g_unix_fd_add(guard_fd(m->guard), G_IO_IN | G_IO_HUP, on_guard_end, m);
    if (m->echo_floor) {
        ok = echo_start(m, &kick, &call, error);
    }
    for (unsigned i = 0; ok && i < m->nr_nodes; i++) {
        ok = node_start(&m->nodes[i], i == 0 ? kick : -1, i == 0 ? call : -1,
                        error);
    }
    close_fd(&kick);
    close_fd(&call);
    m->boot_timer =
        g_timeout_add_seconds(m->config->boot_timeout_s, on_boot_timeout, m);
    return ok;
}

/* ---- stop ---- */

static gboolean on_quit_grace_over(gpointer opaque)
{
    struct machine *m = opaque;

    m->stop_timer = 0;
    machine_log(m, "%u QEMUs are left to the guard", m->nr_alive);
    g_main_loop_quit(m->loop);
    return G_SOURCE_REMOVE;
}

static void ignore_reply(JsonNode *ret, const GError *error, void *opaque)
{
}

static gboolean on_poweroff_grace_over(gpointer opaque)
{
    struct machine *m = opaque;

    for (unsigned i = 0; i < m->nr_nodes; i++) {
        if (m->nodes[i].qmp) {
            machine_log(m, "node %s does not power off",
                        m->nodes[i].config->name);
            qmp_execute(m->nodes[i].qmp, "quit", false, ignore_reply, NULL);
        }
    }
    m->stop_timer = g_timeout_add(QUIT_GRACE_MS, on_quit_grace_over, m);
    return G_SOURCE_REMOVE;
}

void machine_stop(struct machine *m, bool at_once)
{
    if (m->boot_timer) {
        g_source_remove(m->boot_timer);
        m->boot_timer = 0;
    }
    if (at_once || m->nr_alive == 0) {
        m->state = MACHINE_STOPPING;
        g_main_loop_quit(m->loop);
        return;
    }
    if (m->state == MACHINE_STOPPING) {
        return;
    }
    machine_log(m, "stopping");
    m->state = MACHINE_STOPPING;
    for (unsigned i = 0; i < m->nr_nodes; i++) {
        struct node *n = &m->nodes[i];

        if (agent_is_ready(n->agent)) {
            agent_poweroff(n->agent);
        } else if (n->qmp) {
            qmp_execute(n->qmp, "quit", false, ignore_reply, NULL);
        }
    }
    m->stop_timer = g_timeout_add(POWEROFF_GRACE_MS, on_poweroff_grace_over, m);
}

void machine_clear(struct machine *m)
{
    if (m->stop_timer) {
        g_source_remove(m->stop_timer);
    }
    for (unsigned i = 0; i < m->nr_nodes; i++) {
        struct node *n = &m->nodes[i];

        if (n->pid_source) {
            g_source_remove(n->pid_source);
        }
        node_disconnect(n);
        close_fd(&n->log_fd);
        g_free(n->reason);
        g_free(n->system);
        g_free(n->shutdown);
        g_free(n->given_up);
        g_free(n->key_id);
    }
    g_free(m->nodes);
    g_free(m->uuid);
    g_free(m->boot_error);
}

/* ---- status ---- */

static void set(JsonBuilder *b, const char *name, const char *value)
{
    json_builder_set_member_name(b, name);
    json_builder_add_string_value(b, value);
}

static void set_int(JsonBuilder *b, const char *name, gint64 value)
{
    json_builder_set_member_name(b, name);
    json_builder_add_int_value(b, value);
}

static double seconds_between(gint64 from_us, gint64 to_us)
{
    return (double)((to_us - from_us + 500) / 1000) / 1000;
}

/* From the node's start; nothing when it has not happened. */
static void set_time(JsonBuilder *b, const char *name, gint64 from_us,
                     gint64 at_us)
{
    if (at_us) {
        json_builder_set_member_name(b, name);
        json_builder_add_double_value(b, seconds_between(from_us, at_us));
    }
}

static void node_status(JsonBuilder *b, const struct node *n)
{
    bool alive = n->state != NODE_DOWN && n->pid > 0;

    json_builder_begin_object(b);
    set_int(b, "index", n->index);
    set(b, "name", n->config->name);
    set(b, "host", n->config->host ? n->config->host : "");
    set(b, "isa", isa_name(n->config->isa));
    set_int(b, "cpus", n->config->cpus);
    set_int(b, "memory_bytes", (gint64)n->config->memory_bytes);
    set(b, "accel", accel_name(n->accel->accel));
    set(b, "accel_reason", n->accel->reason);
    set(b, "state", node_state_name(n->state));
    set(b, "reason", n->reason);
    set(b, "system", n->system ? n->system : "");
    set_int(b, "pid", alive ? n->pid : 0);
    set_time(b, "uptime_s", n->start_us, alive ? g_get_monotonic_time() : 0);
    json_builder_set_member_name(b, "boot_s");
    json_builder_begin_object(b);
    set_time(b, "start", n->machine->start_us, n->start_us);
    set_time(b, "monitor", n->machine->start_us, n->qmp_us);
    set_time(b, "agent", n->machine->start_us, n->agent_us);
    set_time(b, "up", n->machine->start_us, n->up_us);
    json_builder_end_object(b);
    json_builder_end_object(b);
}

JsonNode *machine_status(const struct machine *m)
{
    g_autoptr(JsonBuilder) b = json_builder_new();

    json_builder_begin_object(b);
    set(b, "name", m->config->name);
    set(b, "state", machine_state_name(m->state));
    set_int(b, "pid", getpid());
    set(b, "config", m->config->path);
    set(b, "run_directory", m->rd->path);
    set(b, "uuid", m->uuid);
    set(b, "coherence", coherence_name(m->config->coherence));
    set(b, "share", m->config->share);
    set_time(b, "uptime_s", m->start_us, g_get_monotonic_time());
    set_time(b, "boot_s", m->start_us, m->up_us);
    json_builder_set_member_name(b, "nodes");
    json_builder_begin_array(b);
    for (unsigned i = 0; i < m->nr_nodes; i++) {
        node_status(b, &m->nodes[i]);
    }
    json_builder_end_array(b);
    json_builder_end_object(b);
    return json_builder_get_root(b);
}
