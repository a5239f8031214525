/* SPDX-License-Identifier: GPL-2.0-or-later */
/* chimera-cc: what its parts share. */
#ifndef CHIMERA_DRIVER_H
#define CHIMERA_DRIVER_H

#include <glib.h>

#define NR_ISAS 2
extern const char *const isa_names[NR_ISAS + 1];   /* NULL at the end */

/* The LLVM release whose tools are used; a suffix of their names. */
#define LLVM_SUFFIX "-19"

struct config {
    char *lib_dir;              /* .../lib/chimera-migrate */
    char *work_dir;             /* temporary files of this run */
    gboolean verbose;           /* -v: print commands */
    gboolean keep;              /* --save-temps */
};

/* What the user asked the linker for. */
struct link_job {
    const char *output;
    GPtrArray *inputs;          /* files, -lNAME, -LDIR in order */
    GPtrArray *llc_args;
    gboolean strip;
    gboolean stats;
    const char *explain;        /* file for the explanation, or NULL */
};

/* run.c: runs a command; on failure sets @error (or dies silently with the
   command's own messages: the domain is then G_SPAWN_EXIT_ERROR). */
gboolean run_command(const struct config *cfg, GPtrArray *argv, GError **error);
GPtrArray *command(const char *program, ...) G_GNUC_NULL_TERMINATED;
void add_args(GPtrArray *argv, ...) G_GNUC_NULL_TERMINATED;
char *work_file(const struct config *cfg, const char *name);

/* link.c */
gboolean link_program(const struct config *cfg, const struct link_job *job,
                      GError **error);
gboolean extract_program(const struct config *cfg, const char *isa,
                         const char *input, const char *output,
                         GError **error);

/* layout.c */
#define LAYOUT_ERROR (g_quark_from_static_string("chimera-layout"))
/**
 * layout_write_scripts() - place what both images have in common.
 * @objects: the compiled program per ISA.
 * @natives: hand-written functions per ISA (sections .ctext.*).
 * @scripts: linker scripts to write, per ISA.
 */
gboolean layout_write_scripts(char *const objects[NR_ISAS],
                              char *const natives[NR_ISAS],
                              char *const scripts[NR_ISAS], GError **error);
/* Checks that every common symbol has the same address in both images. */
gboolean layout_check(char *const images[NR_ISAS], GError **error);

#endif
