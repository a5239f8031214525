/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Histograms as query-dsm has them: bucket b counts [2^b, 2^(b+1)) ns. */
#ifndef CHIMERA_HISTOGRAM_H
#define CHIMERA_HISTOGRAM_H

#include <glib.h>
#include <stdint.h>

enum { HISTOGRAM_BUCKETS = 40 };

struct histogram {
    uint64_t bucket[HISTOGRAM_BUCKETS];
};

/*
 * What came between two readings. A bucket that has become smaller (the
 * counters began anew) counts as new.
 */
void histogram_subtract(struct histogram *now, const struct histogram *before);
void histogram_add(struct histogram *to, const struct histogram *more);
uint64_t histogram_count(const struct histogram *h);

/*
 * The value below which @percent (0 < percent <= 100) of what was counted
 * lies, in ns: exact to the bucket, estimated inside of it as if its values
 * were spread evenly. Negative: nothing was counted.
 */
double histogram_percentile(const struct histogram *h, double percent);

/* "12.3 us", three digits; "-" for what is negative. */
char *format_ns(double ns);

#endif
