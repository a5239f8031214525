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
#define REC_LOW     24  /* u64[2]: lowest stack address of the frame, per ISA */
#define REC_PLACE   40  /* u64[2]: where its clone was called, per ISA; or 0 */
#define REC_AT      56  /* u64: where the clone is to be called, at most */
#define REC_VALUES  64  /* the live values, 16-byte aligned */

/* Words from REC_LOW on that a resume clone hands on from record to record. */
#define REC_CARRIED_WORDS (2 * CHIMERA_ISA_COUNT)

/* The frame is a function's own and has objects; keep it while away. */
#define REC_F_FRAME 1
/* The frame is a resume clone's: it has no objects, but its place is kept.  The
 * pad wrote what it was given to REC_LOW and REC_PLACE. */
#define REC_F_CLONE 2

/* A record with its values is never longer; the pass leaves a function that
 * would need more uninstrumented. */
#define REC_MAX_BYTES 16384

/* "Nothing of that ISA's stack is kept." */
#define REC_LOW_NONE (~0ull)

/* Row of __chimera_table. */
#define TABLE_RESUME 0   /* T resume(rec): re-enter the function at the site */
#define TABLE_ENTRY  8   /* void entry(rec, result): resume, store the result */
#define TABLE_RETURN 16  /* T return(result): load the result as the function
                            would have returned it */
#define TABLE_ROW    24

#endif
