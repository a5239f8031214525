/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What nothing that serves pages by userfaultfd over a socket can beat: a
 * fault, a round trip that brings a page (or only an answer), one ioctl.
 */
#ifndef CHIMERA_BENCH_PAGES_FLOOR_H
#define CHIMERA_BENCH_PAGES_FLOOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum placement {
    ANYWHERE,
    ONE_CORE,
    APART, /* each process on a core of its own */
};

struct floor;

struct floor *floor_begin(int pages, bool tcp, bool spin,
                          enum placement placement);
/* Make every page one that floor_fault() can take. */
void floor_prepare(struct floor *f, bool upgrade);
/* Return: ns that the access took. */
uint64_t floor_fault(struct floor *f, int page, bool upgrade);
void floor_end(struct floor *f);

/*
 * Return: MB/s of a socket that carries so many bytes to another process, out
 * of and into @span bytes of memory, over and over.
 */
double floor_bulk(size_t bytes, size_t span, bool tcp);

#endif
