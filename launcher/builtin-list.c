/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "client.h"
#include "command.h"
#include "rundir.h"
#include "table.h"
#include "util.h"

#include <stdio.h>

#define STR(o, name) json_object_get_string_member_with_default(o, name, "")
#define DBL(o, name) json_object_get_double_member_with_default(o, name, 0)

int builtin_list(char **args)
{
    static const char *const heads[] = { "NAME", "STATE",   ">NODES", ">UP",
                                         ">PID", ">UPTIME", "CONFIG", NULL };
    bool json = false;
    const struct option_spec specs[] = {
        { "json", 0, OPTION_FLAG, &json },
        { NULL },
    };
    g_auto(GStrv) machines = NULL;
    struct table *t;

    if (!command_options("list", specs, &args)) {
        return EXIT_USAGE;
    }
    if (*args) {
        return command_usage("list", "unexpected '%s'", *args);
    }
    if (json) {
        char *status_args[] = { (char *)"--json", NULL };

        return builtin_status(status_args);
    }
    machines = rundir_list();
    t = table_new(heads);
    for (char **m = machines; *m; m++) {
        g_autoptr(JsonNode) answer = client_query(*m, CTL_STATUS, NULL);
        JsonObject *o = answer ? json_node_get_object(answer) : NULL;
        JsonArray *nodes = o ? json_object_get_array_member(o, "nodes") : NULL;
        unsigned up = 0, n = nodes ? json_array_get_length(nodes) : 0;
        pid_t pid;

        for (unsigned i = 0; i < n; i++) {
            up += !g_strcmp0(
                STR(json_array_get_object_element(nodes, i), "state"), "up");
        }
        rundir_probe(*m, &pid);
        table_add(t, g_strdup(*m));
        table_add(t, g_strdup(o ? STR(o, "state") : "not answering"));
        table_add(t, g_strdup_printf("%u", n));
        table_add(t, g_strdup_printf("%u", up));
        table_add(t, cell_number(pid));
        table_add(t, cell_duration(o ? DBL(o, "uptime_s") : 0));
        table_add(t, g_strdup(o ? STR(o, "config") : ""));
    }
    table_print(t, "");
    return EXIT_OK;
}
