/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "command.h"
#include "config.h"
#include "paths.h"
#include "preflight.h"
#include "qemu.h"
#include "util.h"

#include <stdio.h>

/* Where a machine of this name would have its run directory. */
static char *run_path(const char *name)
{
    g_autofree char *root = runtime_root();

    return g_build_filename(root, name, NULL);
}

static void print_qemu_args(const struct machine_config *config,
                            const struct accel_choice *accels)
{
    g_autofree char *run = run_path(config->name);

    for (unsigned i = 0; i < config->nodes->len; i++) {
        struct qemu_spec spec = {
            .config = config,
            .self = i,
            .accel = accels ? accels[i].accel : ACCEL_TCG,
            .run_path = run,
            /* a machine that runs has a random one */
            .machine_uuid = "00000000-0000-4000-8000-000000000000",
        };
        g_auto(GStrv) argv = qemu_argv(&spec);

        for (char **arg = argv; *arg; arg++) {
            g_autofree char *quoted = g_shell_quote(*arg);

            printf("%s%s", arg == argv ? "" : " ", quoted);
        }
        printf("\n");
    }
}

static void print_summary(const struct machine_config *config)
{
    printf("%s: ok: machine %s, %s, %u node%s:", config->path, config->name,
           coherence_name(config->coherence), config->nodes->len,
           config->nodes->len == 1 ? "" : "s");
    for (unsigned i = 0; i < config->nodes->len; i++) {
        const struct node_config *n = config_node(config, i);
        g_autofree char *memory = format_size(n->memory_bytes);

        printf("%s %s (%s, %u CPU%s, %s)", i ? "," : "", n->name,
               isa_name(n->isa), n->cpus, n->cpus == 1 ? "" : "s", memory);
    }
    printf("\n");
}

static bool validate(const char *arg, bool syntax_only, bool qemu_args,
                     GError **error)
{
    g_autofree char *path = config_find(arg, error);
    g_autoptr(MachineConfig) config = path ? config_load(path, error) : NULL;
    struct accel_choice *accels = NULL;

    if (!config || (!syntax_only && !preflight(config, &accels, error))) {
        return false;
    }
    if (qemu_args) {
        print_qemu_args(config, accels);
    } else {
        print_summary(config);
    }
    if (accels) {
        accel_choices_free(accels, config->nodes->len);
    }
    return true;
}

int builtin_validate(char **args)
{
    bool syntax_only = false, qemu_args = false;
    const struct option_spec specs[] = {
        { "syntax", 0, OPTION_FLAG, &syntax_only },
        { "qemu-args", 0, OPTION_FLAG, &qemu_args },
        { NULL },
    };
    int code = EXIT_OK;

    if (!command_options("validate", specs, &args)) {
        return EXIT_USAGE;
    }
    if (!*args) {
        return command_usage("validate", "CONF is missing");
    }
    for (; *args; args++) {
        GError *error = NULL;

        if (!validate(*args, syntax_only, qemu_args, &error)) {
            code = command_failed(EXIT_FAILED, error);
        }
    }
    return code;
}
