/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "histogram.h"

void histogram_subtract(struct histogram *now, const struct histogram *before)
{
    for (unsigned b = 0; b < HISTOGRAM_BUCKETS; b++) {
        if (now->bucket[b] >= before->bucket[b]) {
            now->bucket[b] -= before->bucket[b];
        }
    }
}

void histogram_add(struct histogram *to, const struct histogram *more)
{
    for (unsigned b = 0; b < HISTOGRAM_BUCKETS; b++) {
        to->bucket[b] += more->bucket[b];
    }
}

uint64_t histogram_count(const struct histogram *h)
{
    uint64_t n = 0;

    for (unsigned b = 0; b < HISTOGRAM_BUCKETS; b++) {
        n += h->bucket[b];
    }
    return n;
}

double histogram_percentile(const struct histogram *h, double percent)
{
    uint64_t n = histogram_count(h), seen = 0;
    double rank = percent / 100 * (double)n;

    for (unsigned b = 0; b < HISTOGRAM_BUCKETS; b++) {
        double in = (double)h->bucket[b];

        if (h->bucket[b] && (double)(seen + h->bucket[b]) >= rank) {
            double low = b ? (double)(UINT64_C(1) << b) : 0;
            double high = (double)(UINT64_C(2) << b);

            return low + (high - low) * (rank - (double)seen) / in;
        }
        seen += h->bucket[b];
    }
    return -1;
}

char *format_ns(double ns)
{
    static const char *const units[] = { "ns", "us", "ms", "s" };
    unsigned u = 0;

    if (ns < 0) {
        return g_strdup("-");
    }
    for (; u < 3 && ns >= 999.5; u++) {
        ns /= 1000;
    }
    return g_strdup_printf("%.*f %s", ns < 9.995 && u ? 2 : ns < 99.95 && u ? 1 : 0,
                           ns, units[u]);
}
