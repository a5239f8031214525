/*
 * The frequencies of clocks of x86 vCPUs
 *
 * The TSC of a TCG vCPU counts the host's ticks, whose frequency nobody tells.
 * A guest that measures it sees the host take its processor away meanwhile; so
 * QEMU measures, from its start until a guest asks, which is long enough that
 * it does not matter how long reading the clocks takes.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "cpu.h"
#include "qemu/timer.h"
#include "tcg/clocks.h"

#define READS 5

struct moment {
    int64_t us, ticks;
};

static struct moment start;

/* Both clocks at one time: of a few reads that which was held up least. */
static struct moment moment_now(void)
{
    struct moment best = { 0 };
    int64_t best_us = INT64_MAX;
    int i;

    for (i = 0; i < READS; i++) {
        int64_t before = g_get_monotonic_time();
        int64_t ticks = cpu_get_host_ticks();
        int64_t took = g_get_monotonic_time() - before;

        if (took < best_us) {
            best_us = took;
            best = (struct moment) { before + took / 2, ticks };
        }
    }
    return best;
}

static void __attribute__((constructor)) clocks_init(void)
{
    start = moment_now();
}

uint32_t x86_tsc_khz(void)
{
    static gsize khz;

    if (g_once_init_enter(&khz)) {
        struct moment now = moment_now();

        g_once_init_leave(&khz, (now.ticks - start.ticks) * 1000 /
                                (now.us - start.us));
    }
    return khz;
}
