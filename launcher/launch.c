/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "launch.h"

#include "client.h"
#include "progress.h"
#include "signals.h"
#include "util.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>

struct launch {
    struct client *client;
    pid_t pid; /* of the supervisor */
    GMainLoop *loop;
    struct progress *progress;
    JsonNode *status; /* NULL: not up yet */
    GError *error;
    bool closed, bye;
    int signal;
};

static void on_frame(struct client *cl, unsigned type, unsigned stream,
                     const uint8_t *payload, gsize len, void *opaque)
{
    struct launch *l = opaque;

    l->bye |= type == CTL_BYE;
}

static void on_json(struct client *cl, unsigned type, JsonNode *node,
                    void *opaque)
{
    struct launch *l = opaque;
    JsonObject *o = json_node_get_object(node);

    if (type == CTL_PROGRESS && l->progress) {
        progress_event(
            l->progress,
            (unsigned)json_object_get_int_member_with_default(o, "node", 0),
            json_object_get_string_member_with_default(o, "event", ""),
            json_object_get_double_member_with_default(o, "seconds", 0));
    } else if (type == CTL_READY) {
        l->status = json_node_ref(node);
        g_main_loop_quit(l->loop);
    }
}

static void on_closed(struct client *cl, const GError *error, void *opaque)
{
    struct launch *l = opaque;

    l->closed = true;
    if (error && !l->error) {
        l->error = g_error_copy(error);
    }
    g_main_loop_quit(l->loop);
}

static const struct client_ops launch_ops = {
    .frame = on_frame,
    .json = on_json,
    .closed = on_closed,
};

static void on_signal(int signal, void *opaque)
{
    struct launch *l = opaque;

    if (signal == SIGWINCH) {
        return;
    }
    /* The first asks; the supervisor answers by closing. More hurry. */
    if (l->progress && !l->signal) {
        progress_phase(l->progress, "interrupted, ending");
    }
    client_send_u32(l->client, CTL_DOWN, 0, l->signal ? 1 : 0);
    if (!l->signal) {
        l->signal = signal;
    }
}

/* The supervisor and its guard closed the connection: all is gone. */
static void launch_free(struct launch *l)
{
    client_free(l->client);
    while (waitpid(l->pid, NULL, 0) < 0 && errno == EINTR) {}
    g_clear_pointer(&l->status, json_node_unref);
    g_clear_error(&l->error);
    g_main_loop_unref(l->loop);
    g_free(l);
}

struct launch *launch_start(const struct supervisor_options *options,
                            bool quiet, int *ret_signal, GError **error)
{
    struct launch *l = g_new0(struct launch, 1);
    g_autofree char *summary = NULL;
    int fd;

    if (!supervisor_fork(options, &fd, &l->pid, error)) {
        g_free(l);
        return NULL;
    }
    l->loop = g_main_loop_new(NULL, FALSE);
    l->client = client_new(fd, &launch_ops, l);
    l->progress = progress_new(options->config, quiet);
    signals_handle(on_signal, l);
    do {
        g_main_loop_run(l->loop);
    } while (!l->closed && (!l->status || l->signal));

    if (!l->closed) {
        double s = json_object_get_double_member_with_default(
            json_node_get_object(l->status), "boot_s", 0);

        summary = g_strdup_printf("up after %.2f s", s);
        progress_free(l->progress, summary);
        l->progress = NULL;
        return l;
    }
    progress_free(l->progress, NULL);
    if (l->signal) {
        *ret_signal = l->signal;
    } else if (l->error) {
        g_propagate_error(error, g_steal_pointer(&l->error));
    } else if (l->bye) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_STATE,
                    "machine '%s' was shut down before it was up",
                    options->config->name);
    } else {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_STATE,
                    "the supervisor of machine '%s' died",
                    options->config->name);
    }
    launch_free(l);
    return NULL;
}

JsonNode *launch_status(const struct launch *l)
{
    return l->status;
}

bool launch_stop(struct launch *l, bool at_once)
{
    bool ok;

    l->signal = 0;
    signals_handle(on_signal, l);
    if (!l->closed) {
        client_send_u32(l->client, CTL_DOWN, 0, at_once);
        l->signal = SIGINT; /* from here on every signal hurries */
    }
    while (!l->closed) {
        g_main_loop_run(l->loop);
    }
    ok = l->bye;
    launch_free(l);
    return ok;
}

void launch_leave(struct launch *l)
{
    client_free(l->client);
    g_clear_pointer(&l->status, json_node_unref);
    g_clear_error(&l->error);
    g_main_loop_unref(l->loop);
    g_free(l);
}
