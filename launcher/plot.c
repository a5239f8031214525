/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The plots of html.h. One unit of the drawing is about a pixel. */
#include "html.h"

#include <math.h>
#include <string.h>

enum {
    WIDTH = 800,
    LEFT = 64, /* of the area, for the labels of the y axis */
    RIGHT = 12,
    TOP = 44, /* title, legend */
    BOTTOM = 24,
    HEIGHT = 180, /* of the area */
    MAX_GROUP = 200, /* of bars: few of them do not get wider */
    COLORS = 8,
    DASHES = 4,
    MAX_TICKS = 6,
    SHADES = 5,
    ROW_HEIGHT = 12,
    MAP_LEFT = 120,
};

/* XML's decimal point, whatever the locale. */
static const char *num(double v)
{
    static char buf[8][G_ASCII_DTOSTR_BUF_SIZE];
    static unsigned at;
    char *s = buf[at++ % G_N_ELEMENTS(buf)];

    return g_ascii_formatd(s, G_ASCII_DTOSTR_BUF_SIZE, "%.1f",
                           isfinite(v) ? v : 0);
}

static void text(GString *out, const char *cls, double x, double y,
                 const char *what)
{
    g_string_append_printf(out, "<text class=\"%s\" x=\"%s\" y=\"%s\">", cls,
                           num(x), num(y));
    html_escape(out, what);
    g_string_append(out, "</text>\n");
}

static void grid(GString *out, double x1, double y1, double x2, double y2)
{
    g_string_append_printf(out,
                           "<line class=\"grid\" x1=\"%s\" y1=\"%s\" x2=\"%s\" "
                           "y2=\"%s\"/>\n",
                           num(x1), num(y1), num(x2), num(y2));
}

static void begin(GString *out, const char *title, const char *unit,
                  double height)
{
    g_autofree char *whole = g_strdup_printf("%s (%s)", title, unit);

    g_string_append_printf(out,
                           "<svg xmlns=\"http://www.w3.org/2000/svg\" "
                           "viewBox=\"0 0 %d %s\" role=\"img\">\n<title>",
                           WIDTH, num(height));
    html_escape(out, whole);
    g_string_append(out, "</title>\n");
    text(out, "title", 0, 14, whole);
}

static void end(GString *out)
{
    g_string_append(out, "</svg>\n");
}

/* The classes of a series: after eight colours their dashes differ. */
static char *line_style(unsigned i)
{
    static const char *const dashes[DASHES] = { "", "6 3", "2 3", "8 3 2 3" };
    const char *dash = dashes[i / COLORS % DASHES];

    return *dash ? g_strdup_printf("class=\"l s%u\" stroke-dasharray=\"%s\"",
                                   i % COLORS, dash)
                 : g_strdup_printf("class=\"l s%u\"", i % COLORS);
}

static void legend(GString *out, const struct plot_line *series, unsigned nr,
                   bool lines)
{
    double x = LEFT;

    for (unsigned i = 0; i < nr; i++) {
        double width = 34 + 6.6 * (double)g_utf8_strlen(series[i].name, -1);

        if (x + width > WIDTH - RIGHT) {
            text(out, "", x, 32, "\u2026");
            return; /* the table has them all */
        }
        if (lines) {
            g_autofree char *s = line_style(i);

            g_string_append_printf(out, "<path %s d=\"M%s 28h18\"/>\n", s,
                                   num(x));
        } else {
            g_string_append_printf(out,
                                   "<rect class=\"f%u\" x=\"%s\" y=\"23\" "
                                   "width=\"10\" height=\"10\"/>\n",
                                   i % COLORS, num(x));
        }
        text(out, "", x + (lines ? 23 : 15), 32, series[i].name);
        x += width;
    }
}

/* 1, 2 or 5 times a power of ten, at most MAX_TICKS of them up to @max. */
static double tick_step(double max)
{
    double step = pow(10, floor(log10(max / MAX_TICKS)));
    static const double factors[] = { 1, 2, 5, 10 };

    for (unsigned i = 0; i < G_N_ELEMENTS(factors); i++) {
        if (max / (step * factors[i]) <= MAX_TICKS) {
            return step * factors[i];
        }
    }
    return step * 10;
}

static char *tick_label(double v)
{
    static const char *const units[] = { "", "k", "M", "G", "T" };
    unsigned u = 0;

    for (; v >= 1000 && u < 4; u++) {
        v /= 1000;
    }
    return g_strdup_printf("%.4g%s", v, units[u]);
}

/* Grid and labels of the y axis; returns the value at its top. */
static double y_axis(GString *out, double max)
{
    double step, top;

    if (!(max > 0) || !isfinite(max)) {
        max = 1;
    }
    step = tick_step(max);
    top = ceil(max / step - 1e-9) * step;
    for (unsigned i = 0; i * step <= top * 1.0001; i++) {
        double y = TOP + HEIGHT - HEIGHT * (i * step / top);
        g_autofree char *label = tick_label(i * step);

        grid(out, LEFT, y, WIDTH - RIGHT, y);
        text(out, "e", LEFT - 6, y + 4, label);
    }
    return top;
}

static char *time_label(double s, double step)
{
    if (step < 1) {
        return g_strdup_printf("%.4g s", s);
    }
    if (s < 120) {
        return g_strdup_printf("%.0f s", s);
    }
    return s < 7200 ? g_strdup_printf("%.0f:%02d min", floor(s / 60),
                                      (int)fmod(s, 60))
                    : g_strdup_printf("%.0f:%02d h", floor(s / 3600),
                                      (int)(fmod(s, 3600) / 60));
}

static double time_step(double span)
{
    static const double steps[] = { 0.1, 0.2, 0.5, 1,    2,    5,    10,
                                    20,  30,  60,  120,  300,  600,  1200,
                                    1800, 3600, 7200, 14400, 36000 };

    for (unsigned i = 0; i < G_N_ELEMENTS(steps); i++) {
        if (span / steps[i] <= 8) {
            return steps[i];
        }
    }
    return span / 8;
}

/* Labels below the area that reaches from @left to the right. */
static void x_axis(GString *out, double from, double to, double left,
                   double bottom)
{
    double step = time_step(to - from), scale;

    scale = (WIDTH - RIGHT - left) / (to > from ? to - from : 1);
    for (double k = ceil(from / step - 1e-9); k * step <= to + step * 1e-9;
         k++) {
        double t = fabs(k * step); /* never negative, and 0 has no sign then */
        g_autofree char *label = time_label(t, step);
        double x = left + (t - from) * scale;

        grid(out, x, bottom, x, bottom + 4);
        text(out, x > WIDTH - 30 ? "e" : "m", MIN(x, WIDTH - 2), bottom + 17,
             label);
    }
}

static double greatest(const struct plot_line *series, unsigned nr, unsigned n)
{
    double max = 0;

    for (unsigned i = 0; i < nr; i++) {
        for (unsigned k = 0; k < n; k++) {
            max = MAX(max, series[i].y[k]);
        }
    }
    return max;
}

void plot_lines(GString *out, const char *title, const char *unit,
                const double *x, unsigned nr_x, const struct plot_line *lines,
                unsigned nr_lines)
{
    double from = nr_x ? x[0] : 0, to = nr_x ? x[nr_x - 1] : 1, top;
    double scale = (WIDTH - RIGHT - LEFT) / (to > from ? to - from : 1);

    begin(out, title, unit, TOP + HEIGHT + BOTTOM);
    legend(out, lines, nr_lines, true);
    top = y_axis(out, greatest(lines, nr_lines, nr_x));
    x_axis(out, from, to, LEFT, TOP + HEIGHT);
    for (unsigned i = 0; i < nr_lines; i++) {
        g_autofree char *s = line_style(i);

        g_string_append_printf(out, "<path %s d=\"", s);
        for (unsigned k = 0; k < nr_x; k++) {
            double y = TOP + HEIGHT - HEIGHT * (lines[i].y[k] / top);

            g_string_append_printf(out, "%s%s %s", k ? "L" : "M",
                                   num(LEFT + (x[k] - from) * scale), num(y));
        }
        if (nr_x == 1) { /* a single point would not be seen */
            g_string_append(out, "h4");
        }
        g_string_append(out, "\"><title>");
        html_escape(out, lines[i].name);
        g_string_append(out, "</title></path>\n");
    }
    end(out);
}

void plot_bars(GString *out, const char *title, const char *unit,
               const char *const *labels, unsigned nr_groups,
               const struct plot_line *bars, unsigned nr_bars)
{
    unsigned first = nr_groups, last = 0, every = 1;
    double top, group;

    for (unsigned g = 0; g < nr_groups; g++) {
        for (unsigned i = 0; i < nr_bars; i++) {
            if (bars[i].y[g] > 0) {
                first = MIN(first, g);
                last = MAX(last, g + 1);
            }
        }
    }
    if (first >= last) {
        return;
    }
    begin(out, title, unit, TOP + HEIGHT + BOTTOM);
    legend(out, bars, nr_bars, false);
    top = y_axis(out, greatest(bars, nr_bars, nr_groups));
    group = MIN((double)(WIDTH - RIGHT - LEFT) / (last - first), MAX_GROUP);
    while (group * every < 52) {
        every++;
    }
    for (unsigned g = first; g < last; g++) {
        double x = LEFT + group * (g - first), w = group * 0.86 / nr_bars;

        if ((g - first) % every == 0) {
            text(out, "", x, TOP + HEIGHT + 17, labels[g]);
        }
        for (unsigned i = 0; i < nr_bars; i++) {
            double h = HEIGHT * (bars[i].y[g] / top);
            g_autofree char *count = html_count(bars[i].y[g]);

            if (!(bars[i].y[g] > 0)) {
                continue;
            }
            g_string_append_printf(
                out,
                "<rect class=\"f%u\" x=\"%s\" y=\"%s\" width=\"%s\" "
                "height=\"%s\"><title>",
                i % COLORS, num(x + w * i), num(TOP + HEIGHT - MAX(h, 0.5)),
                num(w), num(MAX(h, 0.5)));
            html_escape(out, bars[i].name);
            g_string_append(out, ", ");
            html_escape(out, labels[g]);
            g_string_append_printf(out, ": %s</title></rect>\n", count);
        }
    }
    end(out);
}

void plot_map(GString *out, const char *title, const char *unit,
              const double *x, unsigned nr_columns, const char *const *rows,
              unsigned nr_rows, const double *v)
{
    double bottom = TOP + (double)ROW_HEIGHT * nr_rows, from, to, scale;
    double max = 0;
    int shade_top;

    for (unsigned i = 0; i < nr_rows * nr_columns; i++) {
        max = MAX(max, v[i]);
    }
    if (!(max > 0) || !isfinite(max)) {
        return;
    }
    from = x[0];
    to = x[nr_columns];
    scale = (WIDTH - RIGHT - MAP_LEFT) / (to > from ? to - from : 1);
    shade_top = (int)floor(log10(max)); /* darkest: 10^shade_top and more */
    begin(out, title, unit, bottom + BOTTOM);
    for (int s = 0; s < SHADES; s++) {
        double low = pow(10, shade_top - s);
        g_autofree char *value = tick_label(low);
        g_autofree char *label = g_strdup_printf("\u2265 %s", value);

        g_string_append_printf(out,
                               "<rect class=\"heat\" fill-opacity=\"%s\" "
                               "x=\"%d\" y=\"23\" width=\"10\" "
                               "height=\"10\"/>\n",
                               num(1 - 0.2 * s), MAP_LEFT + 80 * s);
        text(out, "", MAP_LEFT + 80 * s + 15, 32, label);
    }
    for (unsigned r = 0; r < nr_rows; r++) {
        double y = TOP + (double)ROW_HEIGHT * r;

        text(out, "e", MAP_LEFT - 6, y + ROW_HEIGHT - 2, rows[r]);
        for (unsigned c = 0; c < nr_columns; c++) {
            double cell = v[r * nr_columns + c];
            int shade;

            if (!(cell > 0)) {
                continue;
            }
            shade = CLAMP(shade_top - (int)floor(log10(cell)), 0, SHADES - 1);
            g_string_append_printf(
                out,
                "<rect class=\"heat\" fill-opacity=\"%s\" x=\"%s\" y=\"%s\" "
                "width=\"%s\" height=\"%d\"/>\n",
                num(1 - 0.2 * shade), num(MAP_LEFT + (x[c] - from) * scale),
                num(y), num(MAX((x[c + 1] - x[c]) * scale, 0.5)),
                ROW_HEIGHT - 1);
        }
    }
    grid(out, MAP_LEFT, bottom, WIDTH - RIGHT, bottom);
    x_axis(out, from, to, MAP_LEFT, bottom);
    end(out);
}
