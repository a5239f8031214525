/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One layout for two images.
 *
 *   private    headers, unwind tables, LSDA, constants of the back end, resume
 *              clones, the run-time library and its data: each ISA its own
 *   common     functions, read-only data, TLS image, constructors, data, bss:
 *              every symbol at the same address in both images
 *
 * A function takes the larger of its two sizes.  Data has equal sizes: the pass
 * made its sections, and a difference is reported as an error.
 */

#include "driver.h"
#include "../rt/abi.h"

#include <elf.h>
#include <string.h>

#define PRIVATE_BASE ((gulong)IMAGE_PRIVATE_BASE)
#define COMMON_BASE ((gulong)IMAGE_COMMON_BASE)
#define PAGE 4096ul
#define TEXT_ALIGN 64
/* AArch64 branches reach 128 MiB; private and common text share that. */
#define REACH_BYTES (120ul << 20)

struct section {
    char *name;
    guint64 size, align, flags;
    guint32 type;
    guint count;                /* sections of that name */
};

struct object {
    GMappedFile *file;
    GHashTable *by_name;        /* name -> struct section */
    GPtrArray *order;
};

static void section_free(gpointer p)
{
    struct section *s = p;

    g_free(s->name);
    g_free(s);
}

static void object_clear(struct object *o)
{
    g_clear_pointer(&o->file, g_mapped_file_unref);
    g_clear_pointer(&o->by_name, g_hash_table_unref);
    g_clear_pointer(&o->order, g_ptr_array_unref);
}

/* The ELF header, after checking that the section table lies in the file. */
static const Elf64_Ehdr *check_elf(GMappedFile *file, const char *path,
                                   GError **error)
{
    const Elf64_Ehdr *eh = (const void *)g_mapped_file_get_contents(file);
    gsize len = g_mapped_file_get_length(file);

    if (len < sizeof(*eh) || memcmp(eh->e_ident, ELFMAG, SELFMAG) ||
        eh->e_ident[EI_CLASS] != ELFCLASS64 ||
        eh->e_shentsize != sizeof(Elf64_Shdr) || eh->e_shoff > len ||
        eh->e_shnum > (len - eh->e_shoff) / sizeof(Elf64_Shdr) ||
        eh->e_shstrndx >= eh->e_shnum) {
        g_set_error(error, LAYOUT_ERROR, 0, "%s: not a 64-bit ELF file", path);
        return NULL;
    }
    return eh;
}

static const char *string_at(GMappedFile *file, const Elf64_Shdr *strings,
                             guint32 offset)
{
    gsize len = g_mapped_file_get_length(file);
    const char *s;

    if (offset >= strings->sh_size || strings->sh_offset > len ||
        strings->sh_size > len - strings->sh_offset) {
        return "";
    }
    s = g_mapped_file_get_contents(file) + strings->sh_offset;
    return memchr(s + offset, 0, strings->sh_size - offset) ? s + offset : "";
}

static gboolean object_read(struct object *o, const char *path, GError **error)
{
    const Elf64_Ehdr *eh;
    const Elf64_Shdr *sh;

    o->file = g_mapped_file_new(path, FALSE, error);
    if (!o->file || !(eh = check_elf(o->file, path, error))) {
        return FALSE;
    }
    o->by_name = g_hash_table_new(g_str_hash, g_str_equal);
    o->order = g_ptr_array_new_with_free_func(section_free);
    sh = (const void *)((const char *)eh + eh->e_shoff);
    for (guint i = 1; i < eh->e_shnum; i++) {
        const char *name = string_at(o->file, &sh[eh->e_shstrndx],
                                     sh[i].sh_name);
        struct section *s;

        if (!(sh[i].sh_flags & SHF_ALLOC)) {
            continue;
        }
        s = g_hash_table_lookup(o->by_name, name);
        if (!s) {
            s = g_new0(struct section, 1);
            s->name = g_strdup(name);
            s->type = sh[i].sh_type;
            s->flags = sh[i].sh_flags;
            g_hash_table_insert(o->by_name, s->name, s);
            g_ptr_array_add(o->order, s);
        }
        s->align = MAX(s->align, sh[i].sh_addralign);
        s->size = (s->size + sh[i].sh_addralign - 1) /
                  MAX(sh[i].sh_addralign, 1) * MAX(sh[i].sh_addralign, 1);
        s->size += sh[i].sh_size;
        s->count++;
    }
    return TRUE;
}

enum kind { KIND_PRIVATE, KIND_TEXT, KIND_READ_ONLY, KIND_TDATA, KIND_TBSS,
            KIND_INIT, KIND_DATA, KIND_BSS };

static gboolean starts(const char *s, const char *prefix)
{
    return g_str_has_prefix(s, prefix);
}

/* What a section of the compiled program is. */
static enum kind kind_of(const struct section *s)
{
    const char *n = s->name;

    if (s->flags & SHF_EXECINSTR) {
        gboolean clone = strstr(n, "$resume") != NULL;

        return starts(n, ".text.") && !starts(n, ".text.split.") && !clone
               ? KIND_TEXT : KIND_PRIVATE;
    }
    if (starts(n, ".eh_frame") || starts(n, ".gcc_except_table") ||
        starts(n, ".note") || starts(n, ".llvm") ||
        !strcmp(n, ".rodata") || starts(n, ".rodata.") ||
        !strcmp(n, "chimera_table") || s->type == SHT_NOTE) {
        return KIND_PRIVATE;
    }
    if (s->flags & SHF_TLS) {
        return s->type == SHT_NOBITS ? KIND_TBSS : KIND_TDATA;
    }
    if (s->type == SHT_INIT_ARRAY || s->type == SHT_FINI_ARRAY ||
        starts(n, ".init_array") || starts(n, ".fini_array")) {
        return KIND_INIT;
    }
    if (!(s->flags & SHF_WRITE)) {
        return KIND_READ_ONLY;
    }
    return s->type == SHT_NOBITS ? KIND_BSS : KIND_DATA;
}

static guint64 align_up(guint64 v, guint64 a)
{
    return a > 1 ? (v + a - 1) / a * a : v;
}

struct placer {
    struct object *a, *b;       /* the ISAs */
    GString *text;
    guint64 at;                 /* next free common address */
    GError **error;
};

/* One function's section from @files, at the larger size. */
static void place_text(struct placer *p, struct object *a, struct object *b,
                       const struct section *s, const char *file)
{
    const struct section *t = g_hash_table_lookup(b->by_name, s->name);
    guint64 size = MAX(s->size, t->size);

    p->at = align_up(p->at, MAX(MAX(s->align, t->align), TEXT_ALIGN));
    g_string_append_printf(p->text, "    . = 0x%" G_GINT64_MODIFIER
                           "x; %s(\"%s\")\n",
                           p->at, file, s->name);
    p->at += size;
}

static gboolean same_section(struct placer *p, const struct section *s)
{
    const struct section *t = g_hash_table_lookup(p->b->by_name, s->name);

    if (t && t->size == s->size && t->align == s->align) {
        return TRUE;
    }
    g_set_error(p->error, LAYOUT_ERROR, 0,
                "section %s has %" G_GUINT64_FORMAT " bytes for %s and %"
                G_GUINT64_FORMAT " for %s: data must not depend on the ISA",
                s->name, s->size, isa_names[0], t ? t->size : 0, isa_names[1]);
    return FALSE;
}

/* User-named sections keep their names (and __start_, __stop_ symbols). */
static gboolean place_named(struct placer *p, enum kind kind)
{
    for (guint i = 0; i < p->a->order->len; i++) {
        const struct section *s = p->a->order->pdata[i];

        if (kind_of(s) != kind || starts(s->name, "chimera_") ||
            s->name[0] == '.') {
            continue;
        }
        if (!same_section(p, s)) {
            return FALSE;
        }
        g_string_append_printf(p->text, "  %s : ALIGN(64) { KEEP(*(%s)) }\n",
                               s->name, s->name);
    }
    return TRUE;
}

static gboolean check_data(struct placer *p, guint64 *ret_tls_align)
{
    guint64 align = 64;

    for (guint i = 0; i < p->a->order->len; i++) {
        const struct section *s = p->a->order->pdata[i];
        enum kind k = kind_of(s);

        if (k == KIND_PRIVATE || k == KIND_TEXT) {
            continue;
        }
        if (!same_section(p, s)) {
            return FALSE;
        }
        if (k == KIND_TDATA || k == KIND_TBSS) {
            align = MAX(align, s->align);
        }
    }
    *ret_tls_align = align;
    return TRUE;
}

static gboolean write_script(struct placer *p, struct object *natives_a,
                             struct object *natives_b, const char *path,
                             GError **error)
{
    GString *t = p->text;
    guint64 tls_align;

    if (!check_data(p, &tls_align)) {
        return FALSE;
    }
    g_string_append_printf(t,
        "ENTRY(_start)\n"
        "SECTIONS {\n"
        "  . = 0x%lx + SIZEOF_HEADERS;\n"
        "  .note.gnu.property : { *(.note.*) }\n"
        "  .eh_frame_hdr : { __chimera_eh_frame_hdr = .; *(.eh_frame_hdr) }\n"
        "  .eh_frame : { KEEP(*(.eh_frame)) }\n"
        "  .gcc_except_table : { *(.gcc_except_table .gcc_except_table.*) }\n"
        "  chimera_table : { *(chimera_table) }\n"
        "  .rodata : { *(.rodata .rodata.*) }\n"
        "  . = ALIGN(%lu);\n"
        "  chimera_thunks : { __start_chimera_thunks = .; *(chimera_thunks)\n"
        "    __stop_chimera_thunks = .; }\n"
        "  .text : { *(.text) __chimera_library_end = .; *(.text.split.*)\n"
        "    *(.text.unlikely.*$resume) *(.text.*$resume) }\n"
        "  . = ALIGN(%lu);\n"
        "  .got : { *(.got .got.*) }\n"
        "  .data : { *(.data .data.*) }\n"
        "  .bss : { *(.bss) }\n",
        PRIVATE_BASE, PAGE, PAGE);

    p->at = COMMON_BASE;
    g_string_append_printf(t,
        "  ASSERT(. < 0x%lx, \"private sections are too large\")\n"
        "  .ctext 0x%lx : {\n", COMMON_BASE, COMMON_BASE);
    for (guint i = 0; i < natives_a->order->len; i++) {
        const struct section *s = natives_a->order->pdata[i];

        if (starts(s->name, ".ctext.")) {
            if (!g_hash_table_lookup(natives_b->by_name, s->name)) {
                g_set_error(error, LAYOUT_ERROR, 0, "%s: only for %s",
                            s->name, isa_names[0]);
                return FALSE;
            }
            place_text(p, natives_a, natives_b, s, "*");
        }
    }
    for (guint i = 0; i < p->a->order->len; i++) {
        const struct section *s = p->a->order->pdata[i];

        if (kind_of(s) != KIND_TEXT) {
            continue;
        }
        if (!g_hash_table_lookup(p->b->by_name, s->name)) {
            g_set_error(error, LAYOUT_ERROR, 0, "function section %s: only "
                        "for %s", s->name, isa_names[0]);
            return FALSE;
        }
        place_text(p, p->a, p->b, s, "*");
    }
    if (p->at - PRIVATE_BASE > REACH_BYTES) {
        g_set_error(error, LAYOUT_ERROR, 0, "the program has more than %lu MiB "
                    "of text, beyond the reach of AArch64 branches",
                    REACH_BYTES >> 20);
        return FALSE;
    }
    p->at = align_up(p->at, PAGE);
    g_string_append_printf(t,
        "  }\n"
        "  . = 0x%" G_GINT64_MODIFIER "x;\n"
        "  .crodata : { *(chimera_rodata) }\n", p->at);
    if (!place_named(p, KIND_READ_ONLY)) {
        return FALSE;
    }
    g_string_append_printf(t,
        "  . = ALIGN(%" G_GINT64_MODIFIER "u);\n"
        "  .tdata : ALIGN(%" G_GINT64_MODIFIER "u) "
        "{ *(.tdata) *(.tdata.*) }\n"
        "  .tbss : { *(.tbss) *(.tbss.*) }\n"
        "  __chimera_tls_span = ALIGN(ADDR(.tbss) + SIZEOF(.tbss) - "
        "ADDR(.tdata), %" G_GINT64_MODIFIER "u) + %" G_GINT64_MODIFIER "u;\n"
        "  . = ALIGN(%lu);\n"
        "  __chimera_data_start = .;\n"
        "  .init_array : {\n"
        "    __init_array_start = .;\n"
        "    KEEP(*(SORT_BY_INIT_PRIORITY(.init_array.*) .init_array))\n"
        "    __init_array_end = .; }\n"
        "  .fini_array : {\n"
        "    __fini_array_start = .;\n"
        "    KEEP(*(SORT_BY_INIT_PRIORITY(.fini_array.*) .fini_array))\n"
        "    __fini_array_end = .; }\n"
        "  .cdata : ALIGN(64) { *(chimera_data) }\n",
        tls_align, tls_align, tls_align, tls_align, PAGE);
    if (!place_named(p, KIND_DATA) || !place_named(p, KIND_BSS)) {
        return FALSE;
    }
    g_string_append_printf(t,
        "  .cbss : ALIGN(64) { *(.bss.chimera) }\n"
        "  . = ALIGN(%lu);\n"
        "  __chimera_data_end = .;\n"
        "  _end = .; end = .;\n"
        "}\n", PAGE);
    return g_file_set_contents(path, t->str, t->len, error);
}

gboolean layout_write_scripts(char *const objects[NR_ISAS],
                              char *const natives[NR_ISAS],
                              char *const scripts[NR_ISAS], GError **error)
{
    struct object o[NR_ISAS] = { 0 }, n[NR_ISAS] = { 0 };
    gboolean ok = TRUE;

    for (int i = 0; ok && i < NR_ISAS; i++) {
        ok = object_read(&o[i], objects[i], error) &&
             object_read(&n[i], natives[i], error);
    }
    /* The common part is the same text in both: place once, write twice. */
    if (ok) {
        struct placer p = { .a = &o[0], .b = &o[1], .error = error,
                            .text = g_string_new(NULL) };

        ok = write_script(&p, &n[0], &n[1], scripts[0], error) &&
             g_file_set_contents(scripts[1], p.text->str, p.text->len, error);
        g_string_free(p.text, TRUE);
    }
    for (int i = 0; i < NR_ISAS; i++) {
        object_clear(&o[i]);
        object_clear(&n[i]);
    }
    return ok;
}

/* --- the check after linking --------------------------------------------------- */

/* name -> address, of every symbol at or above the common base */
static GHashTable *common_symbols(const char *path, GError **error)
{
    g_autoptr(GMappedFile) file = g_mapped_file_new(path, FALSE, error);
    const Elf64_Ehdr *eh;
    const Elf64_Shdr *sh;
    GHashTable *table;

    if (!file || !(eh = check_elf(file, path, error))) {
        return NULL;
    }
    table = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    sh = (const void *)((const char *)eh + eh->e_shoff);
    for (guint i = 1; i < eh->e_shnum; i++) {
        const Elf64_Sym *sym;

        if (sh[i].sh_type != SHT_SYMTAB || sh[i].sh_link >= eh->e_shnum ||
            sh[i].sh_offset > g_mapped_file_get_length(file) ||
            sh[i].sh_size > g_mapped_file_get_length(file) - sh[i].sh_offset) {
            continue;
        }
        sym = (const void *)((const char *)eh + sh[i].sh_offset);
        for (gsize k = 0; k < sh[i].sh_size / sizeof(*sym); k++) {
            const char *name = string_at(file, &sh[sh[i].sh_link],
                                         sym[k].st_name);
            int type = ELF64_ST_TYPE(sym[k].st_info);

            if (!*name || *name == '$' || starts(name, ".L") ||
                type == STT_FILE || type == STT_SECTION || type == STT_TLS ||
                sym[k].st_shndx == SHN_ABS || sym[k].st_value < COMMON_BASE) {
                continue;
            }
            g_hash_table_insert(table, g_strdup(name),
                                GSIZE_TO_POINTER(sym[k].st_value));
        }
    }
    return table;
}

gboolean layout_check(char *const images[NR_ISAS], GError **error)
{
    g_autoptr(GHashTable) a = common_symbols(images[0], error);
    g_autoptr(GHashTable) b = a ? common_symbols(images[1], error) : NULL;
    GHashTableIter it;
    gpointer name, address;

    if (!a || !b) {
        return FALSE;
    }
    g_hash_table_iter_init(&it, a);
    while (g_hash_table_iter_next(&it, &name, &address)) {
        gpointer other = g_hash_table_lookup(b, name);

        /* Hand-written functions have labels of their own. */
        if (other && other != address) {
            g_set_error(error, LAYOUT_ERROR, 0,
                        "symbol %s is at %p for %s and at %p for %s",
                        (char *)name, address, isa_names[0], other,
                        isa_names[1]);
            return FALSE;
        }
    }
    return TRUE;
}
