/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Small things every part of the launcher uses. */
#ifndef CHIMERA_UTIL_H
#define CHIMERA_UTIL_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <unistd.h>

/*
 * Exit codes of the launcher itself. run and exec pass on their program's
 * code, so their own failures use what env(1) and timeout(1) use.
 */
enum {
    EXIT_OK = 0,
    EXIT_FAILED = 1,
    EXIT_USAGE = 2,
    EXIT_LAUNCHER = 125, /* run, exec: chimera itself failed */
    EXIT_CANNOT_RUN = 126, /* run, exec: PROG exists but cannot be started */
    EXIT_NOT_FOUND = 127, /* run, exec: no PROG */
    EXIT_SIGNAL_BASE = 128, /* + signal number */
};

#define CHIMERA_ERROR chimera_error_quark()
GQuark chimera_error_quark(void);

enum chimera_error {
    CHIMERA_ERROR_CONFIG, /* a configuration file is wrong */
    CHIMERA_ERROR_HOST, /* the host lacks something */
    CHIMERA_ERROR_STATE, /* the machine is not in a state for this */
    CHIMERA_ERROR_PROTO, /* a peer sent something malformed */
    CHIMERA_ERROR_TARGET, /* no such machine or node */
    CHIMERA_ERROR_FLEETING, /* the machine is just starting or ending */
};

/* "chimera: " + message on stderr, one write(2), a newline added. */
void complain(const char *fmt, ...) G_GNUC_PRINTF(1, 2);

/* Everything or an errno; retries EINTR. */
int write_all(int fd, const void *data, size_t len);

/* A size with K, M, G or T; false when it is anything else or too large. */
bool parse_size(const char *text, uint64_t *ret_bytes);

/* "512M", "1.5G": the largest unit that needs no more than one decimal. */
char *format_size(uint64_t bytes);

/* Decimal digits only, no sign, no space; false when not in [min, max]. */
bool parse_uint(const char *text, uint64_t min, uint64_t max, uint64_t *ret);

/*
 * "0-2,5" as a sorted array of unsigned. Every number at most @max; no
 * duplicates, no descending range. NULL when malformed.
 */
GArray *parse_cpu_list(const char *text, unsigned max);
char *format_cpu_list(const GArray *cpus);

/* The candidate nearest to @word, NULL when none is near enough. */
const char *did_you_mean(const char *word, const char *const *candidates);

/*
 * The last @max_lines lines of a file, without control characters and escape
 * sequences, every line with @indent before it. "" when there is nothing.
 */
char *tail_of_file(const char *path, unsigned max_lines, const char *indent);

/* Text that came from somewhere else, safe for a terminal, one line. */
char *printable_line(const char *text, gssize len);

/* Strings of a "a\0b\0" payload; NULL when the last one is unterminated. */
char **split_nul_strings(const uint8_t *data, gsize len);

static inline void close_fd(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

#endif
