/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "options.h"

#include "util.h"

#include <string.h>

static const char *const *option_names(const struct option_spec *specs)
{
    GPtrArray *names = g_ptr_array_new();

    for (; specs->name; specs++) {
        g_ptr_array_add(names, (char *)specs->name);
    }
    g_ptr_array_add(names, NULL);
    return (const char *const *)g_ptr_array_free(names, FALSE);
}

static bool unknown(const struct option_spec *specs, const char *arg,
                    GError **error)
{
    g_autofree const char *const *names = option_names(specs);
    g_autofree char *word = g_strdup(arg[1] == '-' ? arg + 2 : "");
    const char *near;

    if (strchr(word, '=')) {
        *strchr(word, '=') = '\0';
    }
    near = *word ? did_you_mean(word, names) : NULL;
    g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_CONFIG,
                "unknown option '%s'%s%s%s", arg,
                near ? "; did you mean '--" : "", near ? near : "",
                near ? "'?" : "");
    return false;
}

static bool apply(const struct option_spec *spec, char *value)
{
    switch (spec->kind) {
    case OPTION_FLAG:
        *(bool *)spec->target = true;
        break;
    case OPTION_STRING:
        *(char **)spec->target = value;
        break;
    case OPTION_LIST:
        g_ptr_array_add(spec->target, value);
        break;
    }
    return true;
}

static const struct option_spec *find(const struct option_spec *specs,
                                      const char *name, size_t len, char letter)
{
    for (; specs->name; specs++) {
        if (name ? strlen(specs->name) == len &&
                       memcmp(specs->name, name, len) == 0
                 : specs->letter == letter) {
            return specs;
        }
    }
    return NULL;
}

/* "--name", "--name=value", "--name value" */
static bool parse_long(const struct option_spec *specs, char ***args,
                       GError **error)
{
    char *arg = *(*args)++;
    char *name = arg + 2, *eq = strchr(name, '=');
    const struct option_spec *spec =
        find(specs, name, eq ? (size_t)(eq - name) : strlen(name), 0);
    char *value = eq ? eq + 1 : NULL;

    if (!spec) {
        return unknown(specs, arg, error);
    }
    if (spec->kind == OPTION_FLAG ? value != NULL : !value && !**args) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_CONFIG,
                    value ? "option '--%s' takes no value"
                          : "option '--%s' needs a value",
                    spec->name);
        return false;
    }
    if (spec->kind != OPTION_FLAG && !value) {
        value = *(*args)++;
    }
    return apply(spec, value);
}

/* "-qn", "-eVALUE", "-e VALUE" */
static bool parse_letters(const struct option_spec *specs, char ***args,
                          GError **error)
{
    char *arg = *(*args)++;

    for (char *c = arg + 1; *c; c++) {
        const struct option_spec *spec = find(specs, NULL, 0, *c);

        if (!spec) {
            const char bad[] = { '-', *c, '\0' };

            return unknown(specs, bad, error);
        }
        if (spec->kind == OPTION_FLAG) {
            apply(spec, NULL);
        } else if (c[1]) {
            return apply(spec, c + 1);
        } else if (**args) {
            return apply(spec, *(*args)++);
        } else {
            g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_CONFIG,
                        "option '-%c' needs a value", *c);
            return false;
        }
    }
    return true;
}

bool options_parse(const struct option_spec *specs, char ***args,
                   bool *ret_dashes, GError **error)
{
    *ret_dashes = false;
    while (**args && (**args)[0] == '-' && (**args)[1]) {
        if (strcmp(**args, "--") == 0) {
            (*args)++;
            *ret_dashes = true;
            return true;
        }
        if (!((**args)[1] == '-' ? parse_long(specs, args, error)
                                 : parse_letters(specs, args, error))) {
            return false;
        }
    }
    return true;
}
