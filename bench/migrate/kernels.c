/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Compute kernels for the cost of being migratable (bench/migrate/cost).
 *
 * usage: kernels NAME [REPEAT]    runs one kernel, prints a checksum and the CPU
 *                                 time of the fastest repetition in ns
 *        kernels                  lists the names
 *
 * Written for this project after the kinds of code that programs have: sparse
 * and dense linear algebra, transforms, sorting, hashing, parsing, recursion.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static uint64_t rng = 88172645463325252ull;

static uint64_t next_random(void)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return rng;
}

/* --- cg: conjugate gradient on a sparse matrix ---------------------------------- */
#define CG_N 2000
#define CG_ROW 12
static int cg_col[CG_N][CG_ROW];
static double cg_val[CG_N][CG_ROW];

static void cg_multiply(const double *x, double *y)
{
    for (int i = 0; i < CG_N; i++) {
        double s = 20.0 * x[i];

        for (int k = 0; k < CG_ROW; k++) {
            s += cg_val[i][k] * x[cg_col[i][k]];
        }
        y[i] = s;
    }
}

static double dot(const double *a, const double *b, int n)
{
    double s = 0;

    for (int i = 0; i < n; i++) {
        s += a[i] * b[i];
    }
    return s;
}

static double cg(void)
{
    static double x[CG_N], r[CG_N], p[CG_N], q[CG_N];
    double rho;

    for (int i = 0; i < CG_N; i++) {
        for (int k = 0; k < CG_ROW; k++) {
            cg_col[i][k] = next_random() % CG_N;
            cg_val[i][k] = (double)(next_random() % 1000) / 1000 - 0.5;
        }
        x[i] = 0;
        r[i] = p[i] = 1;
    }
    rho = dot(r, r, CG_N);
    for (int it = 0; it < 120; it++) {
        double alpha, old = rho;

        cg_multiply(p, q);
        alpha = rho / dot(p, q, CG_N);
        for (int i = 0; i < CG_N; i++) {
            x[i] += alpha * p[i];
            r[i] -= alpha * q[i];
        }
        rho = dot(r, r, CG_N);
        for (int i = 0; i < CG_N; i++) {
            p[i] = r[i] + rho / old * p[i];
        }
        if (rho < 1e-28) {
            rho = dot(x, x, CG_N);
            memcpy(r, x, sizeof(r));
        }
    }
    return dot(x, x, CG_N);
}

/* --- ft: fast Fourier transform --------------------------------------------------- */
#define FT_LOG 15
#define FT_N (1 << FT_LOG)

static void fft(double *re, double *im, int n, int sign)
{
    for (int i = 1, j = 0; i < n; i++) {
        int bit = n >> 1;

        for (; j & bit; bit >>= 1) {
            j ^= bit;
        }
        j ^= bit;
        if (i < j) {
            double t = re[i];

            re[i] = re[j];
            re[j] = t;
            t = im[i];
            im[i] = im[j];
            im[j] = t;
        }
    }
    for (int len = 2; len <= n; len <<= 1) {
        double angle = sign * 2 * M_PI / len, wr = cos(angle), wi = sin(angle);

        for (int i = 0; i < n; i += len) {
            double cr = 1, ci = 0;

            for (int k = 0; k < len / 2; k++) {
                double *ar = &re[i + k], *ai = &im[i + k];
                double *br = ar + len / 2, *bi = ai + len / 2;
                double tr = *br * cr - *bi * ci, ti = *br * ci + *bi * cr, t;

                *br = *ar - tr;
                *bi = *ai - ti;
                *ar += tr;
                *ai += ti;
                t = cr * wr - ci * wi;
                ci = cr * wi + ci * wr;
                cr = t;
            }
        }
    }
}

static double ft(void)
{
    static double re[FT_N], im[FT_N];

    for (int i = 0; i < FT_N; i++) {
        re[i] = next_random() % 1000;
        im[i] = 0;
    }
    for (int i = 0; i < 4; i++) {
        fft(re, im, FT_N, i & 1 ? -1 : 1);
        for (int k = 0; k < FT_N; k++) {
            re[k] *= 0.005;
            im[k] *= 0.005;
        }
    }
    return re[1] + im[2];
}

/* --- is: integer bucket sort ------------------------------------------------------ */
#define IS_N 400000
#define IS_KEYS 2048

static double is(void)
{
    static int key[IS_N], count[IS_KEYS + 1], out[IS_N];
    double s = 0;

    for (int i = 0; i < IS_N; i++) {
        key[i] = next_random() % IS_KEYS;
    }
    for (int it = 0; it < 6; it++) {
        memset(count, 0, sizeof(count));
        for (int i = 0; i < IS_N; i++) {
            count[key[i] + 1]++;
        }
        for (int i = 0; i < IS_KEYS; i++) {
            count[i + 1] += count[i];
        }
        for (int i = 0; i < IS_N; i++) {
            out[count[key[i]]++] = i;
        }
        s += out[IS_N / 2];
        key[it] ^= 1;
    }
    return s;
}

/* --- mg: multigrid relaxation ------------------------------------------------------ */
#define MG_N 48
static double mg_u[MG_N][MG_N][MG_N], mg_v[MG_N][MG_N][MG_N];

static void relax(double (*to)[MG_N][MG_N], double (*u)[MG_N][MG_N])
{
    for (int i = 1; i < MG_N - 1; i++) {
        for (int j = 1; j < MG_N - 1; j++) {
            for (int k = 1; k < MG_N - 1; k++) {
                to[i][j][k] = (u[i - 1][j][k] + u[i + 1][j][k] +
                               u[i][j - 1][k] + u[i][j + 1][k] +
                               u[i][j][k - 1] + u[i][j][k + 1]) / 6;
            }
        }
    }
}

static double mg(void)
{
    for (int i = 0; i < MG_N * MG_N * MG_N; i++) {
        (&mg_u[0][0][0])[i] = next_random() % 100;
    }
    for (int it = 0; it < 20; it++) {
        relax(mg_v, mg_u);
        relax(mg_u, mg_v);
    }
    return mg_u[5][6][7];
}

/* --- ep: random numbers, logarithms ------------------------------------------------ */
static double ep(void)
{
    double sx = 0, sy = 0;

    for (int i = 0; i < 300000; i++) {
        double x = (double)(next_random() >> 11) / (1ull << 52) - 1;
        double y = (double)(next_random() >> 11) / (1ull << 52) - 1;
        double t = x * x + y * y;

        if (t <= 1 && t > 0) {
            double f = sqrt(-2 * log(t) / t);

            sx += fabs(x * f);
            sy += fabs(y * f);
        }
    }
    return sx + sy;
}

/* --- sort: quicksort of records through a comparison function ----------------------- */
struct item {
    uint32_t key;
    char name[12];
};

static int compare_items(const void *a, const void *b)
{
    const struct item *x = a, *y = b;

    return x->key != y->key ? (x->key > y->key) - (x->key < y->key)
                            : strcmp(x->name, y->name);
}

static void quick(struct item **v, int n)
{
    while (n > 8) {
        struct item *pivot = v[n / 2];
        int i = 0, j = n - 1;

        while (i <= j) {
            while (compare_items(v[i], pivot) < 0) {
                i++;
            }
            while (compare_items(v[j], pivot) > 0) {
                j--;
            }
            if (i <= j) {
                struct item *t = v[i];

                v[i++] = v[j];
                v[j--] = t;
            }
        }
        quick(v, j + 1);
        v += i;
        n -= i;
    }
    for (int i = 1; i < n; i++) {
        struct item *t = v[i];
        int j = i;

        for (; j > 0 && compare_items(v[j - 1], t) > 0; j--) {
            v[j] = v[j - 1];
        }
        v[j] = t;
    }
}

#define SORT_N 60000
static double sort(void)
{
    static struct item item[SORT_N], *v[SORT_N];

    for (int i = 0; i < SORT_N; i++) {
        item[i].key = next_random() % 5000;
        memcpy(item[i].name, "abcdefghijk", 12);
        item[i].name[next_random() % 11] = 'x';
        v[i] = &item[i];
    }
    quick(v, SORT_N);
    return v[SORT_N / 3]->key;
}

/* --- hash: a table of strings ---------------------------------------------- */
struct entry {
    struct entry *next;
    char text[16];
    int count;
};

static uint32_t hash_text(const char *s)
{
    uint32_t h = 2166136261u;

    for (; *s; s++) {
        h = (h ^ (unsigned char)*s) * 16777619;
    }
    return h;
}

static struct entry *look_up(struct entry **table, struct entry *pool,
                             int *used, const char *s)
{
    struct entry **at = &table[hash_text(s) & 4095];

    for (; *at; at = &(*at)->next) {
        if (!strcmp((*at)->text, s)) {
            return *at;
        }
    }
    *at = &pool[(*used)++];
    strcpy((*at)->text, s);
    return *at;
}

static double hash(void)
{
    static struct entry pool[20000], *table[4096];
    int used = 0;
    double s = 0;

    memset(pool, 0, sizeof(pool));
    memset(table, 0, sizeof(table));
    for (int i = 0; i < 250000; i++) {
        char name[16];
        uint64_t v = next_random() % 9000;
        int n = 0;

        do {
            name[n++] = 'a' + v % 26;
            v /= 26;
        } while (v);
        name[n] = '\0';
        s += ++look_up(table, pool, &used, name)->count;
    }
    return s + used;
}

/* --- json: a recursive-descent parser -------------------------------------- */
struct parser {
    const char *p;
    long values, depth;
    double sum;
};

static int parse_value(struct parser *j);

static void skip(struct parser *j)
{
    while (*j->p == ' ' || *j->p == '\n') {
        j->p++;
    }
}

static int parse_string(struct parser *j)
{
    for (j->p++; *j->p != '"'; j->p++) {
        if (!*j->p) {
            return -1;
        }
        j->sum += *j->p & 1;
    }
    j->p++;
    return 0;
}

static int parse_list(struct parser *j, char end)
{
    j->p++;
    skip(j);
    while (*j->p != end) {
        if (end == '}') {
            if (parse_string(j)) {
                return -1;
            }
            skip(j);
            if (*j->p++ != ':') {
                return -1;
            }
        }
        if (parse_value(j)) {
            return -1;
        }
        skip(j);
        if (*j->p == ',') {
            j->p++;
            skip(j);
        } else if (*j->p != end) {
            return -1;
        }
    }
    j->p++;
    return 0;
}

static int parse_number(struct parser *j)
{
    double v = 0, scale = 1;
    int negative = *j->p == '-';

    j->p += negative;
    while (*j->p >= '0' && *j->p <= '9') {
        v = v * 10 + (*j->p++ - '0');
    }
    if (*j->p == '.') {
        for (j->p++; *j->p >= '0' && *j->p <= '9'; j->p++) {
            v += (scale /= 10) * (*j->p - '0');
        }
    }
    j->sum += negative ? -v : v;
    return 0;
}

static int parse_value(struct parser *j)
{
    skip(j);
    j->values++;
    switch (*j->p) {
    case '{':
        return parse_list(j, '}');
    case '[':
        return parse_list(j, ']');
    case '"':
        return parse_string(j);
    case 't':
        j->p += 4;
        return 0;
    default:
        return parse_number(j);
    }
}

static char *put_json(char *p, int depth)
{
    if (depth == 0) {
        return p + sprintf(p, "%d.%d", (int)(next_random() % 1000),
                           (int)(next_random() % 100));
    }
    p += sprintf(p, depth & 1 ? "[true, " : "{\"name\": ");
    for (int i = 0; i < 5; i++) {
        if (i) {
            p += sprintf(p, depth & 1 ? ", " : ", \"key%d\": ", i);
        }
        p = put_json(p, depth - 1);
    }
    *p++ = depth & 1 ? ']' : '}';
    *p = '\0';
    return p;
}

static double json(void)
{
    static char text[1 << 20];
    static int made;
    struct parser j = { 0 };

    if (!made) {
        put_json(text, 6);
        made = 1;
    }
    for (int i = 0; i < 12; i++) {
        j.p = text;
        if (parse_value(&j)) {
            return -1;
        }
    }
    return j.sum + j.values;
}

/* --- recursion ---------------------------------------------------------------- */
static __attribute__((noinline)) long fib(long n)
{
    return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static int queens(int n, int row, unsigned cols, unsigned d1, unsigned d2)
{
    unsigned free_cols = ~(cols | d1 | d2) & ((1u << n) - 1);
    int solutions = 0;

    if (row == n) {
        return 1;
    }
    while (free_cols) {
        unsigned bit = free_cols & -free_cols;

        free_cols -= bit;
        solutions += queens(n, row + 1, cols | bit, (d1 | bit) << 1,
                            (d2 | bit) >> 1);
    }
    return solutions;
}

static __attribute__((noinline)) void min_max(const int *v, int n, int *min,
                                              int *max)
{
    int min1, max1, min2, max2;

    if (n == 1) {
        *min = *max = v[0];
        return;
    }
    min_max(v, n / 2, &min1, &max1);
    min_max(v + n / 2, n - n / 2, &min2, &max2);
    *min = min1 < min2 ? min1 : min2;
    *max = max1 > max2 ? max1 : max2;
}

static double recursion(void)
{
    return fib(29 + (next_random() == 0));
}

static double tree(void)
{
    return queens(12 + (next_random() == 0), 0, 0, 0, 0);
}

static double escape(void)
{
    static int v[400000];
    int min, max;

    for (int i = 0; i < 400000; i++) {
        v[i] = next_random() >> 34;
    }
    min_max(v, 400000, &min, &max);
    return (double)min + max;
}

static long now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return t.tv_sec * 1000000000 + t.tv_nsec;
}

static const struct {
    const char *name;
    double (*run)(void);
} kernels[] = {
    { "cg", cg }, { "ft", ft }, { "is", is }, { "mg", mg }, { "ep", ep },
    { "sort", sort }, { "hash", hash }, { "json", json },
    { "recursion", recursion }, { "tree", tree }, { "escape", escape },
};

int main(int argc, char **argv)
{
    int repeat = argc > 2 ? atoi(argv[2]) : 1;

    for (unsigned i = 0; i < sizeof(kernels) / sizeof(*kernels); i++) {
        double sum = 0;

        if (argc < 2) {
            puts(kernels[i].name);
        } else if (!strcmp(argv[1], kernels[i].name)) {
            long best = 0;

            while (repeat-- > 0) {
                long start = now_ns();

                sum += kernels[i].run();
                start = now_ns() - start;
                best = !best || start < best ? start : best;
            }
            printf("%.17g %ld\n", sum, best);
            return 0;
        }
    }
    return argc > 1;
}
