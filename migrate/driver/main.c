/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * chimera-cc: a C compiler driver whose programs can move between ISAs.
 *
 * Object files hold optimised, ISA-neutral bitcode; linking makes one program
 * file for all ISAs.  Options are clang's; what has no meaning here is either
 * ignored (it cannot change what the program does) or an error that says why.
 *
 * Called as chimera-ar, chimera-ranlib or chimera-nm it runs LLVM's tool, which
 * understands such objects.
 */

#include "driver.h"

#include "flags.h"

#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

enum stage { STAGE_PREPROCESS, STAGE_ASSEMBLY, STAGE_OBJECT, STAGE_LINK };

struct options {
    enum stage stage;
    const char *output;
    const char *mode;           /* -fmigrate= */
    const char *language;       /* -x */
    GPtrArray *compile;         /* options for clang */
    GPtrArray *sources;         /* struct source */
    GPtrArray *link;            /* for the linker, objects of sources by name */
    GPtrArray *llc;
    gboolean no_output;         /* -M, -MM, -fsyntax-only ... */
    gboolean strip, stats;
    gboolean explain;
    gboolean debug;             /* -g in some form */
};

struct source {
    const char *path;
    const char *language;
    guint link_index;           /* its object's place in options.link */
};

/* Options of ours and what they do not mean. */
static const char usage[] =
    "usage: chimera-cc [clang options] FILE...\n"
    "\n"
    "Compiles C programs that can move between x86_64 and aarch64.\n"
    "\n"
    "  -fmigrate=loops     polls at function entries and in outer loops (default)\n"
    "  -fmigrate=entry     polls at function entries only\n"
    "  -fmigrate=calls     no polls; only chimera_migrate() moves\n"
    "  -fmigrate=none      as plain clang compiles, apart from the layout\n"
    "  --explain           when linking: which functions can migrate, and why\n"
    "                      the others cannot; with lines for files that are\n"
    "                      compiled by this command or with -g\n"
    "  --extract=ISA       write the program FILE as one that starts on ISA\n"
    "  --save-temps        keep intermediate files and say where\n"
    "\n"
    "Everything else is as in clang.  docs/migration.md tells more.\n";

static gboolean one_of(const char *s, const char *const *list)
{
    for (; *list; list++) {
        if (g_str_equal(s, *list)) {
            return TRUE;
        }
    }
    return FALSE;
}

static gboolean prefix_of(const char *s, const char *const *list)
{
    for (; *list; list++) {
        if (g_str_has_prefix(s, *list)) {
            return TRUE;
        }
    }
    return FALSE;
}

/* Options with a separate argument that the compiler gets. */
static const char *const with_argument[] = {
    "-I", "-D", "-U", "-include", "-imacros", "-isystem", "-iquote",
    "-idirafter", "-MF", "-MT", "-MQ", "-Xclang", "-mllvm", "-Xpreprocessor",
    "-iprefix", "-iwithprefix", "-isysroot", "--param", NULL
};

/*
 * No effect on a static, position-dependent program for two ISAs.  -fcommon: a
 * variable that two files define is an error that names it.
 */
static const char *const ignored[] = {
    "-static", "-pipe", "-fPIC", "-fpic", "-fPIE", "-fpie", "-fno-pic",
    "-fno-PIC", "-fno-pie", "-fno-PIE", "-pie", "-no-pie", "-static-pie",
    "-rdynamic", "-pthread", "-pthreads", "-fno-plt", "-shared-libgcc",
    "-static-libgcc", "-m64", "-fno-lto", "-flto", "-flto=auto", "-flto=thin",
    "-ffat-lto-objects", "-fno-fat-lto-objects",
    "-fcommon", "-fno-common", "-fstack-clash-protection", "-mno-red-zone",
    "-fstack-protector", "-fstack-protector-strong", "-fstack-protector-all",
    "-fno-stack-protector", "-fsigned-char", "-mlong-double-64",
    "-fomit-frame-pointer", "-fno-omit-frame-pointer", "-lm", "-lc", "-lrt",
    "-ldl", "-lpthread", "-lutil", "-lcrypt", "-lresolv", "-lxnet",
    "-march=x86-64", "-march=armv8-a", NULL
};
static const char *const ignored_prefix[] = {
    "-mtune=", "-fcf-protection", "-fuse-ld=", NULL
};

/* Linker options that decide how symbols are found: lld gets them. */
static const char *const linker_passed[] = {
    "--start-group", "-(", "--end-group", "-)", "--whole-archive",
    "--no-whole-archive", "--allow-multiple-definition", NULL
};
/* Those that mean nothing, or nothing else, for such a program. */
static const char *const linker_ignored[] = {
    "--as-needed", "--no-as-needed", "--gc-sections", "--no-gc-sections",
    "--no-undefined", "--export-dynamic", "-E", "--enable-new-dtags",
    "-Bstatic", "-Bdynamic", "--eh-frame-hdr", "--build-id", "--sort-common",
    "--no-copy-dt-needed-entries", "--fatal-warnings", "--warn-common",
    "relro", "norelro", "now", "lazy", "defs", "noexecstack", "-z", NULL
};
static const char *const linker_ignored_prefix[] = {
    "-O", "--hash-style=", "--build-id=", "-rpath", "--rpath",
    "separate-code", "noseparate-code", NULL
};

/* Options that cannot be had, and why; with a star, all that begin so. */
static const struct {
    const char *option, *why;
} refused[] = {
    { "-march=*", "both ISAs run the same program, each with its baseline" },
    { "-mcpu=*", "both ISAs run the same program, each with its baseline" },
    { "-T", "the layout of the program is chimera-cc's" },
    { "-fplugin*", "a plugin for one compiler run cannot be checked" },
    { "-fsanitize=*", "sanitizers have no run-time library for migration" },
    { "-fprofile*", "profiling is not supported" },
    { "--coverage", "profiling is not supported" },
    { "-shared", "shared libraries cannot migrate yet; link statically" },
    { "-m32", "programs are 64-bit" },
    { "-mx32", "programs have 64-bit pointers" },
    { "-funsigned-char", "plain char must mean the same on both ISAs: signed" },
    { "-mlong-double-80", "long double is double on both ISAs" },
    { "-mlong-double-128", "long double is double on both ISAs" },
    { "-fopenmp", "OpenMP is not supported yet" },
    { "-fexceptions", "C++ and -fexceptions are not supported" },
    { "-fsplit-stack", "not supported together with migration" },
    { "-pg", "profiling is not supported" },
    { "-m*", "the option is for one ISA; there is code for two" },
    { "-nostdlib", "the program needs the C library made for both ISAs" },
    { "-nostartfiles", "the program needs the start code made for both ISAs" },
};

static void G_GNUC_NORETURN fail(const char *format, ...)
    G_GNUC_PRINTF(1, 2);

static void fail(const char *format, ...)
{
    va_list ap;
    g_autofree char *text = NULL;

    va_start(ap, format);
    text = g_strdup_vprintf(format, ap);
    va_end(ap);
    g_printerr("chimera-cc: error: %s\n", text);
    exit(1);
}

static void add_input(struct options *o, const char *path)
{
    const char *dot = strrchr(path, '.');
    struct source *s;

    if (!o->language && dot && one_of(dot, (const char *const[]) {
            ".o", ".a", ".lo", ".obj", ".bc", NULL })) {
        g_ptr_array_add(o->link, g_strdup(path));
        return;
    }
    if (!o->language && dot && (!strcmp(dot, ".s") || !strcmp(dot, ".S"))) {
        fail("%s: assembly is for one ISA; give a C version "
             "(#ifdef __chimera__)", path);
    }
    if (!o->language && dot && one_of(dot, (const char *const[]) {
            ".cc", ".cpp", ".cxx", ".C", ".c++", NULL })) {
        fail("%s: C++ is not supported yet", path);
    }
    s = g_new0(struct source, 1);
    s->path = path;
    s->language = o->language;
    s->link_index = o->link->len;
    g_ptr_array_add(o->sources, s);
    g_ptr_array_add(o->link, NULL);
}

static const char *next(int argc, char **argv, int *i)
{
    if (++*i >= argc) {
        fail("%s: needs an argument", argv[argc - 1]);
    }
    return argv[*i];
}

/* One option for the linker, from -Wl,, -Xlinker or -z. */
static void add_linker(struct options *o, const char *a)
{
    if (one_of(a, linker_passed) || g_str_has_prefix(a, "-u") ||
        g_str_has_prefix(a, "--undefined=")) {
        g_ptr_array_add(o->link, g_strdup(a));
    } else if (!strcmp(a, "-s") || !strcmp(a, "--strip-all")) {
        o->strip = TRUE;
    } else if (!one_of(a, linker_ignored) &&
               !prefix_of(a, linker_ignored_prefix) && a[0] != '/') {
        /* A path is the argument of -rpath. */
        fail("%s: this linker option is not supported; chimera-cc lays out "
             "and links the program for two ISAs itself", a);
    }
}

static void add_linker_list(struct options *o, const char *list)
{
    g_auto(GStrv) options = g_strsplit(list, ",", -1);

    for (char **a = options; *a; a++) {
        if (!strcmp(*a, "-u") && a[1]) {
            g_ptr_array_add(o->link, g_strconcat("--undefined=", *++a, NULL));
        } else {
            add_linker(o, *a);
        }
    }
}

static void refuse(const char *a)
{
    for (gsize i = 0; i < G_N_ELEMENTS(refused); i++) {
        const char *r = refused[i].option;
        gsize len = strlen(r);

        if (r[len - 1] == '*' ? !strncmp(a, r, len - 1) : !strcmp(a, r)) {
            fail("%s: %s", a, refused[i].why);
        }
    }
}

static void set_mode(struct options *o, const char *mode)
{
    if (!one_of(mode, (const char *const[]) {
            "none", "calls", "entry", "loops", NULL })) {
        fail("-fmigrate=%s: one of none, calls, entry, loops", mode);
    }
    o->mode = mode;
}

static void parse(struct options *o, struct config *cfg, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];

        if (a[0] != '-' || !a[1]) {
            add_input(o, a);
        } else if (!strcmp(a, "-o")) {
            o->output = next(argc, argv, &i);
        } else if (g_str_has_prefix(a, "-o")) {
            o->output = a + 2;
        } else if (!strcmp(a, "-c")) {
            o->stage = STAGE_OBJECT;
        } else if (!strcmp(a, "-S")) {
            o->stage = STAGE_ASSEMBLY;
        } else if (!strcmp(a, "-E")) {
            o->stage = STAGE_PREPROCESS;
        } else if (!strcmp(a, "-v")) {
            cfg->verbose = TRUE;
        } else if (!strcmp(a, "--save-temps") || !strcmp(a, "-save-temps")) {
            cfg->keep = TRUE;
        } else if (!strcmp(a, "--explain")) {
            o->explain = TRUE;
        } else if (!strcmp(a, "--stats")) {
            o->stats = TRUE;
        } else if (g_str_has_prefix(a, "-fmigrate=")) {
            set_mode(o, a + strlen("-fmigrate="));
        } else if (!strcmp(a, "-x")) {
            o->language = next(argc, argv, &i);
            if (!strcmp(o->language, "none")) {
                o->language = NULL;
            } else if (strcmp(o->language, "c") &&
                       strcmp(o->language, "cpp-output")) {
                fail("-x %s: only C is supported", o->language);
            }
        } else if (!strcmp(a, "-s")) {
            o->strip = TRUE;
        } else if (!strcmp(a, "-L")) {
            g_ptr_array_add(o->link, g_strconcat("-L", next(argc, argv, &i),
                                                 NULL));
        } else if (!strcmp(a, "-l")) {
            g_ptr_array_add(o->link, g_strconcat("-l", next(argc, argv, &i),
                                                 NULL));
        } else if (!strcmp(a, "-u")) {
            g_ptr_array_add(o->link, g_strconcat("--undefined=",
                                                 next(argc, argv, &i), NULL));
        } else if (!strcmp(a, "-Xlinker") || !strcmp(a, "-z")) {
            add_linker_list(o, next(argc, argv, &i));
        } else if (g_str_has_prefix(a, "-Wl,")) {
            add_linker_list(o, a + strlen("-Wl,"));
        } else if (one_of(a, ignored) || prefix_of(a, ignored_prefix)) {
            continue;
        } else if (g_str_has_prefix(a, "-L") || g_str_has_prefix(a, "-l")) {
            g_ptr_array_add(o->link, g_strdup(a));
        } else if (one_of(a, with_argument)) {
            add_args(o->compile, a, next(argc, argv, &i), NULL);
        } else {
            refuse(a);
            if (g_str_has_prefix(a, "-g")) {
                o->debug = strcmp(a, "-g0") != 0;
            }
            if (one_of(a, (const char *const[]) {
                    "-M", "-MM", "-fsyntax-only", NULL })) {
                o->no_output = TRUE;
            }
            if (g_str_has_prefix(a, "-O")) {
                /*
                 * Code generation follows the last -O given when linking, but
                 * never -O0: LLVM 19's fast register allocator may give a
                 * value the register of a pad's selector without loading it
                 * (tests/migrate/c/address.c).  Functions compiled with -O0
                 * say so themselves.
                 */
                g_ptr_array_set_size(o->llc, 0);
                add_args(o->llc, one_of(a, (const char *const[]) {
                             "-O", "-O0", "-O1", NULL }) ? "-O1" : "-O2", NULL);
            }
            add_args(o->compile, a, NULL);
        }
    }
}

static gboolean compile(const struct config *cfg, const struct options *o,
                        const struct source *s, const char *output,
                        GError **error)
{
    g_autofree char *plugin = g_build_filename(cfg->lib_dir, "lib",
                                               "chimera.so", NULL);
    g_autofree char *fpass = g_strconcat("-fpass-plugin=", plugin, NULL);
    g_autofree char *libc = g_build_filename(cfg->lib_dir, "include", NULL);
    g_autofree char *prelude = g_build_filename(libc, "chimera", "prelude.h",
                                                NULL);
    g_autofree char *mode = g_strconcat("-chimera-migrate=", o->mode, NULL);
    g_autoptr(GPtrArray) argv = command("clang", NULL);

    for (gsize i = 0; i < G_N_ELEMENTS(chimera_flags); i++) {
        add_args(argv, chimera_flags[i], NULL);
    }
    add_args(argv, "-nostdlibinc", "-Xclang", "-load", "-Xclang", plugin, fpass,
             "-mllvm", mode, "-include", prelude, NULL);
    for (guint i = 0; i < o->compile->len; i++) {
        g_ptr_array_add(argv, g_strdup(o->compile->pdata[i]));
    }
    add_args(argv, "-idirafter", libc, "-Wno-unused-command-line-argument",
             NULL);
    if (o->explain && !o->debug) {
        add_args(argv, "-gline-tables-only", NULL);     /* it names lines */
    }
    if (o->stage == STAGE_PREPROCESS) {
        add_args(argv, "-E", NULL);
    } else if (!o->no_output) {
        add_args(argv, "-emit-llvm",
                 o->stage == STAGE_ASSEMBLY ? "-S" : "-c", NULL);
    }
    if (s->language) {
        add_args(argv, "-x", s->language, NULL);
    }
    add_args(argv, s->path, NULL);
    if (output) {
        add_args(argv, "-o", output, NULL);
    }
    return run_command(cfg, argv, error);
}

/* file.c -> file.o in the current directory, as compilers do */
static char *default_output(const char *path, enum stage stage)
{
    char *base = g_path_get_basename(path);
    char *dot = strrchr(base, '.');
    char *out;

    if (dot) {
        *dot = '\0';
    }
    out = g_strconcat(base, stage == STAGE_ASSEMBLY ? ".s" : ".o", NULL);
    g_free(base);
    return out;
}

static gboolean run(struct config *cfg, struct options *o, GError **error)
{
    struct link_job job = {
        .output = o->output ? o->output : "a.out",
        .inputs = o->link,
        .llc_args = o->llc,
        .strip = o->strip,
        .stats = o->stats,
    };
    g_autofree char *explain = work_file(cfg, "explain");

    for (guint i = 0; i < o->sources->len; i++) {
        struct source *s = o->sources->pdata[i];
        g_autofree char *output = NULL;

        if (o->stage == STAGE_LINK && !o->no_output) {
            g_autofree char *name = g_strdup_printf("source-%u.o", i);

            output = work_file(cfg, name);
        } else if (o->output) {
            output = g_strdup(o->output);
        } else if (o->stage != STAGE_PREPROCESS && !o->no_output) {
            output = default_output(s->path, o->stage);
        }
        if (!compile(cfg, o, s, output, error)) {
            return FALSE;
        }
        o->link->pdata[s->link_index] = g_steal_pointer(&output);
    }
    if (o->stage != STAGE_LINK || o->no_output) {
        return TRUE;
    }
    if (o->explain) {
        job.explain = explain;
    }
    if (!link_program(cfg, &job, error)) {
        return FALSE;
    }
    if (o->explain) {
        g_autofree char *text = NULL;

        if (!g_file_get_contents(explain, &text, NULL, error)) {
            return FALSE;
        }
        g_print("%s", text);
    }
    return TRUE;
}

static void remove_work(const struct config *cfg)
{
    GDir *dir;
    const char *name;

    if (cfg->keep) {
        g_printerr("chimera-cc: intermediate files are in %s\n",
                   cfg->work_dir);
        return;
    }
    dir = g_dir_open(cfg->work_dir, 0, NULL);
    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *path = work_file(cfg, name);

        g_unlink(path);
    }
    g_clear_pointer(&dir, g_dir_close);
    g_rmdir(cfg->work_dir);
}

static char *find_lib_dir(const char *argv0)
{
    g_autofree char *self = g_file_read_link("/proc/self/exe", NULL);
    g_autofree char *dir = g_path_get_dirname(self ? self : argv0);

    return g_build_filename(dir, "..", "lib", "chimera-migrate", NULL);
}

/* chimera-ar and friends */
static void run_tool(const char *tool, char **argv)
{
    g_autofree char *program = g_strconcat("llvm-", tool, LLVM_SUFFIX, NULL);

    argv[0] = program;
    execvp(program, argv);
    fail("%s: cannot run it; is llvm%s installed?", program, LLVM_SUFFIX);
}

int main(int argc, char **argv)
{
    struct config cfg = { 0 };
    struct options o = { .stage = STAGE_LINK, .mode = "loops" };
    g_autofree char *name = g_path_get_basename(argv[0]);
    g_autoptr(GError) error = NULL;
    const char *extract = NULL;
    gboolean ok;

    if (g_str_has_prefix(name, "chimera-") && strcmp(name, "chimera-cc")) {
        run_tool(name + strlen("chimera-"), argv);
    }
    cfg.lib_dir = find_lib_dir(argv[0]);
    o.compile = g_ptr_array_new_with_free_func(g_free);
    o.sources = g_ptr_array_new_with_free_func(g_free);
    o.link = g_ptr_array_new_with_free_func(g_free);
    o.llc = g_ptr_array_new_with_free_func(g_free);
    add_args(o.llc, "-O2", NULL);

    if (argc == 2 && one_of(argv[1], (const char *const[]) {
            "--version", "-dumpversion", "-dumpmachine", "-V", "--help",
            "-qversion", "-version", NULL })) {
        if (!strcmp(argv[1], "--help")) {
            g_print("%s", usage);
            return 0;
        }
        execlp("clang" LLVM_SUFFIX, "clang", "--target=x86_64-linux-musl",
               argv[1], NULL);
        fail("clang%s: cannot run it; is it installed?", LLVM_SUFFIX);
    }
    for (int i = 1; i < argc; i++) {
        if (g_str_has_prefix(argv[i], "--extract=")) {
            extract = argv[i] + strlen("--extract=");
            for (int k = i; k < argc; k++) {
                argv[k] = argv[k + 1];
            }
            argc--;
            break;
        }
    }
    parse(&o, &cfg, argc, argv);
    if (o.link->len == 0) {
        fail("no input files");
    }
    if (o.sources->len > 1 && o.output && o.stage != STAGE_LINK) {
        fail("-o with several files needs linking");
    }
    cfg.work_dir = g_dir_make_tmp("chimera-cc-XXXXXX", &error);
    if (!cfg.work_dir) {
        fail("%s", error->message);
    }
    if (extract) {
        if (!one_of(extract, isa_names) || o.sources->len != 1) {
            fail("--extract=ISA FILE: ISA is x86_64 or aarch64");
        }
        ok = extract_program(&cfg, extract,
                             ((struct source *)o.sources->pdata[0])->path,
                             o.output ? o.output : "a.out", &error);
    } else {
        ok = run(&cfg, &o, &error);
    }
    remove_work(&cfg);
    if (!ok && error->domain != G_SPAWN_EXIT_ERROR) {
        fail("%s", error->message);
    }
    return ok ? 0 : 1;
}
