/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Statistics, output and subprocesses of the benchmarks; see bench.h. */
#define _GNU_SOURCE
#include "bench.h"

#include <errno.h>
#include <gio/gio.h>
#include <gio/gunixinputstream.h>
#include <gio/gunixoutputstream.h>
#include <json-glib/json-glib.h>
#include <math.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "bench-version.h"

void bench_check(GError *error)
{
    if (error) {
        g_printerr("%s: %s\n", g_get_prgname(), error->message);
        exit(1);
    }
}

char *bench_host_cpus(int count)
{
    GString *list = g_string_new(NULL);
    int found = 0;
    cpu_set_t set;

    CPU_ZERO(&set);
    sched_getaffinity(0, sizeof(set), &set);
    for (int cpu = 0; cpu < CPU_SETSIZE && found < count; cpu++) {
        if (CPU_ISSET(cpu, &set)) {
            g_string_append_printf(list, "%s%d", found++ ? "," : "", cpu);
        }
    }
    if (found < count) {
        g_printerr("%s: needs %d host CPUs, found %d\n", g_get_prgname(), count,
                   found);
        exit(1);
    }
    return g_string_free(list, FALSE);
}

const char *bench_prefix(void)
{
    static char *prefix;

    if (!prefix) {
        g_autoptr(GError) error = NULL;
        g_autofree char *exe = g_file_read_link("/proc/self/exe", &error);
        g_autofree char *bench_dir = NULL, *data_dir = NULL, *libexec = NULL;

        bench_check(error);
        bench_dir = g_path_get_dirname(exe);
        data_dir = g_path_get_dirname(bench_dir);
        libexec = g_path_get_dirname(data_dir);
        prefix = g_path_get_dirname(libexec);
    }
    return prefix;
}

void bench_init(int *argc, char ***argv, const char *what,
                int default_samples, struct bench_options *ret_options)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    GOptionEntry entries[] = {
        { "json", 0, 0, G_OPTION_ARG_NONE, &ret_options->json,
          "One JSON object a line", NULL },
        { "markdown", 0, 0, G_OPTION_ARG_NONE, &ret_options->markdown,
          "Rows of a Markdown table", NULL },
        { "samples", 'n', 0, G_OPTION_ARG_INT, &ret_options->samples,
          "Runs of each side", "N" },
        { "config", 'c', 0, G_OPTION_ARG_FILENAME, &ret_options->config,
          "Machine to measure on", "FILE" },
        G_OPTION_ENTRY_NULL
    };

    ret_options->json = FALSE;
    ret_options->markdown = FALSE;
    ret_options->samples = default_samples;
    ret_options->config = NULL;
    g_option_context_set_summary(context, what);
    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, argc, argv, &error) || *argc != 1 ||
        ret_options->samples < 1 || ret_options->samples > 1000) {
        g_printerr("%s: %s\n", g_get_prgname(),
                   error         ? error->message
                   : *argc != 1 ? "takes no arguments"
                                : "--samples must be 1 to 1000");
        exit(2);
    }
    if (!ret_options->config) {
        ret_options->config =
            g_build_filename(bench_prefix(), "share", "chimera", "machines",
                             "x86-arm.conf", NULL);
    }
}

static int compare_doubles(gconstpointer a, gconstpointer b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

double bench_quantile(const GArray *samples, double q)
{
    g_autoptr(GArray) sorted = NULL;
    double position;
    guint below;

    if (!samples || samples->len == 0) {
        return NAN;
    }
    sorted = g_array_sized_new(FALSE, FALSE, sizeof(double), samples->len);
    g_array_append_vals(sorted, samples->data, samples->len);
    g_array_sort(sorted, compare_doubles);
    position = q * (sorted->len - 1);
    below = (guint)position;
    if (below + 1 >= sorted->len) {
        return g_array_index(sorted, double, sorted->len - 1);
    }
    return g_array_index(sorted, double, below) * (below + 1 - position) +
           g_array_index(sorted, double, below + 1) * (position - below);
}

double bench_median(const GArray *samples)
{
    return bench_quantile(samples, 0.5);
}

void bench_collect(GArray *samples, const char *output, const char *prefix,
                   double unit)
{
    g_auto(GStrv) lines = g_strsplit(output, "\n", -1);

    for (char **line = lines; *line; line++) {
        g_auto(GStrv) numbers = NULL;

        if (!g_str_has_prefix(*line, prefix)) {
            continue;
        }
        numbers = g_strsplit(*line + strlen(prefix), " ", -1);
        for (char **number = numbers; *number; number++) {
            double sample = g_ascii_strtod(*number, NULL) / unit;

            g_array_append_val(samples, sample);
        }
    }
}

void bench_collect_one(GArray *samples, const char *output,
                       const char *prefix, double unit)
{
    guint before = samples->len;

    bench_collect(samples, output, prefix, unit);
    if (samples->len != before + 1) {
        bench_check(g_error_new(g_quark_from_static_string("bench"), 0,
                                "not one '%s':\n%s", prefix, output));
    }
}

/* A long series is thinned for the output; the median is of all of it. */
#define BENCH_MAX_PRINTED_SAMPLES 200

static void add_samples(JsonBuilder *builder, const char *member,
                        const GArray *samples)
{
    guint step = samples->len / BENCH_MAX_PRINTED_SAMPLES + 1;

    json_builder_set_member_name(builder, member);
    json_builder_begin_array(builder);
    for (guint i = 0; i < samples->len; i += step) {
        json_builder_add_double_value(builder,
                                      g_array_index(samples, double, i));
    }
    json_builder_end_array(builder);
}

static char *describe_host(void)
{
    g_autofree char *cpuinfo = NULL;
    g_autofree char *model = NULL;
    struct utsname uts;

    if (g_file_get_contents("/proc/cpuinfo", &cpuinfo, NULL, NULL)) {
        const char *line = strstr(cpuinfo, "model name");
        const char *colon = line ? strchr(line, ':') : NULL;

        if (colon) {
            model = g_strndup(colon + 2, strcspn(colon + 2, "\n"));
        }
    }
    uname(&uts);
    return g_strdup_printf("%s, %ld CPUs, %s %s",
                           model ? model : uts.machine,
                           sysconf(_SC_NPROCESSORS_ONLN), uts.sysname,
                           uts.release);
}

static void emit_json(const struct bench_figure *figure, double value,
                      double reference, double ratio)
{
    static char *host;
    g_autoptr(JsonBuilder) builder = json_builder_new();
    g_autoptr(JsonNode) root = NULL;
    g_autofree char *text = NULL;
    const char *kind = figure->reference == BENCH_FLOOR ? "floor" : "peer";
    g_autofree char *kind_samples = g_strconcat(kind, "_samples", NULL);

    if (!host) {
        host = describe_host();
    }
    json_builder_begin_object(builder);
    json_builder_set_member_name(builder, "name");
    json_builder_add_string_value(builder, figure->name);
    json_builder_set_member_name(builder, "case");
    json_builder_add_string_value(builder, figure->kase);
    json_builder_set_member_name(builder, "value");
    json_builder_add_double_value(builder, value);
    json_builder_set_member_name(builder, "unit");
    json_builder_add_string_value(builder, figure->unit);
    if (figure->reference_samples) {
        json_builder_set_member_name(builder, kind);
        json_builder_add_double_value(builder, reference);
        json_builder_set_member_name(builder, "ratio");
        json_builder_add_double_value(builder, ratio);
    }
    if (figure->goal > 0) {
        json_builder_set_member_name(builder, "goal");
        json_builder_add_double_value(builder, figure->goal);
    }
    add_samples(builder, "samples", figure->samples);
    if (figure->reference_samples) {
        add_samples(builder, kind_samples, figure->reference_samples);
    }
    json_builder_set_member_name(builder, "git");
    json_builder_add_string_value(builder, BENCH_GIT);
    json_builder_set_member_name(builder, "host");
    json_builder_add_string_value(builder, host);
    json_builder_end_object(builder);
    root = json_builder_get_root(builder);
    text = json_to_string(root, FALSE);
    printf("%s\n", text);
}

static void emit_row(const struct bench_figure *figure, double value,
                     double reference, double ratio)
{
    static gboolean titled;
    const char *verdict = "";

    if (!titled) {
        printf("%-10s %-24s %12s %-7s %12s %7s %7s  %s\n", "benchmark",
               "case", "median", "unit", "floor/peer", "ratio", "goal",
               "samples");
        titled = TRUE;
    }
    printf("%-10s %-24s %12.4g %-7s ", figure->name, figure->kase, value,
           figure->unit);
    if (figure->reference_samples) {
        printf("%12.4g %7.3f ", reference, ratio);
    } else {
        printf("%12s %7s ", "-", "-");
    }
    if (figure->goal > 0) {
        gboolean met = figure->bigger_is_better ? ratio >= figure->goal
                                                : ratio <= figure->goal;

        printf("%7.3g  ", figure->goal);
        verdict = met ? ", goal met" : ", GOAL MISSED";
    } else {
        printf("%7s  ", "-");
    }
    printf("%u, %.4g..%.4g%s\n", figure->samples->len,
           bench_quantile(figure->samples, 0),
           bench_quantile(figure->samples, 1), verdict);
}

static void emit_markdown(const struct bench_figure *figure, double value,
                          double reference, double ratio)
{
    printf("| %s | %s | %.4g %s | ", figure->name, figure->kase, value,
           figure->unit);
    if (figure->reference_samples) {
        printf("%.4g (%s) | %.3f | ", reference,
               figure->reference == BENCH_FLOOR ? "floor" : "peer", ratio);
    } else {
        printf("- | - | ");
    }
    if (figure->goal > 0) {
        printf("%.3g | ", figure->goal);
    } else {
        printf("- | ");
    }
    printf("%u: %.4g..%.4g |\n", figure->samples->len,
           bench_quantile(figure->samples, 0),
           bench_quantile(figure->samples, 1));
}

static double median_of_ratios(const GArray *samples, const GArray *others)
{
    g_autoptr(GArray) ratios = g_array_new(FALSE, FALSE, sizeof(double));

    g_assert(samples->len == others->len);
    for (guint i = 0; i < samples->len; i++) {
        double ratio = g_array_index(samples, double, i) /
                       g_array_index(others, double, i);

        g_array_append_val(ratios, ratio);
    }
    return bench_median(ratios);
}

void bench_emit(const struct bench_options *options,
                const struct bench_figure *figure)
{
    double value = bench_median(figure->samples);
    double reference = bench_median(figure->reference_samples);
    double ratio = value / reference;

    if (figure->paired && figure->reference_samples) {
        ratio = median_of_ratios(figure->samples, figure->reference_samples);
    }
    if (options->json) {
        emit_json(figure, value, reference, ratio);
    } else if (options->markdown) {
        emit_markdown(figure, value, reference, ratio);
    } else {
        emit_row(figure, value, reference, ratio);
    }
    fflush(stdout);
}

static GArray *p99_of(const GArray *samples)
{
    GArray *tail = g_array_new(FALSE, FALSE, sizeof(double));
    double p99 = bench_quantile(samples, 0.99);

    g_array_append_val(tail, p99);
    return tail;
}

void bench_emit_p99(const struct bench_options *options,
                    const struct bench_figure *figure)
{
    struct bench_figure tail = *figure;
    g_autofree char *kase = g_strconcat(figure->kase, "-p99", NULL);
    g_autoptr(GArray) samples = p99_of(figure->samples);
    g_autoptr(GArray) reference = NULL;

    if (figure->reference_samples) {
        reference = p99_of(figure->reference_samples);
    }
    tail.kase = kase;
    tail.samples = samples;
    tail.reference_samples = reference;
    tail.goal = 0;
    bench_emit(options, &tail);
}

struct run {
    GMainLoop *loop;
    GSubprocess *process;
    GBytes *out, *err;
    GError *error;
    gboolean timed_out;
};

static void run_done(GObject *source, GAsyncResult *result, gpointer data)
{
    struct run *run = data;

    g_subprocess_communicate_finish(G_SUBPROCESS(source), result, &run->out,
                                    &run->err, &run->error);
    g_main_loop_quit(run->loop);
}

static gboolean run_timed_out(gpointer data)
{
    struct run *run = data;

    run->timed_out = TRUE;
    g_subprocess_force_exit(run->process);
    return G_SOURCE_REMOVE;
}

char *bench_run(const char *const *argv, int timeout_s, double *ret_seconds,
                GError **error)
{
    struct run run = { 0 };
    gint64 start = g_get_monotonic_time();
    char *output = NULL;
    guint timer;

    run.process = g_subprocess_newv(argv,
                                    G_SUBPROCESS_FLAGS_STDOUT_PIPE |
                                        G_SUBPROCESS_FLAGS_STDERR_PIPE,
                                    error);
    if (!run.process) {
        return NULL;
    }
    run.loop = g_main_loop_new(NULL, FALSE);
    timer = g_timeout_add_seconds(timeout_s, run_timed_out, &run);
    g_subprocess_communicate_async(run.process, NULL, NULL, run_done, &run);
    g_main_loop_run(run.loop);
    if (ret_seconds) {
        *ret_seconds = (g_get_monotonic_time() - start) / 1e6;
    }
    if (run.timed_out) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_TIMED_OUT,
                    "%s: not done after %d s, killed", argv[0], timeout_s);
    } else {
        g_source_remove(timer);
        if (run.error) {
            g_propagate_error(error, g_steal_pointer(&run.error));
        } else if (!g_subprocess_get_successful(run.process)) {
            fwrite(g_bytes_get_data(run.err, NULL), 1,
                   g_bytes_get_size(run.err), stderr);
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED,
                        "%s: wait status %d", argv[0],
                        g_subprocess_get_status(run.process));
        } else {
            output = g_strndup(g_bytes_get_data(run.out, NULL),
                               g_bytes_get_size(run.out));
        }
    }
    g_clear_error(&run.error);
    g_clear_pointer(&run.out, g_bytes_unref);
    g_clear_pointer(&run.err, g_bytes_unref);
    g_main_loop_unref(run.loop);
    g_object_unref(run.process);
    return output;
}

struct bench_dialogue {
    GSubprocess *process;
    char *name;
    int in, out;    /* the program's, of @process */
    GString *text;  /* read and not yet looked at */
};

/* A QEMU does not end when its console does. */
static void end_with_parent(gpointer data)
{
    prctl(PR_SET_PDEATHSIG, SIGTERM);
}

struct bench_dialogue *bench_dialogue_start(const char *const *argv,
                                            GError **error)
{
    g_autoptr(GSubprocessLauncher) launcher = g_subprocess_launcher_new(
        G_SUBPROCESS_FLAGS_STDIN_PIPE | G_SUBPROCESS_FLAGS_STDOUT_PIPE);
    GSubprocess *process;
    struct bench_dialogue *d;

    g_subprocess_launcher_set_child_setup(launcher, end_with_parent, NULL,
                                          NULL);
    process = g_subprocess_launcher_spawnv(launcher, argv, error);
    if (!process) {
        return NULL;
    }
    signal(SIGPIPE, SIG_IGN);   /* an error of the write instead */
    d = g_new0(struct bench_dialogue, 1);
    d->process = process;
    d->name = g_strdup(argv[0]);
    d->in = g_unix_output_stream_get_fd(
        G_UNIX_OUTPUT_STREAM(g_subprocess_get_stdin_pipe(process)));
    d->out = g_unix_input_stream_get_fd(
        G_UNIX_INPUT_STREAM(g_subprocess_get_stdout_pipe(process)));
    d->text = g_string_new(NULL);
    return d;
}

/* The next line of output that is here already, or NULL. */
static char *next_line(struct bench_dialogue *d)
{
    char *end = strchr(d->text->str, '\n');
    char *line;

    if (!end) {
        return NULL;
    }
    line = g_strndup(d->text->str, end - d->text->str);
    g_string_erase(d->text, 0, end - d->text->str + 1);
    return g_strchomp(line);
}

char *bench_dialogue_ask(struct bench_dialogue *d, const char *line,
                         const char *prefix, int timeout_s, GError **error)
{
    gint64 until = g_get_monotonic_time() + timeout_s * G_USEC_PER_SEC;
    g_autofree char *last = g_strdup("");

    if (line) {
        g_autofree char *out = g_strconcat(line, "\n", NULL);

        if (write(d->in, out, strlen(out)) != (ssize_t)strlen(out)) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_BROKEN_PIPE,
                        "%s: does not read its input", d->name);
            return NULL;
        }
    }
    for (;;) {
        struct pollfd pfd = { .fd = d->out, .events = POLLIN };
        gint64 left_ms = (until - g_get_monotonic_time()) / 1000;
        char buffer[4096];
        char *answer;
        ssize_t n;

        while ((answer = next_line(d))) {
            if (g_str_has_prefix(answer, prefix)) {
                return answer;
            }
            g_free(last);
            last = answer;
        }
        if (left_ms <= 0 || poll(&pfd, 1, left_ms) == 0) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_TIMED_OUT,
                        "%s: no line '%s...' within %d s; the last one was "
                        "'%s'", d->name, prefix, timeout_s, last);
            return NULL;
        }
        n = read(d->out, buffer, sizeof(buffer));
        if (n == 0 || (n < 0 && errno != EINTR)) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_CLOSED,
                        "%s: ended without a line '%s...'; the last one was "
                        "'%s'", d->name, prefix, last);
            return NULL;
        }
        if (n > 0) {
            g_string_append_len(d->text, buffer, n);
        }
    }
}

static gboolean dialogue_timed_out(gpointer data)
{
    g_subprocess_force_exit(data);
    return G_SOURCE_REMOVE;
}

static void dialogue_done(GObject *source, GAsyncResult *result, gpointer data)
{
    g_subprocess_wait_finish(G_SUBPROCESS(source), result, NULL);
    g_main_loop_quit(data);
}

void bench_dialogue_end(struct bench_dialogue *d, int timeout_s)
{
    g_autoptr(GMainLoop) loop = g_main_loop_new(NULL, FALSE);
    g_autoptr(GSource) timer = g_timeout_source_new_seconds(timeout_s);

    g_output_stream_close(g_subprocess_get_stdin_pipe(d->process), NULL, NULL);
    g_source_set_callback(timer, dialogue_timed_out, d->process, NULL);
    g_source_attach(timer, NULL);
    g_subprocess_wait_async(d->process, NULL, dialogue_done, loop);
    g_main_loop_run(loop);
    g_source_destroy(timer);
    g_object_unref(d->process);
    g_string_free(d->text, TRUE);
    g_free(d->name);
    g_free(d);
}

char **bench_stock_argv(const char *isa, int cpus, const char *memory,
                        const char *share, const char *script)
{
    g_autoptr(GStrvBuilder) argv = g_strv_builder_new();
    gboolean x86 = g_str_equal(isa, "x86_64");
    g_autofree char *qemu =
        g_strdup_printf("%s/bin/qemu-system-%s", bench_prefix(), isa);
    g_autofree char *firmware = g_strdup_printf("%s/share/qemu", bench_prefix());
    g_autofree char *kernel =
        g_strdup_printf("%s/images/%s/kernel", bench_prefix(), isa);
    g_autofree char *initrd =
        g_strdup_printf("%s/images/%s/initramfs.cpio.gz", bench_prefix(), isa);
    g_autofree char *smp = g_strdup_printf("%d", cpus);
    g_autofree char *append = g_strdup_printf(
        "console=%s quiet panic=-1 %srdinit=/bin/sh -- -c \"%s\"",
        x86 ? "ttyS0" : "ttyAMA0",
        x86 ? "noreplace-smp no_timer_check " : "", script);

    g_strv_builder_add_many(
        argv, qemu, "-nodefaults", "-no-user-config", "-display", "none",
        "-no-reboot", "-L", firmware, "-accel", "tcg,thread=multi", "-smp", smp,
        "-m", memory, "-kernel", kernel, "-initrd", initrd, "-append", append,
        "-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
        "-device", "virtio-rng-pci", NULL);
    if (x86) {
        g_strv_builder_add_many(argv, "-M", "q35", "-bios", "qboot.rom",
                                "-cpu", "max", NULL);
    } else {
        g_strv_builder_add_many(argv, "-M", "virt,gic-version=3", "-cpu",
                                "max", NULL);
    }
    if (share) {
        g_autofree char *fsdev = g_strdup_printf(
            "local,id=share,path=%s,security_model=none,readonly=on", share);

        g_strv_builder_add_many(argv, "-fsdev", fsdev, "-device",
                                "virtio-9p-pci,fsdev=share,mount_tag=share",
                                NULL);
    }
    return g_strv_builder_end(argv);
}
