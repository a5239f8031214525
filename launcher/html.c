/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "html.h"

#include <string.h>

static const char style[] =
    ":root{--ink:#1b1e23;--soft:#5b636e;--paper:#fff;--line:#d9dde3;"
    "--heat:#b3261e;--c0:#0072b2;--c1:#d55e00;--c2:#00875f;--c3:#b4568c;"
    "--c4:#9a6a00;--c5:#3f8fc4;--c6:#7a5195;--c7:#5f6670}\n"
    "@media (prefers-color-scheme:dark){:root{--ink:#e6e8eb;--soft:#a3abb5;"
    "--paper:#15181c;--line:#363c44;--heat:#ff8a65;--c0:#56b4e9;--c1:#ff8c42;"
    "--c2:#2fc79a;--c3:#e39ac4;--c4:#e6b422;--c5:#a3d5ff;--c6:#b59ad6;"
    "--c7:#aab0b8}}\n"
    "html{color-scheme:light dark}\n"
    "body{margin:0 auto;padding:1.5rem;max-width:60rem;color:var(--ink);"
    "background:var(--paper);font:15px/1.5 system-ui,sans-serif}\n"
    "h1{font-size:1.6rem}h2{margin-top:2.5rem;font-size:1.25rem;"
    "border-bottom:1px solid var(--line)}h3{margin:1.5rem 0 .3rem;"
    "font-size:1rem}\n"
    "p{margin:.4rem 0;color:var(--soft)}nav a{margin-right:1rem}"
    "a{color:var(--c0)}\n"
    ".wide{overflow-x:auto}table{border-collapse:collapse;margin:.6rem 0;"
    "font-size:.85rem;font-variant-numeric:tabular-nums}"
    "th,td{padding:.2rem .8rem .2rem 0;text-align:left;white-space:nowrap;"
    "border-bottom:1px solid var(--line)}th{color:var(--soft);"
    "font-weight:600}.n{text-align:right}\n"
    "summary{cursor:pointer;color:var(--soft);font-size:.85rem}\n"
    "svg{display:block;width:100%;height:auto;margin:.3rem 0}"
    "svg text{fill:var(--soft);font:11px system-ui,sans-serif}"
    "svg .title{fill:var(--ink);font-weight:600;font-size:12px}"
    "svg .e{text-anchor:end}svg .m{text-anchor:middle}"
    "svg .grid{stroke:var(--line);stroke-width:1}"
    "svg .l{fill:none;stroke-width:1.8;stroke-linejoin:round}"
    "svg .heat{fill:var(--heat);shape-rendering:crispEdges}\n"
    ".s0{stroke:var(--c0)}.s1{stroke:var(--c1)}.s2{stroke:var(--c2)}"
    ".s3{stroke:var(--c3)}.s4{stroke:var(--c4)}.s5{stroke:var(--c5)}"
    ".s6{stroke:var(--c6)}.s7{stroke:var(--c7)}\n"
    ".f0{fill:var(--c0)}.f1{fill:var(--c1)}.f2{fill:var(--c2)}"
    ".f3{fill:var(--c3)}.f4{fill:var(--c4)}.f5{fill:var(--c5)}"
    ".f6{fill:var(--c6)}.f7{fill:var(--c7)}\n"
    "@media print{details{display:block}}\n";

/* ---- texts ---- */

/* Characters that XML knows no way to write are left out. */
static bool is_writable(gunichar c)
{
    return c == '\t' || c == '\n' || (c >= 0x20 && c != 0x7f && c < 0xd800) ||
           (c > 0xdfff && c < 0xfffe) || (c > 0xffff && c <= 0x10ffff);
}

void html_escape(GString *out, const char *text)
{
    g_autofree char *valid = g_utf8_make_valid(text, -1);

    for (const char *p = valid; *p; p = g_utf8_next_char(p)) {
        gunichar c = g_utf8_get_char(p);

        switch (c) {
        case '&':
            g_string_append(out, "&amp;");
            break;
        case '<':
            g_string_append(out, "&lt;");
            break;
        case '>':
            g_string_append(out, "&gt;");
            break;
        case '"':
            g_string_append(out, "&quot;");
            break;
        case '\'':
            g_string_append(out, "&#39;");
            break;
        default:
            if (is_writable(c)) {
                g_string_append_unichar(out, c);
            }
        }
    }
}

static void element(GString *out, const char *tag, const char *text)
{
    g_string_append_printf(out, "<%s>", tag);
    html_escape(out, text);
    g_string_append_printf(out, "</%.*s>\n", (int)strcspn(tag, " "), tag);
}

void html_begin(GString *out, const char *title)
{
    g_string_append(out, "<!DOCTYPE html>\n"
                         "<html xmlns=\"http://www.w3.org/1999/xhtml\" "
                         "lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
                         "<meta name=\"viewport\" "
                         "content=\"width=device-width, initial-scale=1\"/>\n");
    element(out, "title", title);
    g_string_append_printf(out, "<style>\n%s</style>\n</head>\n<body>\n", style);
    element(out, "h1", title);
}

void html_end(GString *out)
{
    g_string_append(out, "</body>\n</html>\n");
}

void html_section(GString *out, const char *id, const char *title)
{
    g_autofree char *tag = g_strdup_printf("h2 id=\"%s\"", id);

    element(out, tag, title);
}

void html_heading(GString *out, const char *fmt, ...)
{
    g_autofree char *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    element(out, "h3", text);
}

void html_note(GString *out, const char *fmt, ...)
{
    g_autofree char *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    element(out, "p", text);
}

char *html_count(double v)
{
    g_autofree char *digits = g_strdup_printf("%.0f", v);
    size_t n = strlen(digits);
    GString *s = g_string_new(NULL);

    for (size_t i = 0; i < n; i++) {
        if (i > 0 && (n - i) % 3 == 0 && digits[i - 1] != '-') {
            g_string_append(s, "\u202f");
        }
        g_string_append_c(s, digits[i]);
    }
    return g_string_free(s, FALSE);
}

/* ---- tables ---- */

struct html_table {
    const char *const *heads;
    unsigned columns, cells;
    char *folded;
    GString *body;
};

struct html_table *html_table_new(const char *const *heads, const char *folded)
{
    struct html_table *t = g_new0(struct html_table, 1);

    t->heads = heads;
    t->columns = g_strv_length((char **)heads);
    t->folded = g_strdup(folded);
    t->body = g_string_new(NULL);
    return t;
}

void html_cell(struct html_table *t, const char *fmt, ...)
{
    unsigned column = t->cells++ % t->columns;
    g_autofree char *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    g_string_append(t->body, column ? "" : "<tr>");
    g_string_append(t->body,
                    *t->heads[column] == '>' ? "<td class=\"n\">" : "<td>");
    html_escape(t->body, text);
    g_string_append(t->body, column + 1 == t->columns ? "</td></tr>\n"
                                                      : "</td>");
}

void html_table_end(struct html_table *t, GString *out)
{
    g_assert(t->cells % t->columns == 0);
    if (t->cells) {
        if (t->folded) {
            g_string_append(out, "<details>");
            element(out, "summary", t->folded);
        }
        g_string_append(out, "<div class=\"wide\"><table>\n<thead><tr>");
        for (unsigned i = 0; i < t->columns; i++) {
            bool right = *t->heads[i] == '>';

            g_string_append(out, right ? "<th class=\"n\">" : "<th>");
            html_escape(out, t->heads[i] + right);
            g_string_append(out, "</th>");
        }
        g_string_append_printf(out, "</tr></thead>\n<tbody>\n%s</tbody></table>"
                                    "</div>\n%s",
                               t->body->str, t->folded ? "</details>\n" : "");
    }
    g_string_free(t->body, TRUE);
    g_free(t->folded);
    g_free(t);
}
