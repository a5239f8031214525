/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "table.h"

#include <stdio.h>
#include <string.h>

struct table {
    const char *const *heads;
    unsigned columns;
    GPtrArray *cells;
};

struct table *table_new(const char *const *heads)
{
    struct table *t = g_new0(struct table, 1);

    t->heads = heads;
    t->columns = g_strv_length((char **)heads);
    t->cells = g_ptr_array_new_with_free_func(g_free);
    for (unsigned i = 0; i < t->columns; i++) {
        g_ptr_array_add(t->cells, g_strdup(heads[i] + (*heads[i] == '>')));
    }
    return t;
}

void table_add(struct table *t, char *text)
{
    g_ptr_array_add(t->cells, text);
}

void table_format(struct table *t, const char *indent, GString *out)
{
    g_autofree size_t *width = g_new0(size_t, t->columns);

    for (unsigned i = 0; i < t->cells->len; i++) {
        size_t *w = &width[i % t->columns];

        *w = MAX(*w, strlen(t->cells->pdata[i]));
    }
    for (unsigned i = 0; i + t->columns <= t->cells->len; i += t->columns) {
        g_autoptr(GString) line = g_string_new(indent);

        for (unsigned c = 0; c < t->columns; c++) {
            g_string_append_printf(
                line, *t->heads[c] == '>' ? "%s%*s" : "%s%-*s", c ? "  " : "",
                (int)width[c], (char *)t->cells->pdata[i + c]);
        }
        g_string_append_printf(out, "%s\n", g_strchomp(line->str));
    }
    g_ptr_array_unref(t->cells);
    g_free(t);
}

void table_print(struct table *t, const char *indent)
{
    g_autoptr(GString) out = g_string_new(NULL);

    table_format(t, indent, out);
    fputs(out->str, stdout);
}

char *cell_number(gint64 v)
{
    return v ? g_strdup_printf("%" G_GINT64_FORMAT, v) : g_strdup("-");
}

char *cell_duration(double s)
{
    if (s <= 0) {
        return g_strdup("-");
    }
    if (s < 100) {
        return g_strdup_printf("%.1f s", s);
    }
    if (s < 6000) {
        return g_strdup_printf("%.0f min", s / 60);
    }
    return g_strdup_printf("%.1f h", s / 3600);
}
