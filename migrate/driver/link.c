/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From bitcode to one program file.
 *
 *   files, archives --lld, symbol resolution only--> one module
 *   module --opt, pass chimera--> instrumented module
 *   module --llc per ISA--> objects --layout.c--> linker scripts
 *   objects, run-time library --lld per ISA--> images, checked
 *   images --objcopy--> x86_64 image that carries the aarch64 one
 */

#include "driver.h"

#include <glib/gstdio.h>

const char *const isa_names[NR_ISAS + 1] = { "x86_64", "aarch64", NULL };
static const char *const emulations[NR_ISAS] = { "elf_x86_64", "aarch64linux" };

static char *lib_file(const struct config *cfg, const char *name)
{
    return g_build_filename(cfg->lib_dir, "lib", name, NULL);
}

static char *isa_file(const struct config *cfg, const char *prefix, int isa,
                      const char *suffix)
{
    g_autofree char *name = g_strconcat(prefix, isa_names[isa], suffix, NULL);

    return work_file(cfg, name);
}

/* The run-time library and the C library's assembly for an ISA. */
static char *native_file(const struct config *cfg, int isa)
{
    g_autofree char *name = g_strconcat("native-", isa_names[isa], ".o", NULL);

    return lib_file(cfg, name);
}

static char *builtins_file(const struct config *cfg, int isa)
{
    g_autofree char *name = g_strconcat("builtins-", isa_names[isa], ".a",
                                        NULL);

    return lib_file(cfg, name);
}

/* Only x86_64's native parts take part: their names are the same for all. */
static gboolean merge(const struct config *cfg, const struct link_job *job,
                      const char *output, GError **error)
{
    g_autofree char *native = native_file(cfg, 0);
    g_autofree char *builtins = builtins_file(cfg, 0);
    g_autofree char *libc = lib_file(cfg, "libc.a");
    g_autoptr(GPtrArray) argv = command("ld.lld", "-m", emulations[0],
                                        "-static", "--lto-emit-llvm",
                                        "--lto-O0", "-e", "_start", "-o",
                                        output, native, NULL);

    for (guint i = 0; i < job->inputs->len; i++) {
        g_ptr_array_add(argv, g_strdup(job->inputs->pdata[i]));
    }
    add_args(argv, "--start-group", libc, builtins, "--end-group", NULL);
    return run_command(cfg, argv, error);
}

static gboolean instrument(const struct config *cfg, const struct link_job *job,
                           const char *input, const char *output,
                           GError **error)
{
    g_autofree char *plugin = lib_file(cfg, "chimera.so");
    g_autoptr(GPtrArray) argv = command("opt", "-load-pass-plugin", plugin,
                                        "-load", plugin, "-passes=chimera",
                                        input, "-o", output, NULL);

    if (job->explain) {
        g_ptr_array_add(argv, g_strconcat("-chimera-explain=", job->explain,
                                          NULL));
    }
    if (job->stats) {
        add_args(argv, "-chimera-stats", NULL);
    }
    return run_command(cfg, argv, error);
}

static gboolean generate(const struct config *cfg, const struct link_job *job,
                         const char *input, int isa, const char *output,
                         GError **error)
{
    g_autofree char *triple = g_strconcat("-mtriple=", isa_names[isa],
                                          "-linux-musl", NULL);
    g_autoptr(GPtrArray) argv = command("llc", triple, "-filetype=obj",
                                        "-relocation-model=static",
                                        "--function-sections",
                                        "--fp-contract=off",
                                        "--frame-pointer=none",
                                        "--enable-split-machine-functions",
                                        "--mfs-split-ehcode", NULL);

    if (isa == 0) {
        /* Arguments pushed for a call would lie where a pad's own call writes
           (pass/Sites.cpp, invariant 2). */
        add_args(argv, "-mcpu=x86-64", "-no-x86-call-frame-opt", NULL);
    } else {
        /* Atomics inline; the layout keeps every address within 4 GiB. */
        add_args(argv, "-mattr=-outline-atomics", NULL);
    }
    for (guint i = 0; i < job->llc_args->len; i++) {
        g_ptr_array_add(argv, g_strdup(job->llc_args->pdata[i]));
    }
    add_args(argv, input, "-o", output, NULL);
    return run_command(cfg, argv, error);
}

static gboolean link_image(const struct config *cfg, int isa,
                           const char *object, const char *script,
                           const char *output, GError **error)
{
    g_autofree char *native = native_file(cfg, isa);
    g_autofree char *builtins = builtins_file(cfg, isa);
    g_autoptr(GPtrArray) argv = command("ld.lld", "-m", emulations[isa],
                                        "-static", "--no-dependent-libraries",
                                        "--eh-frame-hdr", "-z",
                                        "max-page-size=4096", "-z", "norelro", "-z",
                                        "noexecstack",
                                        "--build-id=none", "-T", script, "-o",
                                        output, object, native, builtins, NULL);

    return run_command(cfg, argv, error);
}

/* @output becomes @image with @other in section .chimera.ISA. */
static gboolean embed(const struct config *cfg, const char *image,
                      const char *other, const char *isa, const char *output,
                      gboolean strip, GError **error)
{
    g_autofree char *add = g_strconcat("--add-section=.chimera.", isa, "=",
                                       other, NULL);
    g_autoptr(GPtrArray) argv = command("llvm-objcopy", add, image, output,
                                        NULL);

    if (strip) {
        add_args(argv, "--strip-all", NULL);
    }
    return run_command(cfg, argv, error);
}

gboolean link_program(const struct config *cfg, const struct link_job *job,
                      GError **error)
{
    g_autofree char *merged = work_file(cfg, "merged.bc");
    g_autofree char *ready = work_file(cfg, "ready.bc");
    char *objects[NR_ISAS], *natives[NR_ISAS], *scripts[NR_ISAS];
    char *images[NR_ISAS];
    gboolean ok;

    for (int i = 0; i < NR_ISAS; i++) {
        objects[i] = isa_file(cfg, "program.", i, ".o");
        natives[i] = native_file(cfg, i);
        scripts[i] = isa_file(cfg, "layout.", i, ".ld");
        images[i] = isa_file(cfg, "image.", i, "");
    }
    ok = merge(cfg, job, merged, error) &&
         instrument(cfg, job, merged, ready, error);
    for (int i = 0; ok && i < NR_ISAS; i++) {
        ok = generate(cfg, job, ready, i, objects[i], error);
    }
    ok = ok && layout_write_scripts(objects, natives, scripts, error);
    for (int i = 0; ok && i < NR_ISAS; i++) {
        ok = link_image(cfg, i, objects[i], scripts[i], images[i], error);
    }
    ok = ok && layout_check(images, error) &&
         embed(cfg, images[0], images[1], isa_names[1], job->output,
               job->strip, error);
    for (int i = 0; i < NR_ISAS; i++) {
        g_free(objects[i]);
        g_free(natives[i]);
        g_free(scripts[i]);
        g_free(images[i]);
    }
    return ok;
}

/* Writes the program as a file that starts on @isa and carries the other. */
gboolean extract_program(const struct config *cfg, const char *isa,
                         const char *input, const char *output, GError **error)
{
    g_autofree char *section = g_strconcat(".chimera.", isa, NULL);
    g_autofree char *image = work_file(cfg, "image");
    g_autofree char *other = work_file(cfg, "other");
    g_autofree char *dump = g_strconcat("--dump-section=", section, "=", image,
                                        NULL);
    g_autofree char *drop = g_strconcat("--remove-section=", section, NULL);
    g_autoptr(GPtrArray) take = command("llvm-objcopy", dump, input,
                                        "/dev/null", NULL);
    g_autoptr(GPtrArray) rest = command("llvm-objcopy", drop, input, other,
                                        NULL);

    if (!run_command(cfg, take, error) || !run_command(cfg, rest, error) ||
        !embed(cfg, image, other,
               g_str_equal(isa, isa_names[0]) ? isa_names[1] : isa_names[0],
               output, FALSE, error)) {
        return FALSE;
    }
    return g_chmod(output, 0755) == 0;
}
