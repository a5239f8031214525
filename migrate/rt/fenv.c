/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * <fenv.h> with x86_64's constants on every ISA.
 *
 * fenv_t is x86_64's, 32 bytes; only its last word is used, in MXCSR's layout:
 * exception flags in bits 0..5 and rounding in bits 13..14.  (long double is
 * double, so the x87 unit has no part in it.)
 */

#include <stdint.h>

#define FE_ALL_EXCEPT 63        /* as in bits/fenv.h */
#define ROUND_MASK 0xc00
#define MXCSR_ROUND_SHIFT 3
#define MXCSR_DEFAULT 0x1f80

struct fenv {
    uint32_t x87[7];
    uint32_t mxcsr;
};

#ifdef __x86_64__
static uint32_t get(void)
{
    uint32_t v;

    __asm__ volatile("stmxcsr %0" : "=m"(v));
    return v;
}

static void set(uint32_t v)
{
    __asm__ volatile("ldmxcsr %0" : : "m"(v));
}
#else
/* FPSR: IOC DZC OFC UFC IXC in 0..4, IDC in 7; MXCSR: IE DE ZE OE UE PE.
   FPCR rounding in 22..23: RN RP RM RZ; MXCSR: RN RM RP RZ. */
static const uint32_t flag_bits[6][2] = {
    { 0, 0 }, { 1, 7 }, { 2, 1 }, { 3, 2 }, { 4, 3 }, { 5, 4 },
};

static uint32_t get(void)
{
    uint64_t sr, cr;
    uint32_t v = MXCSR_DEFAULT, r;

    __asm__ volatile("mrs %0, fpsr" : "=r"(sr));
    __asm__ volatile("mrs %0, fpcr" : "=r"(cr));
    for (int i = 0; i < 6; i++) {
        v |= (sr >> flag_bits[i][1] & 1) << flag_bits[i][0];
    }
    r = cr >> 22 & 3;
    return v | ((r & 1) << 1 | r >> 1) << 13;
}

static void set(uint32_t v)
{
    uint64_t sr, cr;
    uint32_t r = v >> 13 & 3;

    __asm__ volatile("mrs %0, fpsr" : "=r"(sr));
    __asm__ volatile("mrs %0, fpcr" : "=r"(cr));
    sr &= ~0x9full;
    for (int i = 0; i < 6; i++) {
        sr |= (uint64_t)(v >> flag_bits[i][0] & 1) << flag_bits[i][1];
    }
    cr = (cr & ~(3ull << 22)) | (uint64_t)((r & 1) << 1 | r >> 1) << 22;
    __asm__ volatile("msr fpsr, %0" : : "r"(sr));
    __asm__ volatile("msr fpcr, %0" : : "r"(cr));
}
#endif

uint32_t chimera_get_fenv(void)
{
    return get();
}

void chimera_set_fenv(uint32_t v)
{
    set(v);
}

int feclearexcept(int mask)
{
    set(get() & ~(uint32_t)(mask & FE_ALL_EXCEPT));
    return 0;
}

int feraiseexcept(int mask)
{
    set(get() | (mask & FE_ALL_EXCEPT));
    return 0;
}

int fetestexcept(int mask)
{
    return get() & mask & FE_ALL_EXCEPT;
}

int fegetround(void)
{
    return get() >> MXCSR_ROUND_SHIFT & ROUND_MASK;
}

int __fesetround(int round)
{
    set((get() & ~(ROUND_MASK << MXCSR_ROUND_SHIFT)) |
        (uint32_t)(round & ROUND_MASK) << MXCSR_ROUND_SHIFT);
    return 0;
}

int fegetenv(struct fenv *env)
{
    env->mxcsr = get();
    return 0;
}

int fesetenv(const struct fenv *env)
{
    set(env == (const struct fenv *)-1 ? MXCSR_DEFAULT : env->mxcsr);
    return 0;
}
