/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "target.h"

#include "client.h"
#include "config.h"
#include "rundir.h"
#include "util.h"

#include <string.h>

char *target_machine(const char *arg, GError **error)
{
    if (!arg) {
        g_auto(GStrv) names = rundir_list();
        g_autofree char *all = g_strjoinv(", ", names);
        unsigned n = g_strv_length(names);

        if (n == 1) {
            return g_strdup(names[0]);
        }
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_TARGET,
                    n ? "several machines run, name one: %s"
                      : "no machine is running%s",
                    all);
        return NULL;
    }
    if (strchr(arg, '/') || g_str_has_suffix(arg, ".conf")) {
        g_autofree char *path = config_find(arg, error);
        g_autoptr(MachineConfig) config = path ? config_load(path, error) : NULL;

        return config ? g_strdup(config->name) : NULL;
    }
    if (!config_name_is_valid(arg)) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_TARGET,
                    "'%s' is no name of a machine", arg);
        return NULL;
    }
    return g_strdup(arg);
}

static JsonArray *nodes_of(JsonObject *status)
{
    JsonNode *n = json_object_get_member(status, "nodes");

    return n && JSON_NODE_HOLDS_ARRAY(n) ? json_node_get_array(n) : NULL;
}

bool target_find_node(JsonObject *status, const char *arg, unsigned *ret_index,
                      const char **ret_name)
{
    JsonArray *nodes = nodes_of(status);
    uint64_t index = UINT64_MAX;

    parse_uint(arg, 0, UINT32_MAX, &index);
    for (unsigned i = 0; nodes && i < json_array_get_length(nodes); i++) {
        const char *name = json_object_get_string_member_with_default(
            json_array_get_object_element(nodes, i), "name", "");

        if (strcmp(name, arg) == 0 || index == i) {
            *ret_index = i;
            *ret_name = name;
            return true;
        }
    }
    return false;
}

static void append_node_names(GString *s, JsonObject *status, const char *prefix)
{
    JsonArray *nodes = nodes_of(status);

    for (unsigned i = 0; nodes && i < json_array_get_length(nodes); i++) {
        g_string_append_printf(
            s, "%s%s%s%s", s->len ? ", " : "", prefix, *prefix ? "/" : "",
            json_object_get_string_member_with_default(
                json_array_get_object_element(nodes, i), "name", ""));
    }
}

char *target_node_names(JsonObject *status)
{
    GString *s = g_string_new(NULL);

    append_node_names(s, status, "");
    return g_string_free(s, FALSE);
}

void target_node_clear(struct target_node *t)
{
    g_clear_pointer(&t->machine, g_free);
    g_clear_pointer(&t->name, g_free);
    g_clear_pointer(&t->share, g_free);
}

bool target_node(const char *arg, struct target_node *ret, GError **error)
{
    g_autoptr(GString) known = g_string_new(NULL);
    g_autoptr(GString) matches = g_string_new(NULL);
    g_autofree char *only = NULL;
    g_auto(GStrv) machines = NULL;
    const char *slash = strrchr(arg, '/'), *node = arg;
    unsigned found = 0;

    if (slash) {
        g_autofree char *machine = g_strndup(arg, (gsize)(slash - arg));

        only = target_machine(machine, error);
        if (!only) {
            return false;
        }
        node = slash + 1;
        machines = g_new0(char *, 2);
        machines[0] = g_strdup(only);
    } else {
        machines = rundir_list();
    }
    for (char **m = machines; *m; m++) {
        g_autoptr(GError) query_error = NULL;
        g_autoptr(JsonNode) answer = client_query(*m, CTL_STATUS, &query_error);
        JsonObject *status;
        const char *name;
        unsigned index;

        if (!answer) {
            if (only || !machines[1]) {
                g_propagate_error(error, g_steal_pointer(&query_error));
                return false;
            }
            continue; /* one of several that ends just now */
        }
        status = json_node_get_object(answer);
        append_node_names(known, status, machines[1] ? *m : "");
        if (!target_find_node(status, node, &index, &name)) {
            continue;
        }
        g_string_append_printf(matches, "%s%s/%s", matches->len ? ", " : "", *m,
                               name);
        if (found++ == 0) {
            ret->machine = g_strdup(*m);
            ret->name = g_strdup(name);
            ret->index = index;
            ret->share = g_strdup(json_object_get_string_member_with_default(
                status, "share", "/"));
        }
    }
    if (found == 1) {
        return true;
    }
    if (found > 1) {
        target_node_clear(ret);
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_TARGET,
                    "several nodes match '%s', choose one: %s", arg,
                    matches->str);
    } else if (known->len > 0) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_TARGET,
                    "no node '%s'; there are: %s", arg, known->str);
    } else {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_TARGET,
                    "no node '%s': no machine is running", arg);
    }
    return false;
}
