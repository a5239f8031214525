/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

G_DEFINE_QUARK(chimera - error - quark, chimera_error)

void complain(const char *fmt, ...)
{
    g_autoptr(GString) s = g_string_new("chimera: ");
    va_list ap;

    va_start(ap, fmt);
    g_string_append_vprintf(s, fmt, ap);
    va_end(ap);
    if (s->str[s->len - 1] != '\n') {
        g_string_append_c(s, '\n');
    }
    write_all(STDERR_FILENO, s->str, s->len);
}

int write_all(int fd, const void *data, size_t len)
{
    const char *p = data;

    while (len > 0) {
        ssize_t n = write(fd, p, len);

        if (n < 0) {
            if (errno == EINTR) {
                continue;
            }
            return errno;
        }
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

bool parse_uint(const char *text, uint64_t min, uint64_t max, uint64_t *ret)
{
    uint64_t v = 0;

    if (!*text) {
        return false;
    }
    for (; *text; text++) {
        if (!g_ascii_isdigit(*text) || !g_uint64_checked_mul(&v, v, 10) ||
            !g_uint64_checked_add(&v, v, (uint64_t)(*text - '0'))) {
            return false;
        }
    }
    if (v < min || v > max) {
        return false;
    }
    *ret = v;
    return true;
}

bool parse_size(const char *text, uint64_t *ret_bytes)
{
    static const char units[] = "KMGT";
    size_t len = strlen(text);
    const char *unit;
    unsigned shift = 0;
    uint64_t v;

    if (len > 1 && (unit = strchr(units, g_ascii_toupper(text[len - 1])))) {
        shift = 10 * (unsigned)(unit - units + 1);
        len--;
    }
    g_autofree char *digits = g_strndup(text, len);

    if (!parse_uint(digits, 0, UINT64_MAX >> shift, &v)) {
        return false;
    }
    *ret_bytes = v << shift;
    return true;
}

char *format_size(uint64_t bytes)
{
    static const char units[] = "KMGT";
    int unit = -1;
    double v = (double)bytes;

    while (v >= 1024 && unit < 3) {
        v /= 1024;
        unit++;
    }
    if (unit < 0) {
        return g_strdup_printf("%" PRIu64, bytes);
    }
    return v == (double)(uint64_t)v ? g_strdup_printf("%.0f%c", v, units[unit])
                                    : g_strdup_printf("%.1f%c", v, units[unit]);
}

static int compare_unsigned(gconstpointer a, gconstpointer b)
{
    unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;

    return x < y ? -1 : x > y;
}

GArray *parse_cpu_list(const char *text, unsigned max)
{
    g_autoptr(GArray) cpus = g_array_new(FALSE, FALSE, sizeof(unsigned));
    g_auto(GStrv) parts = g_strsplit(text, ",", -1);

    for (char **p = parts; *p; p++) {
        char *dash = strchr(*p, '-');
        uint64_t first, last;

        if (dash) {
            *dash = '\0';
        }
        if (!parse_uint(g_strstrip(*p), 0, max, &first)) {
            return NULL;
        }
        last = first;
        if (dash && (!parse_uint(g_strstrip(dash + 1), 0, max, &last) ||
                     last < first)) {
            return NULL;
        }
        for (unsigned cpu = (unsigned)first; cpu <= last; cpu++) {
            g_array_append_val(cpus, cpu);
        }
    }
    if (cpus->len == 0) {
        return NULL;
    }
    g_array_sort(cpus, compare_unsigned);
    for (unsigned i = 1; i < cpus->len; i++) {
        if (g_array_index(cpus, unsigned, i) ==
            g_array_index(cpus, unsigned, i - 1)) {
            return NULL;
        }
    }
    return g_steal_pointer(&cpus);
}

char *format_cpu_list(const GArray *cpus)
{
    GString *s = g_string_new(NULL);

    for (unsigned i = 0; i < cpus->len; i++) {
        unsigned first = g_array_index(cpus, unsigned, i), last = first;

        while (i + 1 < cpus->len &&
               g_array_index(cpus, unsigned, i + 1) == last + 1) {
            last++;
            i++;
        }
        g_string_append_printf(s, first == last ? "%s%u" : "%s%u-%u",
                               s->len ? "," : "", first, last);
    }
    return g_string_free(s, FALSE);
}

/*
 * Edit distance in which a swap of neighbours counts one; bounded by the
 * caller to short words.
 */
static unsigned edit_distance(const char *a, const char *b)
{
    enum { MAX_WORD = 64 };
    size_t la = strlen(a), lb = strlen(b);
    unsigned d[MAX_WORD + 1][MAX_WORD + 1];

    if (la > MAX_WORD || lb > MAX_WORD) {
        return MAX_WORD;
    }
    for (size_t i = 0; i <= la; i++) {
        d[i][0] = (unsigned)i;
    }
    for (size_t j = 0; j <= lb; j++) {
        d[0][j] = (unsigned)j;
    }
    for (size_t i = 1; i <= la; i++) {
        for (size_t j = 1; j <= lb; j++) {
            unsigned cost = a[i - 1] != b[j - 1];

            d[i][j] =
                MIN(MIN(d[i - 1][j], d[i][j - 1]) + 1, d[i - 1][j - 1] + cost);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
                d[i][j] = MIN(d[i][j], d[i - 2][j - 2] + 1);
            }
        }
    }
    return d[la][lb];
}

const char *did_you_mean(const char *word, const char *const *candidates)
{
    size_t len = strlen(word);
    /* A third of the letters may be wrong, at least one, at most three. */
    unsigned best = (unsigned)CLAMP(len / 3, 1, 3) + 1;
    const char *found = NULL;

    for (; *candidates; candidates++) {
        unsigned d = edit_distance(word, *candidates);

        if (d < best) {
            best = d;
            found = *candidates;
        }
    }
    return found;
}

/* Appends @len bytes without escape sequences and control characters. */
static void append_printable(GString *out, const char *p, size_t len)
{
    const char *end = p + len;

    while (p < end) {
        unsigned char c = (unsigned char)*p;

        if (c == 0x1b) { /* CSI ... letter, OSC ... BEL, else two bytes */
            p++;
            if (p < end && *p == '[') {
                for (p++; p < end && !(*p >= '@' && *p <= '~'); p++) {}
            } else if (p < end && *p == ']') {
                for (p++; p < end && *p != '\a' && *p != 0x1b; p++) {}
            }
            p += p < end;
        } else if (c == '\t' || (c >= 0x20 && c != 0x7f)) {
            g_string_append_c(out, *p++);
        } else {
            p++;
        }
    }
}

char *printable_line(const char *text, gssize len)
{
    g_autoptr(GString) s = g_string_new(NULL);
    size_t n = len < 0 ? strlen(text) : (size_t)len;

    append_printable(s, text, n);
    return g_utf8_make_valid(s->str, (gssize)s->len);
}

char *tail_of_file(const char *path, unsigned max_lines, const char *indent)
{
    enum { TAIL_BYTES = 65536 };
    g_autofree char *buf = g_malloc(TAIL_BYTES);
    g_autoptr(GPtrArray) lines = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GString) out = g_string_new(NULL);
    struct stat st;
    ssize_t n;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0) {
        return g_strdup("");
    }
    if (fstat(fd, &st) < 0) {
        st.st_size = 0;
    }
    n = pread(fd, buf, TAIL_BYTES,
              st.st_size > TAIL_BYTES ? st.st_size - TAIL_BYTES : 0);
    close(fd);
    for (char *p = buf, *end = buf + MAX(n, 0); p < end;) {
        char *nl = memchr(p, '\n', (size_t)(end - p));
        size_t len = (size_t)((nl ? nl : end) - p);
        g_autofree char *line = printable_line(p, (gssize)len);

        if (*g_strchomp(line)) {
            g_ptr_array_add(lines, g_steal_pointer(&line));
        }
        p += len + 1;
    }
    for (unsigned i = lines->len > max_lines ? lines->len - max_lines : 0;
         i < lines->len; i++) {
        g_string_append_printf(out, "%s%s\n", indent, (char *)lines->pdata[i]);
    }
    return g_string_free(g_steal_pointer(&out), FALSE);
}

char **split_nul_strings(const uint8_t *data, gsize len)
{
    g_autoptr(GPtrArray) v = g_ptr_array_new_with_free_func(g_free);

    if (len > 0 && data[len - 1] != '\0') {
        return NULL;
    }
    for (gsize i = 0; i < len;) {
        gsize n = strlen((const char *)data + i);

        g_ptr_array_add(v, g_strndup((const char *)data + i, n));
        i += n + 1;
    }
    g_ptr_array_set_free_func(v, NULL);
    g_ptr_array_add(v, NULL);
    return (char **)g_ptr_array_free(g_steal_pointer(&v), FALSE);
}
