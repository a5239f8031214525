/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "signals.h"

#include <glib-unix.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

static signal_handler *current_handler;
static void *current_opaque;

static void fill(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGHUP);
    sigaddset(set, SIGQUIT);
    sigaddset(set, SIGWINCH);
}

void signals_block(void)
{
    sigset_t set;

    fill(&set);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
}

static gboolean on_signal(int fd, GIOCondition cond, gpointer opaque)
{
    struct signalfd_siginfo info;

    if (read(fd, &info, sizeof(info)) == sizeof(info)) {
        current_handler((int)info.ssi_signo, current_opaque);
    }
    return G_SOURCE_CONTINUE;
}

void signals_handle(signal_handler *handler, void *opaque)
{
    if (!current_handler) {
        sigset_t set;

        fill(&set);
        g_unix_fd_add(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK), G_IO_IN,
                      on_signal, NULL);
    }
    current_handler = handler;
    current_opaque = opaque;
}
