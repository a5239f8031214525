/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "terminal.h"

#include <stdlib.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

static struct termios saved;
static bool is_raw;

bool terminal_raw(void)
{
    static bool at_exit;
    struct termios raw;

    if (is_raw || tcgetattr(STDIN_FILENO, &saved) < 0) {
        return is_raw;
    }
    raw = saved;
    cfmakeraw(&raw);
    if (tcsetattr(STDIN_FILENO, TCSANOW, &raw) < 0) {
        return false;
    }
    is_raw = true;
    if (!at_exit) {
        atexit(terminal_restore);
        at_exit = true;
    }
    return true;
}

void terminal_restore(void)
{
    if (is_raw) {
        tcsetattr(STDIN_FILENO, TCSADRAIN, &saved);
        is_raw = false;
    }
}

bool terminal_size(int fd, uint16_t *ret_rows, uint16_t *ret_cols)
{
    struct winsize ws;

    if (ioctl(fd, TIOCGWINSZ, &ws) < 0 || ws.ws_row == 0 || ws.ws_col == 0) {
        return false;
    }
    *ret_rows = ws.ws_row;
    *ret_cols = ws.ws_col;
    return true;
}
