/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "request.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static char path_default[] = "PATH=" SPAWN_DEFAULT_PATH;
static char home_default[] = "HOME=/root";
static char shell_default[] = "SHELL=/bin/sh";
static char *const defaults[] = { path_default, home_default, shell_default };
#define NR_DEFAULTS (sizeof(defaults) / sizeof(defaults[0]))

static bool parse_number(const char *text, unsigned long max,
                         unsigned long *ret_value)
{
    char *end;

    errno = 0;
    *ret_value = strtoul(text, &end, 10);
    return isdigit((unsigned char)*text) && !*end && !errno &&
           *ret_value <= max;
}

const char *request_parse(struct exec_request *r, char *text, size_t len)
{
    size_t nr_strings = 0, nr_args = 0, nr_env = 0;
    unsigned long v;

    memset(r, 0, sizeof(*r));
    if (!len || text[len - 1]) {
        return "the strings do not end with a NUL";
    }
    for (size_t i = 0; i < len; i++) {
        nr_strings += !text[i];
    }
    r->argv = calloc(nr_strings + 1, sizeof(*r->argv));
    r->envp = calloc(nr_strings + NR_DEFAULTS + 1, sizeof(*r->envp));
    if (!r->argv || !r->envp) {
        return "no memory for so many strings";
    }
    for (char *p = text; p < text + len; p += strlen(p) + 1) {
        char *value = strchr(p, '=');
        size_t key = value ? (size_t)(value - p) : 0;

        if (!value) {
            return "a string is not KEY=VALUE";
        }
        value++;
#define KEY(name) (key == strlen(name) && !memcmp(p, name, key))
        if (KEY("arg")) {
            r->argv[nr_args++] = value;
        } else if (KEY("env")) {
            if (*value == '=' || !strchr(value, '=')) {
                return "env is not NAME=VALUE";
            }
            r->envp[nr_env++] = value;
        } else if (KEY("cwd")) {
            r->spawn.cwd = value;
        } else if (KEY("tty")) {
            if (strcmp(value, "0") && strcmp(value, "1")) {
                return "tty is not 0 or 1";
            }
            r->spawn.tty = *value == '1';
        } else if (KEY("rows") || KEY("cols")) {
            if (!parse_number(value, UINT16_MAX, &v)) {
                return "rows or cols is not a number up to 65535";
            }
            *(*p == 'r' ? &r->spawn.rows : &r->spawn.cols) = v;
        } else if (KEY("uid") || KEY("gid") || KEY("group")) {
            if (!parse_number(value, UINT32_MAX - 1, &v)) {
                return "uid, gid or group is not a number";
            }
            if (*p == 'u') {
                r->spawn.uid = v;
            } else if (p[1] == 'i') {
                r->spawn.gid = v;
            } else if (r->spawn.nr_groups < REQUEST_MAX_GROUPS) {
                r->groups[r->spawn.nr_groups++] = v;
            } else {
                return "too many groups";
            }
        } else {
            return "unknown key";
        }
#undef KEY
    }
    if (!nr_args) {
        return "there is no arg";
    }
    for (size_t i = 0; i < NR_DEFAULTS; i++) {
        char name[8] = "";

        memcpy(name, defaults[i], strcspn(defaults[i], "="));
        if (!spawn_getenv(r->envp, name)) {
            r->envp[nr_env++] = defaults[i];
        }
    }
    r->spawn.argv = r->argv;
    r->spawn.envp = r->envp;
    r->spawn.groups = r->groups;
    return NULL;
}

void request_free(struct exec_request *r)
{
    free(r->argv);
    free(r->envp);
    r->argv = r->envp = NULL;
}
