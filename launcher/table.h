/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Columns for people: as wide as needed, numbers to the right. */
#ifndef CHIMERA_TABLE_H
#define CHIMERA_TABLE_H

#include <glib.h>

struct table;

/* @heads: "NAME" to the left, ">PID" to the right; NULL-terminated. */
struct table *table_new(const char *const *heads);
/* One cell, row by row; takes over @text. */
void table_add(struct table *t, char *text);
/* Every line after @indent and ended by a newline; frees the table. */
void table_format(struct table *t, const char *indent, GString *out);
/* To stdout, every line after @indent; frees the table. */
void table_print(struct table *t, const char *indent);

/* Texts of cells: a dash for 0. */
char *cell_number(gint64 v);
char *cell_duration(double seconds);

#endif
