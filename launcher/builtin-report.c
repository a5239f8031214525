/* SPDX-License-Identifier: GPL-2.0-or-later */
/* report: one page of HTML from a recording. */
#include "command.h"
#include "paths.h"
#include "report.h"
#include "rundir.h"
#include "target.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* Whole or not at all: what was at @path stays until all is written. */
static bool write_report(const char *path, const char *from, const char *text,
                         GError **error)
{
    g_autofree char *temporary = g_strdup_printf("%s.XXXXXX", path);
    mode_t mask = umask(0);
    struct stat st, of;
    const char *what = "create";
    int fd = -1, err;

    umask(mask);
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_HOST,
                    "cannot write %s: it is not a regular file", path);
        return false;
    }
    if (stat(path, &st) == 0 && stat(from, &of) == 0 &&
        st.st_dev == of.st_dev && st.st_ino == of.st_ino) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_HOST,
                    "%s is the recording itself; choose another file with -o",
                    path);
        return false;
    }
    fd = g_mkstemp_full(temporary, O_WRONLY | O_CLOEXEC, 0666 & ~mask);
    err = fd < 0 ? errno : 0;
    if (!err) {
        what = "write";
        err = write_all(fd, text, strlen(text));
        if (close(fd) < 0 && !err) {
            err = errno;
        }
        if (!err && rename(temporary, path) < 0) {
            err = errno;
        }
        if (err) {
            unlink(temporary);
        }
    }
    if (err) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_HOST,
                    "cannot %s %s: %s", what, path, g_strerror(err));
    }
    return !err;
}

/* The recording that @arg means, and whether it is being written. */
static char *find_recording(const char *arg, bool *ret_growing, GError **error)
{
    g_autofree char *machine = NULL, *root = NULL, *link = NULL, *path = NULL;
    pid_t pid;

    *ret_growing = false;
    if (arg && (strchr(arg, '/') || g_file_test(arg, G_FILE_TEST_EXISTS)) &&
        !g_str_has_suffix(arg, ".conf")) {
        return g_strdup(arg);
    }
    machine = target_machine(arg, error);
    if (!machine) {
        return NULL;
    }
    root = runtime_root();
    link = g_build_filename(root, machine, "recording", NULL);
    path = g_file_read_link(link, NULL);
    if (!path) {
        bool runs = rundir_probe(machine, &pid) == RUNDIR_OWNED;

        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_STATE,
                    runs ? "machine '%s' is not recorded: start it with "
                           "--record FILE"
                         : "no machine '%s' is running",
                    machine);
        return NULL;
    }
    *ret_growing = true;
    return g_steal_pointer(&path);
}

int builtin_report(char **args)
{
    g_autofree char *path = NULL, *html = NULL, *to = NULL;
    struct recording *r;
    char *output = NULL;
    const struct option_spec specs[] = {
        { "output", 'o', OPTION_STRING, &output },
        { NULL },
    };
    GError *error = NULL;
    const char *arg;
    bool growing;

    if (!command_options("report", specs, &args)) {
        return EXIT_USAGE;
    }
    arg = *args;
    if (arg) {
        args++;
        if (!command_options("report", specs, &args)) {
            return EXIT_USAGE;
        }
    }
    if (*args) {
        return command_usage("report", "unexpected '%s'", *args);
    }
    path = find_recording(arg, &growing, &error);
    if (!path) {
        return command_failed(EXIT_FAILED, error);
    }
    r = recording_open(path, growing, &error);
    if (r) {
        html = report_html(r, &error);
        recording_free(r);
    }
    if (!html) {
        return command_failed(EXIT_FAILED, error);
    }
    if (!output) { /* beside the recording */
        const char *dot = strrchr(path, '.');
        const char *slash = strrchr(path, '/');
        bool named = dot && dot > (slash ? slash + 1 : path);

        to = g_strdup_printf("%.*s.html",
                             (int)(named ? dot - path : (gssize)strlen(path)),
                             path);
        output = to;
    }
    if (!strcmp(output, "-")) {
        if (write_all(STDOUT_FILENO, html, strlen(html)) != 0) {
            return EXIT_FAILED;
        }
        return EXIT_OK;
    }
    if (!write_report(output, path, html, &error)) {
        return command_failed(EXIT_FAILED, error);
    }
    printf("%s\n", output);
    return EXIT_OK;
}
