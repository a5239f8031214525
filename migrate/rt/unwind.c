/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unwinding one frame of our own compiled code.
 *
 * The rules come from .eh_frame (found through .eh_frame_hdr's table) and the
 * landing pad from the LSDA, each parsed once per call site and then found by
 * its address in a table.  Compiled code unwinds to a register plus an offset
 * with registers saved in the frame; anything else is reported as "cannot".
 *
 * Only this process's code is looked up, so the table is private to it.
 *
 * Concurrency: a slot is claimed with `lock`, filled, and published by storing
 * `pc` with release; readers load it with acquire and see the filled slot.  A
 * slot is never changed after that.
 */

#include "thread.h"

#if defined(__x86_64__)
#define REG_SP 7
#define REG_RA 16
static int slot_of(unsigned reg)
{
    static const signed char slots[17] = {
        -1, -1, -1, 0, -1, -1, 1, -1, -1, -1, -1, -1, 2, 3, 4, 5, -1
    };

    return reg < 17 ? slots[reg] : -1;
}
#else
#define REG_SP 31
#define REG_RA 30
static int slot_of(unsigned reg)
{
    if (reg >= 19 && reg <= 30) {
        return reg - 19;
    }
    return reg >= 72 && reg <= 79 ? (int)reg - 72 + 12 : -1;
}
#endif

#define SAME INT32_MIN

struct row {
    uint64_t pc;                /* 0: free */
    uint64_t pad;
    int32_t cfa_offset;
    int32_t ra_offset;          /* SAME: in the link register */
    int16_t cfa_slot;           /* -1: the stack pointer */
    int16_t usable;
    int32_t offset[ISA_REGS];   /* from the CFA, or SAME */
};

#define NR_ROWS 8192
#define PROBES 16
static struct row rows[NR_ROWS];
static int lock;

extern const uint8_t __chimera_eh_frame_hdr[];
extern const uint8_t chimera_shifted[];     /* in __chimera_resume() */

struct fde {
    uint64_t start, len;
    const uint8_t *ops, *end;           /* of the FDE */
    const uint8_t *cie_ops, *cie_end;
    uint64_t lsda;
    uint64_t code_align;
    int64_t data_align;
};

static uint64_t get_uleb(const uint8_t **p)
{
    uint64_t v = 0;
    unsigned shift = 0;
    uint8_t b;

    do {
        b = *(*p)++;
        v |= (uint64_t)(b & 127) << shift;
        shift += 7;
    } while (b & 128);
    return v;
}

static int64_t get_sleb(const uint8_t **p)
{
    uint64_t v = 0;
    unsigned shift = 0;
    uint8_t b;

    do {
        b = *(*p)++;
        v |= (uint64_t)(b & 127) << shift;
        shift += 7;
    } while (b & 128);
    if (shift < 64 && (b & 64)) {
        v |= ~0ull << shift;
    }
    return (int64_t)v;
}

static uint64_t get_fixed(const uint8_t **p, unsigned len)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < len; i++) {
        v |= (uint64_t)*(*p)++ << 8 * i;
    }
    return v;
}

#define PE_OMIT 0xff

/* A pointer in DW_EH_PE encoding; @data is the base of datarel ones. */
static uint64_t get_pointer(const uint8_t **p, uint8_t enc, uint64_t data)
{
    uint64_t at = (uint64_t)*p, v;

    switch (enc & 15) {
    case 1:
        v = get_uleb(p);
        break;
    case 2:
        v = get_fixed(p, 2);
        break;
    case 3:
        v = get_fixed(p, 4);
        break;
    case 9:
        v = (uint64_t)get_sleb(p);
        break;
    case 10:
        v = (uint64_t)(int16_t)get_fixed(p, 2);
        break;
    case 11:
        v = (uint64_t)(int32_t)get_fixed(p, 4);
        break;
    default:
        v = get_fixed(p, 8);
        break;
    }
    if (v && (enc & 0x70) == 0x10) {
        v += at;
    } else if (v && (enc & 0x70) == 0x30) {
        v += data;
    }
    return v;
}

static bool parse_cie(const uint8_t *p, struct fde *f, uint8_t *ret_fde_enc,
                      uint8_t *ret_lsda_enc)
{
    uint64_t len = get_fixed(&p, 4);
    const uint8_t *end = p + len;
    const char *aug;

    p += 4;
    if (*p++ != 1) {
        return false;
    }
    aug = (const char *)p;
    while (*p++) {
    }
    f->code_align = get_uleb(&p);
    f->data_align = get_sleb(&p);
    get_uleb(&p);               /* the return address register */
    *ret_fde_enc = 0;
    *ret_lsda_enc = PE_OMIT;
    if (*aug == 'z') {
        uint64_t aug_len = get_uleb(&p);
        const uint8_t *ops = p + aug_len;

        while (*++aug) {
            if (*aug == 'R') {
                *ret_fde_enc = *p++;
            } else if (*aug == 'L') {
                *ret_lsda_enc = *p++;
            } else if (*aug == 'P') {
                uint8_t enc = *p++;

                get_pointer(&p, enc, 0);
            } else if (*aug != 'S' && *aug != 'B') {
                return false;
            }
        }
        p = ops;
    } else if (*aug) {
        return false;
    }
    f->cie_ops = p;
    f->cie_end = end;
    return true;
}

static bool find_fde(uint64_t pc, struct fde *f)
{
    const uint8_t *hdr = __chimera_eh_frame_hdr, *p = hdr + 4;
    const int32_t *table;
    uint64_t n, base = (uint64_t)hdr, lo = 0, hi;
    uint8_t fde_enc, lsda_enc;

    /* Version 1; pcrel sdata4, udata4, datarel sdata4: what linkers write. */
    if (hdr[0] != 1 || hdr[2] != 0x03 || hdr[3] != 0x3b) {
        return false;
    }
    get_pointer(&p, hdr[1], base);
    n = get_fixed(&p, 4);
    table = (const int32_t *)p;
    for (hi = n; lo < hi;) {
        uint64_t mid = lo + (hi - lo) / 2;

        if (base + table[2 * mid] <= pc) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    if (!lo) {
        return false;
    }
    p = (const uint8_t *)(base + table[2 * (lo - 1) + 1]);

    uint64_t len = get_fixed(&p, 4);
    const uint8_t *id = p;

    f->end = p + len;
    p += 4;
    if (!parse_cie(id - *(const uint32_t *)id, f, &fde_enc, &lsda_enc)) {
        return false;
    }
    f->start = get_pointer(&p, fde_enc, base);
    f->len = get_pointer(&p, fde_enc & 15, base);
    f->lsda = 0;
    if (f->cie_ops) {
        uint64_t aug_len = get_uleb(&p);
        const uint8_t *ops = p + aug_len;

        if (lsda_enc != PE_OMIT && aug_len) {
            f->lsda = get_pointer(&p, lsda_enc, base);
        }
        f->ops = ops;
    }
    return pc >= f->start && pc < f->start + f->len;
}

struct rules {
    int64_t cfa_offset;
    unsigned cfa_reg;
    int32_t ra;
    int32_t offset[ISA_REGS];
};

static void set_rule(struct rules *r, unsigned reg, int32_t offset)
{
    int slot = slot_of(reg);

    if (reg == REG_RA) {
        r->ra = offset;
    }
    if (slot >= 0) {
        r->offset[slot] = offset;
    }
}

/* Runs CFA operations up to @pc.  False: something we do not do. */
static bool run_cfa(const struct fde *f, const uint8_t *p, const uint8_t *end,
                    uint64_t pc, struct rules *r, const struct rules *initial)
{
    struct rules saved[4];
    unsigned depth = 0;
    uint64_t at = f->start;

    while (p < end) {
        uint8_t op = *p++;
        unsigned reg = op & 63;

        switch (op & 0xc0) {
        case 0x40:
            at += reg * f->code_align;
            if (at > pc) {
                return true;
            }
            continue;
        case 0x80:
            set_rule(r, reg, get_uleb(&p) * f->data_align);
            continue;
        case 0xc0:
            set_rule(r, reg, slot_of(reg) >= 0 ? initial->offset[slot_of(reg)]
                                               : SAME);
            continue;
        }
        switch (op) {
        case 0x00:              /* nop */
        case 0x2d:              /* AArch64 negate_ra_state: no pauth here */
            break;
        case 0x02:
        case 0x03:
        case 0x04:              /* advance_loc1, 2, 4 */
            at += get_fixed(&p, 1u << (op - 2)) * f->code_align;
            if (at > pc) {
                return true;
            }
            break;
        case 0x05:              /* offset_extended */
            reg = get_uleb(&p);
            set_rule(r, reg, get_uleb(&p) * f->data_align);
            break;
        case 0x06:              /* restore_extended */
            reg = get_uleb(&p);
            set_rule(r, reg, slot_of(reg) >= 0 ? initial->offset[slot_of(reg)]
                                               : SAME);
            break;
        case 0x08:              /* same_value */
            set_rule(r, get_uleb(&p), SAME);
            break;
        case 0x0a:
            if (depth == 4) {
                return false;
            }
            saved[depth++] = *r;
            break;
        case 0x0b:
            if (depth == 0) {
                return false;
            }
            *r = saved[--depth];
            break;
        case 0x0c:              /* def_cfa */
            r->cfa_reg = get_uleb(&p);
            r->cfa_offset = get_uleb(&p);
            break;
        case 0x0d:
            r->cfa_reg = get_uleb(&p);
            break;
        case 0x0e:
            r->cfa_offset = get_uleb(&p);
            break;
        case 0x11:              /* offset_extended_sf */
            reg = get_uleb(&p);
            set_rule(r, reg, get_sleb(&p) * f->data_align);
            break;
        case 0x12:              /* def_cfa_sf */
            r->cfa_reg = get_uleb(&p);
            r->cfa_offset = get_sleb(&p) * f->data_align;
            break;
        case 0x13:
            r->cfa_offset = get_sleb(&p) * f->data_align;
            break;
        case 0x2e:              /* GNU_args_size */
            if (get_uleb(&p)) {
                return false;   /* a pad would want another stack pointer */
            }
            break;
        default:
            return false;
        }
    }
    return true;
}

static uint64_t find_pad(uint64_t lsda, uint64_t start, uint64_t pc)
{
    const uint8_t *p = (const uint8_t *)lsda, *end;
    uint64_t base = start, at, len, pad, done = 0;
    uint8_t enc;

    if (!lsda) {
        return 0;
    }
    enc = *p++;
    if (enc != PE_OMIT) {
        base = get_pointer(&p, enc, 0);
    }
    enc = *p++;
    if (enc != PE_OMIT) {
        get_uleb(&p);
    }
    enc = *p++;
    len = get_uleb(&p);
    for (end = p + len; p < end;) {
        at = get_pointer(&p, enc & 15, 0);
        len = get_pointer(&p, enc & 15, 0);
        pad = get_pointer(&p, enc & 15, 0);
        get_uleb(&p);
        /*
         * Entries ascend.  LLVM 19 gives the table of a function's first part
         * the length of all its parts' tables; the next one begins with a 0.
         */
        if (at < done || pc < start + at) {
            break;
        }
        done = at + len;
        if (pc < start + done) {
            return pad ? base + pad : 0;
        }
    }
    return 0;
}

/* @pc is inside the call instruction. */
static void parse(uint64_t pc, struct row *row)
{
    struct fde f;
    struct rules r = { .ra = SAME }, initial;

    row->pad = 0;
    row->usable = 0;
    if (!find_fde(pc, &f)) {
        return;
    }
    for (int i = 0; i < ISA_REGS; i++) {
        r.offset[i] = SAME;
    }
    initial = r;
    if (!run_cfa(&f, f.cie_ops, f.cie_end, ~0ull, &r, &initial)) {
        return;
    }
    initial = r;
    if (!run_cfa(&f, f.ops, f.end, pc, &r, &initial)) {
        return;
    }
    row->cfa_slot = r.cfa_reg == REG_SP ? -1 : slot_of(r.cfa_reg);
    if (r.cfa_reg != REG_SP && row->cfa_slot < 0) {
        return;
    }
    row->cfa_offset = r.cfa_offset;
    row->ra_offset = r.ra;
    for (int i = 0; i < ISA_REGS; i++) {
        row->offset[i] = r.offset[i];
    }
    row->pad = find_pad(f.lsda, f.start, pc);
    row->usable = 1;
}

/* The row for a return address; @scratch when the table is full there. */
static const struct row *lookup(uint64_t pc, struct row *scratch)
{
    uint64_t h = (pc * 0x9e3779b97f4a7c15ull) >> 32;

    for (unsigned i = 0; i < PROBES; i++) {
        struct row *row = &rows[(h + i) % NR_ROWS];
        uint64_t have = __atomic_load_n(&row->pc, __ATOMIC_ACQUIRE);

        if (have == pc) {
            return row;
        }
        if (!have) {
            break;
        }
    }
    scratch->pc = 0;
    parse(pc - 1, scratch);

    /* Held, perhaps by what this handler has interrupted: somebody else adds. */
    if (__atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE)) {
        return scratch;
    }
    for (unsigned i = 0; i < PROBES; i++) {
        struct row *row = &rows[(h + i) % NR_ROWS];

        if (!row->pc) {
            *row = *scratch;
            __atomic_store_n(&row->pc, pc, __ATOMIC_RELEASE);
            break;
        }
    }
    __atomic_store_n(&lock, 0, __ATOMIC_RELEASE);
    return scratch;
}

uint64_t chimera_landing_pad(uint64_t pc)
{
    struct row scratch;

    return lookup(pc, &scratch)->pad;
}

/* From __chimera_resume(), if it is there and has moved the stack pointer, to
   its caller. */
void chimera_unwind_shift(struct context *ctx)
{
    if (ctx->pc == (uint64_t)chimera_shifted) {
#ifdef __x86_64__
        const uint64_t *saved = (uint64_t *)ctx->reg[1];    /* rbp */

        ctx->reg[1] = saved[0];
        ctx->pc = *(uint64_t *)saved[1];
        ctx->sp = saved[1] + 8;
#else
        const uint64_t *saved = (uint64_t *)ctx->reg[29 - 19];

        ctx->reg[29 - 19] = saved[0];
        ctx->pc = saved[2];
        ctx->sp = saved[1];
#endif
    }
}

/* From a frame to its caller.  False, and @ctx as it was, if not possible. */
bool chimera_unwind(struct context *ctx)
{
    struct row scratch;
    const struct row *row = lookup(ctx->pc, &scratch);
    uint64_t cfa, pc;

    if (!row->usable) {
        return false;
    }
    cfa = (row->cfa_slot < 0 ? ctx->sp : ctx->reg[row->cfa_slot]) +
          row->cfa_offset;
#ifdef __x86_64__
    pc = *(uint64_t *)(cfa + row->ra_offset);
#else
    pc = row->ra_offset == SAME ? ctx->reg[REG_RA - 19]
                                : *(uint64_t *)(cfa + row->ra_offset);
#endif
    for (int i = 0; i < ISA_REGS; i++) {
        if (row->offset[i] != SAME) {
            ctx->reg[i] = *(uint64_t *)(cfa + row->offset[i]);
        }
    }
    ctx->pc = pc;
    ctx->sp = cfa;
    return true;
}
