/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "command.h"

#include "courier.h"
#include "util.h"

#include <fcntl.h>
#include <locale.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

const struct command commands[] = {
    { "run", "boot a machine, run a program on it, shut it down", builtin_run,
      "[OPTION...] CONF [OPTION...] [--] PROG [ARG...]\n\n"
      "  --node NODE        run PROG on this node (default: the first)\n"
      "  --share DIR        the folder shared with all nodes\n"
      "  --name NAME        another name for the machine\n"
      "  -e, --env VAR[=VALUE]  set VAR for PROG, or pass it on; repeatable\n"
      "  -E, --keep-env     pass on the environment\n"
      "  --cwd DIR          PROG's working directory in the guest\n"
      "  --user UID[:GID]   run PROG as this user of the guest\n"
      "  -t, --tty          PROG gets a terminal (default: when we have one)\n"
      "  -T, --no-tty       PROG gets no terminal\n"
      "  -n, --no-stdin     PROG reads end of file\n"
      "  -q, --quiet        no progress\n"
      "  --logs DIR         keep the logs of consoles and QEMUs in DIR\n"
      "  --record FILE      write the counters down each second; for report\n"
      "  --timings          say on stderr where the time went\n"
      "  --echo-floor       an echo process on node 0's fabric, to measure" },
    { "up", "boot a machine and leave it running", builtin_up,
      "[OPTION...] CONF\n\n"
      "  --share DIR        the folder shared with all nodes\n"
      "  --name NAME        another name for the machine\n"
      "  -q, --quiet        no progress\n"
      "  --logs DIR         keep the logs of consoles and QEMUs in DIR\n"
      "  --record FILE      write the counters down each second; for report\n"
      "  --json             print the machine's status when it is up" },
    { "down", "shut machines down", builtin_down,
      "[OPTION...] [MACHINE|CONF]...\n\n"
      "  -a, --all          all machines of this user\n"
      "  -f, --force        at once, and also when the supervisor hangs" },
    { "status", "show machines and their nodes", builtin_status,
      "[--json] [MACHINE|CONF]..." },
    { "list", "list running machines", builtin_list, "[--json]" },
    { "exec", "run a program on a node", builtin_exec,
      "[OPTION...] NODE [--] PROG [ARG...]\n\n"
      "  -e, --env VAR[=VALUE]  set VAR for PROG, or pass it on; repeatable\n"
      "  -E, --keep-env     pass on the environment\n"
      "  --cwd DIR          PROG's working directory in the guest\n"
      "  --user UID[:GID]   run PROG as this user of the guest\n"
      "  -t, --tty          PROG gets a terminal (default: when we have one)\n"
      "  -T, --no-tty       PROG gets no terminal\n"
      "  -n, --no-stdin     PROG reads end of file\n\n"
      "NODE is a node's name or index, MACHINE/NODE when several run." },
    { "console", "attach to the console of a node", builtin_console,
      "[OPTION] NODE\n\n"
      "  --log              print what it has said so far and end\n\n"
      "^] leaves. NODE is a node's name or index, MACHINE/NODE when several "
      "run." },
    { "migrate", "ask a running program to move to a node", builtin_migrate,
      "[OPTION] PID[/TID] NODE\n\n"
      "  --home NODE        where the program was started (default: the first)"
      "\n\n"
      "PID, or one thread of it, goes to NODE at its next migration points and "
      "stays there;\nat its home it moves as it likes again." },
    { "validate", "check configurations without starting anything",
      builtin_validate,
      "[OPTION] CONF...\n\n"
      "  --qemu-args        print the command line of every node\n"
      "  --syntax           look at the files only, not at this host" },
    { "stats", "show the counters of the links between nodes", builtin_stats,
      "[--json] [MACHINE|CONF]" },
    { "top", "show what the nodes wait for, again and again", builtin_top,
      "[OPTION...] [MACHINE|CONF]\n\n"
      "  -d, --delay SECONDS  between two rounds (default: 1)\n"
      "  -n, --count COUNT    end after so many rounds\n"
      "  -b, --batch          plain text, one round after the other\n\n"
      "q quits." },
    { "report", "make a page of plots from a recorded run", builtin_report,
      "[-o OUT.html] [FILE|MACHINE] [-o OUT.html]\n\n"
      "  -o, --output FILE  where to (default: beside the recording), - for "
      "stdout\n\n"
      "FILE comes from 'chimera run --record FILE' or 'chimera up --record "
      "FILE'; MACHINE is\none that runs and is being recorded." },
    { "bench", "run a benchmark", builtin_bench,
      "[NAME [ARG...]]\n\nWithout NAME: lists them." },
    { "help", "show the commands or one of them", builtin_help, "[COMMAND]" },
    { "version", "show the version", builtin_version, "[--json]" },
    { NULL }
};

static bool passes_on_exit_codes(const char *name)
{
    return !strcmp(name, "run") || !strcmp(name, "exec");
}

int command_failed(int code, GError *error)
{
    g_auto(GStrv) lines = g_strsplit(error->message, "\n", -1);

    for (char **line = lines; *line; line++) {
        if (**line) {
            complain("%s", *line);
        }
    }
    g_error_free(error);
    return code;
}

int command_usage(const char *name, const char *fmt, ...)
{
    g_autofree char *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    complain("%s: %s; 'chimera help %s' says more", name, text, name);
    return passes_on_exit_codes(name) ? EXIT_LAUNCHER : EXIT_USAGE;
}

bool command_options(const char *name, const struct option_spec *specs,
                     char ***args)
{
    g_autoptr(GError) error = NULL;
    bool dashes;

    if (!options_parse(specs, args, &dashes, &error)) {
        command_usage(name, "%s", error->message);
        return false;
    }
    return true;
}

void command_help(const struct command *c)
{
    printf("chimera %s - %s\n\nusage: chimera %s %s\n", c->name, c->summary,
           c->name, c->usage);
}

static int unknown_command(const char *name)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    const char *near;

    for (const struct command *c = commands; c->name; c++) {
        g_ptr_array_add(names, (char *)c->name);
    }
    g_ptr_array_add(names, NULL);
    near = did_you_mean(name, (const char *const *)names->pdata);
    complain("unknown command '%s'%s%s%s; 'chimera help' lists them", name,
             near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
    return EXIT_USAGE;
}

/* Closed standard descriptors would be given to sockets and logs. */
static void open_standard_descriptors(void)
{
    int fd;

    do {
        fd = open("/dev/null", O_RDWR);
    } while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd > STDERR_FILENO) {
        close(fd);
    }
}

int main(int argc, char **argv)
{
    char *help[] = { NULL };
    const char *name;

    open_standard_descriptors();
    setlocale(LC_CTYPE, "");
    if (argc < 2) {
        builtin_help(help);
        return EXIT_USAGE;
    }
    name = argv[1];
    if (!strcmp(name, "--help") || !strcmp(name, "-h")) {
        name = "help";
    } else if (!strcmp(name, "--version")) {
        name = "version";
    }
    for (const struct command *c = commands; c->name; c++) {
        if (strcmp(c->name, name) != 0) {
            continue;
        }
        if (argc == 3 && (!strcmp(argv[2], "--help") || !strcmp(argv[2], "-h"))) {
            command_help(c);
            return EXIT_OK;
        }
        return c->run(argv + 2);
    }
    /* What the launcher starts itself, on either side of the way to a host. */
    if (!strcmp(name, "node-near")) {
        return courier_near();
    }
    if (!strcmp(name, "node-far")) {
        return courier_far();
    }
    return unknown_command(name);
}
