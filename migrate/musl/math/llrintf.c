/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One instruction on every ISA; the compiler knows it. */
#include <math.h>

long long llrintf(float x)
{
    return __builtin_llrintf(x);
}
