/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Linked to every program of the matrix: says how often its main thread moved. */
#include <chimera.h>
#include <stdio.h>

static __attribute__((destructor)) void report(void)
{
    fprintf(stderr, "hops %lu\n", chimera_hops());
}
