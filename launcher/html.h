/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A page of HTML that is well-formed XML too and needs nothing from elsewhere:
 * texts, tables, and plots as SVG whose colours follow the reader's light or
 * dark mode. All texts may come from anywhere.
 */
#ifndef CHIMERA_HTML_H
#define CHIMERA_HTML_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* @text with what has a meaning in HTML replaced; always valid UTF-8. */
void html_escape(GString *out, const char *text);

void html_begin(GString *out, const char *title);
void html_end(GString *out);

/* <h2>, with an id that tests and links use. */
void html_section(GString *out, const char *id, const char *title);
void html_heading(GString *out, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
void html_note(GString *out, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

/*
 * A table: cells row by row. @heads as those of table.h. @folded: under this
 * summary that the reader opens; NULL: it is always there.
 */
struct html_table;
struct html_table *html_table_new(const char *const *heads, const char *folded);
void html_cell(struct html_table *t, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
/* Nothing at all when it has no rows. */
void html_table_end(struct html_table *t, GString *out);

/* "12 345" */
char *html_count(double v);

/* ---- plots ---- */

struct plot_line {
    const char *name;
    const double *y; /* one for each x */
};

/* Lines over time; @x: seconds, ascending. @unit: of y. */
void plot_lines(GString *out, const char *title, const char *unit,
                const double *x, unsigned nr_x, const struct plot_line *lines,
                unsigned nr_lines);

/*
 * Bars side by side, one group for each label; groups at the ends in which all
 * are 0 are left out.
 */
void plot_bars(GString *out, const char *title, const char *unit,
               const char *const *labels, unsigned nr_groups,
               const struct plot_line *bars, unsigned nr_bars);

/*
 * A map: cell (column c, row r) of @v[r * nr_columns + c] a second, columns
 * from @x[c] to @x[c + 1] seconds. Its shades are powers of ten.
 */
void plot_map(GString *out, const char *title, const char *unit,
              const double *x, unsigned nr_columns, const char *const *rows,
              unsigned nr_rows, const double *v);

#endif
