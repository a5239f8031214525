/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <stdio.h>
#include <chimera.h>
typedef struct {
    int a;
} S1;
typedef struct {
    double x, y;
} S2;
typedef struct {
    long a;
    double b;
} S3;
typedef struct {
    long v[5];
    char c;
} S4;
typedef struct {
    float x, y, z;
} S5;
typedef struct {
    char c[3];
    short s;
} S6;
static __attribute__((noinline)) S1 f1(S1 s, int d)
{
    chimera_point();
    if (d) {
        s = f1(s, d - 1);
    }
    s.a = s.a * 3 + d;
    return s;
}
static __attribute__((noinline)) S2 f2(S2 s, int d)
{
    S2 o = s;
    chimera_point();
    if (d) {
        S2 t = {s.y + d, s.x};
        s = f2(t, d - 1);
    }
    s.x += o.y;
    s.y -= o.x / 7;
    return s;
}
static __attribute__((noinline)) S3 f3(S3 s, int d)
{
    if (d) {
        s = f3(s, d - 1);
    }
    chimera_point();
    s.a += d;
    s.b *= 1.01;
    return s;
}
static __attribute__((noinline)) S4 f4(S4 s, int d)
{
    chimera_point();
    s.v[d % 5] += d;
    s.c++;
    if (d) {
        S4 r = f4(s, d - 1);
        chimera_point();
        r.v[0] ^= s.v[1];
        s = r;
    }
    return s;
}
static __attribute__((noinline)) S5 f5(S5 s, int d)
{
    chimera_point();
    if (d) {
        s = f5(s, d - 1);
    }
    s.x += s.y;
    s.y += s.z;
    s.z *= 0.99f;
    return s;
}
static __attribute__((noinline)) S6 f6(S6 s, int d)
{
    chimera_point();
    if (d) {
        s = f6(s, d - 1);
    }
    s.c[d % 3] += d;
    s.s -= d;
    return s;
}
static __attribute__((noinline)) __int128 g1(__int128 x, int d)
{
    chimera_point();
    if (d) {
        x = g1(x * 3 + d, d - 1);
    }
    return x - d;
}
static __attribute__((noinline)) _Bool g2(_Bool x, unsigned char c,
                                          signed char sc, int d)
{
    chimera_point();
    if (d) {
        x = g2(!x, c + 200, sc - 100, d - 1);
    }
    chimera_point();
    return x ^ (c > sc);
}
typedef float v4 __attribute__((vector_size(16)));
typedef double v4d __attribute__((vector_size(32)));
static __attribute__((noinline)) v4 h1(v4 a, v4d *b, int d)
{
    chimera_point();
    v4 t = a * 1.5f;
    v4d q = *b + 1.0;
    if (d) {
        v4 r = h1(t, &q, d - 1);
        a = a + r;
        *b = q * 0.5;
    }
    return a + t;
}
int main(void)
{
    S1 a = {1};
    a = f1(a, 17);
    S2 b = {1, 2};
    b = f2(b, 20);
    S3 c = {3, 4};
    c = f3(c, 21);
    S4 d = {{1, 2, 3, 4, 5}, 'a'};
    d = f4(d, 30);
    S5 e = {1, 2, 3};
    e = f5(e, 12);
    S6 f = {{1, 2, 3}, 4};
    f = f6(f, 19);
    printf("%d %.17g %.17g %ld %.17g\n", a.a, b.x, b.y, c.a, c.b);
    printf("%ld %ld %ld %ld %ld %d\n", d.v[0], d.v[1], d.v[2], d.v[3], d.v[4],
           d.c);
    printf("%.9g %.9g %.9g %d %d %d %d\n", e.x, e.y, e.z, f.c[0], f.c[1],
           f.c[2], f.s);
    __int128 g = g1((__int128)7 << 60, 40);
    printf("%lx %lx %d\n", (long)(g >> 64), (long)g, g2(1, 3, -5, 9));
    v4d q = {1, 2, 3, 4};
    v4 r = h1((v4){1, 2, 3, 4}, &q, 9);
    printf("%.9g %.9g %.9g %.9g %.17g %.17g\n", r[0], r[1], r[2], r[3], q[0],
           q[3]);
    return 0;
}
