/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The contract between the compiler pass and the run-time library.
 *
 * A captured frame is one record.  Records lie one after the other in the
 * thread's frame buffer, innermost first; each names the next inner one.
 * The pass writes `fn`, `site`, `flags` and the live values; the run-time
 * library writes the rest.  Both ISAs use the same bytes: little endian,
 * natural alignment, x86_64 type layout.
 *
 * This header is read by C, C++ and assembly.
 */
#ifndef CHIMERA_RT_ABI_H
#define CHIMERA_RT_ABI_H

/* Index of an ISA wherever something is kept per ISA. */
#define CHIMERA_ISA_X86_64  0
#define CHIMERA_ISA_AARCH64 1
#define CHIMERA_ISA_COUNT   2

/* Where an image's private part and what all images have in common begin. */
#define IMAGE_PRIVATE_BASE 0x200000
#define IMAGE_COMMON_BASE  0x4000000

/* Byte offsets in a record. */
#define REC_FN      0   /* u32: index in __chimera_table */
#define REC_SITE    4   /* u32: number of the site in that function */
#define REC_FLAGS   8   /* u32: REC_F_* */
#define REC_INNER   16  /* u64: the record of the frame that this one called */
#define REC_LOW     24  /* u64[2]: lowest native stack address kept, per ISA */
#define REC_VALUES  48  /* the live values, 16-byte aligned */

/* The frame has objects in native stack memory; keep it while away. */
#define REC_F_FRAME   1
/* The pad wrote REC_LOW itself (a resume clone passing on what it was given) */
#define REC_F_CARRIED 2

/* A record with its values is never longer; the pass leaves a function that
 * would need more uninstrumented. */
#define REC_MAX_BYTES 16384

/* "No native stack memory of that ISA is needed." */
#define REC_LOW_NONE (~0ull)

/* Row of __chimera_table. */
#define TABLE_RESUME 0   /* T resume(rec): re-enter the function at the site */
#define TABLE_ENTRY  8   /* void entry(rec, result): resume, store the result */
#define TABLE_RETURN 16  /* T return(result): load the result as the function
                            would have returned it */
#define TABLE_ROW    24

#endif
