/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * run: an `up` that ends with this command, an `exec` on it, a `down`. The
 * three use the same code as the commands of those names.
 */
#include "command.h"
#include "session-options.h"
#include "start.h"
#include "target.h"
#include "util.h"

#include <string.h>

struct timing {
    gint64 start_us, ready_us, ended_us;
};

static double ms(gint64 from_us, gint64 to_us)
{
    return (double)(to_us - from_us) / 1000;
}

static void print_timings(const struct timing *t, JsonObject *status)
{
    JsonArray *nodes = json_object_get_array_member(status, "nodes");
    gint64 now = g_get_monotonic_time();

    for (unsigned i = 0; i < json_array_get_length(nodes); i++) {
        JsonObject *n = json_array_get_object_element(nodes, i);
        JsonObject *b = json_object_get_object_member(n, "boot_s");
#define AT(x) (json_object_get_double_member_with_default(b, x, 0) * 1000)

        complain("timing: node %s: QEMU started at %.0f ms, its monitor "
                 "answered at %.0f, the agent at %.0f, all nodes seen at %.0f",
                 json_object_get_string_member(n, "name"), AT("start"),
                 AT("monitor"), AT("agent"), AT("up"));
#undef AT
    }
    complain("timing: boot %.0f ms, program %.0f ms, shutdown %.0f ms, in all "
             "%.0f ms",
             ms(t->start_us, t->ready_us), ms(t->ready_us, t->ended_us),
             ms(t->ended_us, now), ms(t->start_us, now));
}

/* The index of --node before anything starts. */
static bool find_node(const struct machine_config *config, const char *arg,
                      unsigned *ret_index, GError **error)
{
    g_autoptr(GString) names = g_string_new(NULL);
    uint64_t index = UINT64_MAX;

    *ret_index = 0;
    if (!arg) {
        return true;
    }
    parse_uint(arg, 0, UINT32_MAX, &index);
    for (unsigned i = 0; i < config->nodes->len; i++) {
        const char *name = config_node(config, i)->name;

        if (!strcmp(name, arg) || index == i) {
            *ret_index = i;
            return true;
        }
        g_string_append_printf(names, "%s%s", i ? ", " : "", name);
    }
    g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_TARGET,
                "--node: machine %s has no node '%s'; there are: %s",
                config->name, arg, names->str);
    return false;
}

int builtin_run(char **args)
{
    g_autoptr(GPtrArray) env = g_ptr_array_new();
    struct start_options start = { 0 };
    struct session_args session = { .env = env };
    struct session_options session_options;
    char *node = NULL;
    bool timings = false, dashes;
    const struct option_spec specs[] = {
        START_OPTIONS(start),
        SESSION_OPTIONS(session),
        { "node", 0, OPTION_STRING, &node },
        { "timings", 0, OPTION_FLAG, &timings },
        { "echo-floor", 0, OPTION_FLAG, &start.echo_floor },
        { NULL },
    };
    struct timing t = { .start_us = g_get_monotonic_time() };
    g_autoptr(MachineConfig) config = NULL;
    g_auto(GStrv) session_env = NULL;
    g_autoptr(JsonNode) status = NULL;
    struct accel_choice *accels = NULL;
    GError *error = NULL;
    struct launch *launch;
    const char *conf;
    unsigned index;
    int signal = 0, code;

    if (!options_parse(specs, &args, &dashes, &error)) {
        goto usage;
    }
    conf = *args;
    if (!conf) {
        return command_usage("run", "CONF and PROG are missing");
    }
    args++;
    if (!dashes && !options_parse(specs, &args, &dashes, &error)) {
        goto usage;
    }
    if (!*args) {
        return command_usage("run", "PROG is missing");
    }
    if (!session_options_make(&session, &session_options, &error)) {
        goto usage;
    }
    session_env = session_options.env;
    config = start_prepare(conf, &start, &accels, &error);
    if (!config) {
        return command_failed(EXIT_LAUNCHER, error);
    }
    if (!find_node(config, node, &index, &error)) {
        accel_choices_free(accels, config->nodes->len);
        return command_failed(EXIT_LAUNCHER, error);
    }
    launch = start_machine(config, accels, &start, true, &signal, &error);
    accel_choices_free(accels, config->nodes->len);
    if (!launch) {
        return error ? command_failed(EXIT_LAUNCHER, error)
                     : EXIT_SIGNAL_BASE + signal;
    }
    t.ready_us = g_get_monotonic_time();
    status = json_node_ref(launch_status(launch));
    code = session_run(config->name, index, config_node(config, index)->name,
                       config->share, args, &session_options, &error);
    t.ended_us = g_get_monotonic_time();
    if (code < 0) {
        code = command_failed(EXIT_LAUNCHER, error);
    }
    if (!launch_stop(launch, false)) {
        complain("the supervisor of machine '%s' died; its guard has cleaned "
                 "up",
                 config->name);
        return EXIT_LAUNCHER;
    }
    if (timings) {
        print_timings(&t, json_node_get_object(status));
    }
    return code;

usage:
    code = command_usage("run", "%s", error->message);
    g_error_free(error);
    return code;
}
