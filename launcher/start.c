/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "start.h"

#include "signals.h"
#include "util.h"

struct machine_config *start_prepare(const char *conf,
                                     const struct start_options *o,
                                     struct accel_choice **ret_accels,
                                     GError **error)
{
    g_autoptr(MachineConfig) config = NULL;
    g_autofree char *path = NULL;

    signals_block();
    path = config_find(conf, error);
    if (!path) {
        return NULL;
    }
    config = config_load(path, error);
    if (!config) {
        return NULL;
    }
    if (o->name && !config_name_is_valid(o->name)) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_CONFIG,
                    "--name: found '%s'; allowed: 1 to %d letters, digits, "
                    "'_' and '-'",
                    o->name, CONFIG_MAX_NAME);
        return NULL;
    }
    if (o->name) {
        g_free(config->name);
        config->name = g_strdup(o->name);
    }
    if (o->share) {
        g_free(config->share);
        config->share = g_canonicalize_filename(o->share, NULL);
    }
    if (o->echo_floor && config_node(config, 0)->host) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_CONFIG,
                    "--echo-floor: node %s is on another host",
                    config_node(config, 0)->name);
        return NULL;
    }
    if (!preflight(config, ret_accels, error)) {
        return NULL;
    }
    return g_steal_pointer(&config);
}

struct launch *start_machine(const struct machine_config *config,
                             const struct accel_choice *accels,
                             const struct start_options *o, bool ephemeral,
                             int *ret_signal, GError **error)
{
    g_autofree char *logs =
        o->logs ? g_canonicalize_filename(o->logs, NULL) : NULL;
    g_autofree char *record =
        o->record ? g_canonicalize_filename(o->record, NULL) : NULL;
    const struct supervisor_options options = {
        .config = config,
        .accels = accels,
        .ephemeral = ephemeral,
        .echo_floor = o->echo_floor,
        .logs_dir = logs,
        .record = record,
    };

    return launch_start(&options, o->quiet, ret_signal, error);
}
