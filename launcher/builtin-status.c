/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "client.h"
#include "command.h"
#include "rundir.h"
#include "table.h"
#include "target.h"
#include "util.h"

#include <stdio.h>

#define STR(o, name) json_object_get_string_member_with_default(o, name, "")
#define INT(o, name) json_object_get_int_member_with_default(o, name, 0)
#define DBL(o, name) json_object_get_double_member_with_default(o, name, 0)

static void print_machine(JsonObject *o)
{
    static const char *const heads[] = { ">#",      "NODE",    "ISA",
                                         ">CPUS",   ">MEMORY", "ACCEL",
                                         "STATE",   "HOST",    ">PID",
                                         ">UPTIME", "REASON",  NULL };
    JsonArray *nodes = json_object_get_array_member(o, "nodes");
    struct table *t = table_new(heads);
    g_autofree char *up = cell_duration(DBL(o, "uptime_s"));

    printf("%s: %s since %s, supervisor process %" G_GINT64_FORMAT ", %s\n",
           STR(o, "name"), STR(o, "state"), up, INT(o, "pid"), STR(o, "config"));
    for (unsigned i = 0; i < json_array_get_length(nodes); i++) {
        JsonObject *n = json_array_get_object_element(nodes, i);

        table_add(t, g_strdup_printf("%u", i));
        table_add(t, g_strdup(STR(n, "name")));
        table_add(t, g_strdup(STR(n, "isa")));
        table_add(t, cell_number(INT(n, "cpus")));
        table_add(t, format_size((uint64_t)INT(n, "memory_bytes")));
        table_add(t, g_strdup(STR(n, "accel")));
        table_add(t, g_strdup(STR(n, "state")));
        table_add(t, g_strdup(*STR(n, "host") ? STR(n, "host") : "-"));
        table_add(t, cell_number(INT(n, "pid")));
        table_add(t, cell_duration(DBL(n, "uptime_s")));
        table_add(t, g_strdup(STR(n, "reason")));
    }
    table_print(t, "  ");
}

/*
 * All answers as one JSON array, or as text; 1 when a machine failed.
 * @named: not to answer because it comes or goes just now is a failure too.
 */
static int show(char **machines, bool json, bool named)
{
    g_autoptr(JsonArray) all = json_array_new();
    int code = EXIT_OK;

    for (char **m = machines; *m; m++) {
        GError *error = NULL;
        JsonNode *answer = client_query(*m, CTL_STATUS, &error);

        if (!answer) {
            if (!named &&
                (g_error_matches(error, CHIMERA_ERROR, CHIMERA_ERROR_FLEETING) ||
                 g_error_matches(error, CHIMERA_ERROR, CHIMERA_ERROR_TARGET))) {
                g_error_free(error);
            } else {
                code = command_failed(EXIT_FAILED, error);
            }
            continue;
        }
        if (!json) {
            print_machine(json_node_get_object(answer));
        }
        json_array_add_element(all, answer);
    }
    if (!json && json_array_get_length(all) == 0 && code == EXIT_OK) {
        printf("no machine is running\n");
    }
    if (json) {
        g_autoptr(JsonNode) root = json_node_new(JSON_NODE_ARRAY);
        g_autofree char *text = NULL;

        json_node_set_array(root, all);
        text = json_to_string(root, TRUE);
        printf("%s\n", text);
    }
    return code;
}

int builtin_status(char **args)
{
    bool json = false;
    const struct option_spec specs[] = {
        { "json", 0, OPTION_FLAG, &json },
        { NULL },
    };
    g_auto(GStrv) machines = NULL;
    GStrvBuilder *b;

    if (!command_options("status", specs, &args)) {
        return EXIT_USAGE;
    }
    if (!*args) {
        machines = rundir_list();
        return show(machines, json, false);
    }
    b = g_strv_builder_new();
    for (; *args; args++) {
        GError *error = NULL;
        g_autofree char *name = target_machine(*args, &error);

        if (!name) {
            g_strv_builder_unref(b);
            return command_failed(EXIT_FAILED, error);
        }
        g_strv_builder_add(b, name);
    }
    machines = g_strv_builder_end(b);
    g_strv_builder_unref(b);
    return show(machines, json, true);
}
