/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "progress.h"

#include "terminal.h"
#include "util.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { REDRAW_MS = 250 };

struct progress {
    const struct machine_config *config;
    bool quiet, tty;
    gint64 start_us;
    guint timer;
    char *phase;
    char **events; /* of each node, NULL: none yet */
    double *seconds;
};

static void draw(struct progress *p)
{
    g_autoptr(GString) s = g_string_new(NULL);
    uint16_t rows, cols;

    g_string_append_printf(s, "chimera: %s: %s %.1f s ", p->config->name,
                           p->phase,
                           (double)(g_get_monotonic_time() - p->start_us) / 1e6);
    for (unsigned i = 0; i < p->config->nodes->len; i++) {
        if (!p->events[i]) {
            continue;
        }
        g_string_append_printf(s, "  %s: %s", config_node(p->config, i)->name,
                               p->events[i]);
        if (!strcmp(p->events[i], "up")) {
            g_string_append_printf(s, " %.1f s", p->seconds[i]);
        }
    }
    if (terminal_size(STDERR_FILENO, &rows, &cols) && s->len >= cols) {
        g_string_truncate(s, cols - 1u);
    }
    g_string_prepend(s, "\r");
    g_string_append(s, "\033[K");
    write_all(STDERR_FILENO, s->str, s->len);
}

static gboolean on_timer(gpointer opaque)
{
    draw(opaque);
    return G_SOURCE_CONTINUE;
}

struct progress *progress_new(const struct machine_config *config, bool quiet)
{
    struct progress *p = g_new0(struct progress, 1);
    unsigned n = config->nodes->len;

    p->config = config;
    p->quiet = quiet;
    p->tty = isatty(STDERR_FILENO) && g_strcmp0(g_getenv("TERM"), "dumb") != 0;
    p->start_us = g_get_monotonic_time();
    p->phase = g_strdup("booting");
    p->events = g_new0(char *, n + 1);
    p->seconds = g_new0(double, n);
    if (!quiet && p->tty) {
        p->timer = g_timeout_add(REDRAW_MS, on_timer, p);
        draw(p);
    } else if (!quiet) {
        complain("%s: booting %u node%s", config->name, n, n == 1 ? "" : "s");
    }
    return p;
}

void progress_event(struct progress *p, unsigned node, const char *event,
                    double seconds)
{
    if (p->quiet || node >= p->config->nodes->len) {
        return;
    }
    g_free(p->events[node]);
    p->events[node] = g_strdup(event);
    p->seconds[node] = seconds;
    if (p->tty) {
        draw(p);
    } else if (!strcmp(event, "up")) {
        complain("%s: node %s is up after %.2f s", p->config->name,
                 config_node(p->config, node)->name, seconds);
    }
}

void progress_phase(struct progress *p, const char *phase)
{
    g_free(p->phase);
    p->phase = g_strdup(phase);
    if (p->quiet) {
        return;
    }
    if (p->tty) {
        draw(p);
    } else {
        complain("%s: %s", p->config->name, phase);
    }
}

void progress_free(struct progress *p, const char *summary)
{
    if (!p) {
        return;
    }
    if (p->timer) {
        g_source_remove(p->timer);
        write_all(STDERR_FILENO, "\r\033[K", 4);
    }
    if (!p->quiet && summary) {
        complain("%s: %s", p->config->name, summary);
    }
    g_strfreev(p->events);
    g_free(p->seconds);
    g_free(p->phase);
    g_free(p);
}
