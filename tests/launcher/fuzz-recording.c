/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A recording may be any file. What is read of it gives a page that is
 * well-formed, or an error with a message.
 */
#include "recording.h"
#include "report.h"
#include "util.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void check_page(const char *html)
{
    static const GMarkupParser parser = { NULL };
    GMarkupParseContext *c = g_markup_parse_context_new(&parser, 0, NULL, NULL);
    g_autoptr(GError) error = NULL;

    g_markup_parse_context_parse(c, html, -1, &error);
    g_assert_no_error(error);
    g_markup_parse_context_end_parse(c, &error);
    g_assert_no_error(error);
    g_markup_parse_context_free(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    bool growing = bytes > 0 && data[0] & 1;
    int fd = memfd_create("recording", MFD_CLOEXEC);
    g_autoptr(GError) error = NULL;
    g_autofree char *html = NULL;
    struct recording *r;
    char path[64];

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (fd < 0 || write_all(fd, data, bytes) != 0) {
        abort();
    }
    r = recording_open(path, growing, &error);
    html = r ? report_html(r, &error) : NULL;
    g_assert_true((html != NULL) != (error != NULL));
    if (html) {
        check_page(html);
    } else {
        g_assert_true(g_utf8_validate(error->message, -1, NULL));
    }
    recording_free(r);
    close(fd);
    return 0;
}
