/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The configuration parser takes any bytes: it gives a machine whose values
 * are within their limits, or a message of printable lines that name the file.
 */
#include "config.h"
#include "util.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void check_machine(const struct machine_config *c)
{
    g_assert_true(config_name_is_valid(c->name));
    g_assert_true(c->nodes->len >= 1 && c->nodes->len <= CONFIG_MAX_NODES);
    for (unsigned i = 0; i < c->nodes->len; i++) {
        const struct node_config *n = config_node(c, i);

        g_assert_true(config_name_is_valid(n->name));
        g_assert_true(n->cpus >= 1 && n->cpus <= CONFIG_MAX_CPUS);
        g_assert_true(n->memory_bytes >= 64 << 20 &&
                      n->memory_bytes % (1 << 20) == 0);
        g_assert_true(g_path_is_absolute(n->kernel));
        g_assert_true(g_path_is_absolute(n->initrd));
        g_assert_true(isa_name(n->isa) && accel_name(n->accel));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    g_autoptr(GError) error = NULL;
    struct machine_config *c =
        config_parse("/etc/m.conf", (const char *)data, bytes, &error);

    if (c) {
        check_machine(c);
        config_free(c);
    } else {
        g_auto(GStrv) lines = g_strsplit(error->message, "\n", -1);

        g_assert_true(*lines != NULL);
        for (char **line = lines; *line; line++) {
            g_assert_true(g_str_has_prefix(*line, "/etc/m.conf:"));
        }
    }
    return 0;
}
