/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Variable arguments: our own functions, structs in them, va_list handed on,
   and moves in the middle of reading them. */
#include <chimera.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct pair { double a, b; };
struct big { long v[5]; };
struct small { short x; char c; };

static __attribute__((noinline)) double sum(const char *f, ...)
{
    va_list ap;
    double r = 0;

    va_start(ap, f);
    for (; *f; f++) {
        chimera_point();
        switch (*f) {
        case 'i': r += va_arg(ap, int); break;
        case 'l': r += va_arg(ap, long); break;
        case 'd': r += va_arg(ap, double); break;
        case 'p': r += *va_arg(ap, int *); break;
        case '1': {
            struct small s = va_arg(ap, struct small);

            r += s.x - s.c;
            break;
        }
        case '2': {
            struct pair s = va_arg(ap, struct pair);

            r += s.a * s.b;
            break;
        }
        case '5': {
            struct big s = va_arg(ap, struct big);

            r += s.v[0] + s.v[4];
            break;
        }
        case 'x': {
            __int128 x = va_arg(ap, __int128);

            r += (double)(long)(x >> 64) + (long)x;
            break;
        }
        }
    }
    va_end(ap);
    return r;
}

static __attribute__((noinline)) int vtext(char *b, size_t n, const char *f,
                                           va_list ap)
{
    va_list copy;
    int r;

    va_copy(copy, ap);
    chimera_point();
    r = vsnprintf(NULL, 0, f, ap);
    chimera_point();
    r += vsnprintf(b, n, f, copy);
    va_end(copy);
    return r;
}

static __attribute__((noinline)) int text(char *b, size_t n, const char *f, ...)
{
    va_list ap;
    int r;

    va_start(ap, f);
    r = vtext(b, n, f, ap);
    va_end(ap);
    return r;
}

/* Declared without a prototype, as old programs do. */
static int old_style();

static __attribute__((noinline)) int call_old(void)
{
    return old_style(3, "four", 5.0);
}

static int old_style(a, b, c)
    int a;
    const char *b;
    double c;
{
    chimera_point();
    return a + (int)strlen(b) + (int)c;
}

static double (*volatile indirect)(const char *, ...) = sum;

int main(void)
{
    int q = 9, x;
    char b[200];
    double z;
    time_t t = 86400 * 365;

    printf("%.17g\n", sum("ild25id1pdx", 1, 2L, 3.5, (struct pair){ 2, 3 },
                          (struct big){ { 1, 2, 3, 4, 5 } }, 7, 1e10,
                          (struct small){ 300, 4 }, &q, -0.5,
                          (__int128)5 << 64 | 7));
    printf("%.17g %d\n", indirect("dd", 1.0, 2.0), call_old());
    printf("%d %s\n", text(b, sizeof(b), "<%5d|%-8s|%08lx|%c|%.3e|%g|%Lf>", 42,
                           "hey", 0xdeadbeefl, 'Z', 12345.678, 0.1,
                           (long double)2.25), b);
    printf("%f %f %f %a\n", sin(1.0), pow(2.5, 3.5), strtod("3.14159e2", NULL),
           exp(1));
    printf("%d", sscanf("12 abc 34.5", "%d %*s %lf", &x, &z));
    printf(" %d %g %s\n", x, z, getenv("NO_SUCH_NAME") ? "" : "unset");
    strftime(b, sizeof(b), "%Y-%m-%d %a", gmtime(&t));
    puts(b);
    return 0;
}
