/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <stdio.h>
#include <math.h>
#include <chimera.h>
static __attribute__((noinline)) double many(int n)
{
    double a = 1, b = 2, c = 3, d = 4, e = 5, f = 6, g = 7, h = 8, i = 9,
           j = 10, k = 11, l = 12, m = 13, o = 14, p = 15, q = 16, r = 17,
           s = 18, t = 19, u = 20;
    float w = 0.5f;
    unsigned long x = 88172645463325252ul;
    int neg = -1;
    for (int z = 0; z < n; z++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        double y = (double)(x >> 40) / (1 << 24);
        a += b * y;
        b -= c * y;
        c += d * y;
        d -= e * y;
        e += f * y;
        f -= g * y;
        g += h * y;
        h -= i * y;
        chimera_point();
        i += j * y;
        j -= k * y;
        k += l * y;
        l -= m * y;
        m += o * y;
        o -= p * y;
        p += q * y;
        q -= r * y;
        r += s * y;
        s -= t * y;
        t += u * y;
        u -= a * y * 0.001;
        w = w * 0.99f + (float)y;
        neg -= z & 3;
        a = fmod(a, 1000);
        b = fmod(b, 1000);
    }
    return a + b + c + d + e + f + g + h + i + j + k + l + m + o + p + q + r +
           s + t + u + w + neg;
}
static double A[24][24], B[24][24], Cc[24][24];
static __attribute__((noinline)) void row(int i)
{
    for (int j = 0; j < 24; j++) {
        double s = 0;
        for (int k = 0; k < 24; k++) {
            s += A[i][k] * B[k][j];
        }
        Cc[i][j] = s;
        if (j % 5 == 0) {
            chimera_point();
        }
    }
}
static __attribute__((noinline)) unsigned sw(int n)
{
    unsigned h = 1;
    for (int i = 0; i < n; i++) {
        switch (h % 9) {
        case 0:
            h = h * 3 + 1;
            chimera_point();
            break;
        case 1:
            h ^= i;
            break;
        case 2:
            h += 7;
            chimera_point();
        case 3:
            h = h * 5;
            break;
        case 4:
            h >>= 1;
            chimera_point();
            break;
        case 5:
            h |= i;
            continue;
        case 6:
            h -= i;
            break;
        case 7:
            h = ~h;
            chimera_point();
            break;
        default:
            h += i * i;
        }
        if (i & 1) {
            chimera_point();
        }
    }
    return h;
}
int main(void)
{
    printf("many %.17g\n", many(300));
    for (int i = 0; i < 24; i++) {
        for (int j = 0; j < 24; j++) {
            A[i][j] = i + j * 0.5;
            B[i][j] = i - j * 0.25;
        }
    }
    for (int i = 0; i < 24; i++) {
        row(i);
    }
    double s = 0;
    for (int i = 0; i < 24; i++) {
        for (int j = 0; j < 24; j++) {
            s += Cc[i][j] * (i + 2 * j);
        }
    }
    printf("mat %.17g\n", s);
    printf("sw %u\n", sw(2000));
    return 0;
}
