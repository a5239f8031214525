/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What cannot be said in C, for aarch64. */
#define __ASSEMBLER__ 1
#include "thread.h"

#define USP (T_USP + 8 * CHIMERA_ISA_AARCH64)

        .macro  FUNCTION name
        .globl  \name
        .type   \name, %function
        .balign 16
\name:
        .cfi_startproc
        .endm
        .macro  END name
        .cfi_endproc
        .size   \name, . - \name
        .endm

        /* \reg = the thread, or 0 */
        .macro  SELF reg
        mrs     \reg, tpidr_el0
        add     \reg, \reg, #:tprel_hi12:__chimera_self
        ldr     \reg, [\reg, #:tprel_lo12_nc:__chimera_self]
        .endm

        /* Callee-saved registers to or from [\at]; clobbers nothing else. */
        .macro  REGS op, at
        \op     x19, x20, [\at, #0]
        \op     x21, x22, [\at, #16]
        \op     x23, x24, [\at, #32]
        \op     x25, x26, [\at, #48]
        \op     x27, x28, [\at, #64]
        \op     x29, x30, [\at, #80]
        \op     d8, d9, [\at, #96]
        \op     d10, d11, [\at, #112]
        \op     d12, d13, [\at, #128]
        \op     d14, d15, [\at, #144]
        .endm

        .text

FUNCTION _start
        .cfi_undefined x30
        mov     x29, #0
        mov     x30, #0
        mov     x0, sp
        and     x1, x0, #-16
        mov     sp, x1
        bl      chimera_start
        brk     #1
END _start

/*
 * preserve_all: everything but x0 and x30.  A poll that moves returns to its pad,
 * with the record in x0 and all else as it was.
 */
FUNCTION __chimera_poll_slow
        stp     x29, x30, [sp, #-16]!
        .cfi_def_cfa_offset 16
        .cfi_offset x29, -16
        .cfi_offset x30, -8
        mov     x29, sp
        .cfi_def_cfa_register x29
        stp     x1, x2, [sp, #-16]!
        stp     x3, x4, [sp, #-16]!
        stp     x5, x6, [sp, #-16]!
        stp     x7, x8, [sp, #-16]!
        stp     x9, x10, [sp, #-16]!
        stp     x11, x12, [sp, #-16]!
        stp     x13, x14, [sp, #-16]!
        stp     x15, x16, [sp, #-16]!
        stp     x17, x18, [sp, #-16]!
        sub     sp, sp, #512
        .irp n, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
        str     q\n, [sp, #16 * \n]
        .endr
        .irp n, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
        str     q\n, [sp, #16 * \n]
        .endr
        ldr     x0, [x29, #8]
        bl      chimera_poll_slow
        cbz     x0, 1f
        SELF    x9
        add     x10, x9, #CTX_REGS
        REGS    stp, x10
        ldr     x11, [x29]
        str     x11, [x10, #80]
        add     x11, x29, #16
        str     x11, [x9, #CTX_SP]
        ldr     x11, [x9, #CTX_PAD]
        str     x11, [x29, #8]
1:
        .irp n, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
        ldr     q\n, [sp, #16 * \n]
        .endr
        .irp n, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
        ldr     q\n, [sp, #16 * \n]
        .endr
        add     sp, sp, #512
        ldp     x17, x18, [sp], #16
        ldp     x15, x16, [sp], #16
        ldp     x13, x14, [sp], #16
        ldp     x11, x12, [sp], #16
        ldp     x9, x10, [sp], #16
        ldp     x7, x8, [sp], #16
        ldp     x5, x6, [sp], #16
        ldp     x3, x4, [sp], #16
        ldp     x1, x2, [sp], #16
        .cfi_def_cfa sp, 16
        ldp     x29, x30, [sp], #16
        .cfi_def_cfa_offset 0
        ret
END __chimera_poll_slow

/* __chimera_next(end): a pad is done; nothing below its frame is written */
FUNCTION __chimera_next
        .cfi_undefined x30
        SELF    x9
        ldr     x10, [x9, #USP]
        and     x10, x10, #-16
        mov     sp, x10
        mov     x29, #0
        mov     x30, #0
        mov     x1, x0
        mov     x0, x9
        bl      chimera_captured
        brk     #1
END __chimera_next

/* chimera_enter_pad(ctx, pad, rec): the record goes where pads expect the
   exception object */
FUNCTION chimera_enter_pad
        add     x9, x0, #CTX_REGS
        REGS    ldp, x9
        ldr     x9, [x0, #CTX_SP]
        mov     sp, x9
        mov     x0, x2
        mov     x9, x1
        mov     x1, #0
        br      x9
END chimera_enter_pad

/* chimera_return(ctx, return_value, result): as if the frame inside ctx had
   returned *result */
FUNCTION chimera_return
        add     x9, x0, #CTX_REGS
        REGS    ldp, x9
        ldr     x9, [x0, #CTX_SP]
        mov     sp, x9
        ldr     x9, [x0, #CTX_PC]
        stp     x9, x2, [sp, #-16]!
        mov     x0, x2
        blr     x1
        /* Only now: a handler that moves has a result, too. */
        ldp     x9, x10, [sp], #16
        str     wzr, [x10, #(T_BUSY - T_RESULT)]
        mov     x30, x9
        br      x9
END chimera_return

/* chimera_call_on(entry, rec, result, sp, &save_sp, &usp) */
FUNCTION chimera_call_on
        sub     sp, sp, #160
        .cfi_adjust_cfa_offset 160
        REGS    stp, sp
        .cfi_rel_offset x19, 0
        .cfi_rel_offset x20, 8
        .cfi_rel_offset x21, 16
        .cfi_rel_offset x22, 24
        .cfi_rel_offset x23, 32
        .cfi_rel_offset x24, 40
        .cfi_rel_offset x25, 48
        .cfi_rel_offset x26, 56
        .cfi_rel_offset x27, 64
        .cfi_rel_offset x28, 72
        .cfi_rel_offset x29, 80
        .cfi_rel_offset x30, 88
        mov     x9, sp
        str     x9, [x4]
        str     x9, [x5]
        mov     x19, x9
        /* Below is another stack: a debugger's backtrace ends here. */
        .cfi_remember_state
        .cfi_undefined x30
        mov     sp, x3
        mov     x9, x0
        mov     x0, x1
        mov     x1, x2
        blr     x9
        mov     sp, x19
        .cfi_restore_state
        mov     w0, #1
.Lleave:
        REGS    ldp, sp
        add     sp, sp, #160
        ret
END chimera_call_on

/*
 * T __chimera_resume(rec): calls the clone of the record, with the stack pointer
 * at REC_AT if that is lower.  What it needs then lies there: right below the
 * caller's frame may be objects that are kept.
 */
FUNCTION __chimera_resume
        ldr     w9, [x0, #REC_FN]
        mov     x10, #TABLE_ROW
        adrp    x11, __chimera_table
        add     x11, x11, :lo12:__chimera_table
        madd    x9, x9, x10, x11
        ldr     x9, [x9, #TABLE_RESUME]
        ldr     x10, [x0, #REC_AT]
        add     x11, x10, #SHIFT_BYTES
        mov     x12, sp
        cmp     x12, x11
        b.hs    1f
        br      x9
1:      mov     sp, x10
        stp     x29, x12, [x10]
        str     x30, [x10, #16]
        mov     x29, x10
        .cfi_remember_state
        /* CFA = *(x29 + 8); x29 is at x29, x30 at x29 + 16 */
        .cfi_escape 0x0f, 3, 0x8d, 8, 0x06
        .cfi_escape 0x10, 29, 2, 0x8d, 0
        .cfi_escape 0x10, 30, 2, 0x8d, 16
        blr     x9
        .globl  chimera_shifted
chimera_shifted:
        ldr     x30, [x29, #16]
        ldp     x29, x12, [x29]
        mov     sp, x12
        .cfi_restore_state
        ret
END __chimera_resume

/* chimera_leave(sp, how): chimera_call_on() returns @how */
FUNCTION chimera_leave
        mov     sp, x0
        mov     w0, w1
        b       .Lleave
END chimera_leave

/* chimera_start_on(sp, fn, arg) */
FUNCTION chimera_start_on
        .cfi_undefined x30
        mov     sp, x0
        mov     x29, #0
        mov     x30, #0
        mov     x0, x2
        blr     x1
        brk     #1
END chimera_start_on

/* chimera_spawn(stack_top, fn, arg, ret_tid): a kernel thread without libc.
   CLONE_VM|FS|FILES|SIGHAND|THREAD|SYSVSEM|PARENT_SETTID */
FUNCTION chimera_spawn
        mov     x9, x0
        mov     x10, x1
        mov     x11, x2
        mov     x2, x3
        mov     w0, #0x0f00
        movk    w0, #0x15, lsl #16
        and     x1, x9, #-16
        mov     x3, #0
        mov     x4, #0
        mov     x8, #220
        svc     #0
        cbz     x0, 1f
        ret
1:      .cfi_undefined x30
        mov     x29, #0
        mov     x30, #0
        mov     x0, x11
        blr     x10
        brk     #1
END chimera_spawn

FUNCTION chimera_raw_syscall
        mov     x8, x0
        mov     x0, x1
        mov     x1, x2
        mov     x2, x3
        mov     x3, x4
        mov     x4, x5
        mov     x5, x6
        svc     #0
        ret
END chimera_raw_syscall

FUNCTION chimera_sigreturn
        mov     x8, #139
        svc     #0
END chimera_sigreturn

/* A landing pad's personality is only named, never called. */
FUNCTION __chimera_personality
        mov     w0, #8
        ret
END __chimera_personality

/* Functions whose addresses programs and the C library may keep: these have
   the same address on every ISA. */

        .section .ctext.setjmp, "ax", %progbits
FUNCTION setjmp
        .globl  _setjmp, __setjmp
        .type   _setjmp, %function
        .type   __setjmp, %function
_setjmp:
__setjmp:
        REGS    stp, x0
        mov     x9, sp
        str     x9, [x0, #160]
        mov     x9, #CHIMERA_ISA_AARCH64
        str     x9, [x0, #JB_ISA]
        mrs     x9, tpidr_el0
        add     x9, x9, #:tprel_hi12:__chimera_dsp
        ldr     x9, [x9, #:tprel_lo12_nc:__chimera_dsp]
        str     x9, [x0, #JB_DSP]
        SELF    x9
        cbz     x9, 1f
        ldr     x9, [x9, #(T_RUN + 8 * CHIMERA_ISA_AARCH64)]
1:      str     x9, [x0, #JB_RUN]
        mov     w0, #0
        ret
END setjmp

        .section .ctext.longjmp, "ax", %progbits
FUNCTION longjmp
        .globl  _longjmp
        .type   _longjmp, %function
_longjmp:
        cmp     w1, #0
        csinc   w1, w1, wzr, ne
        sxtw    x1, w1
        b       chimera_jump
END longjmp

        .section .ctext.sigsetjmp, "ax", %progbits
FUNCTION sigsetjmp
        .globl  __sigsetjmp
        .type   __sigsetjmp, %function
__sigsetjmp:
        cbz     w1, setjmp
        str     x30, [x0, #JB_FLAG]
        str     x19, [x0, #JB_MASK + 8]
        mov     x19, x0
        bl      setjmp
        mov     w1, w0
        mov     x0, x19
        ldr     x30, [x0, #JB_FLAG]
        ldr     x19, [x0, #JB_MASK + 8]
        b       __sigsetjmp_tail
END sigsetjmp

/* Return from a signal handler.  Unwinders look at the byte before. */
        .section .ctext.restore, "ax", %progbits
        nop
        .globl  __restore_rt, __restore
        .type   __restore_rt, %function
        .balign 16
__restore:
__restore_rt:
        mov     x8, #139
        svc     #0
        .size   __restore_rt, . - __restore_rt

        .text
/* chimera_restore_jump(buf, value) */
FUNCTION chimera_restore_jump
        mov     x9, x0
        mov     w0, w1
        ldr     x10, [x9, #160]
        mov     sp, x10
        REGS    ldp, x9
        br      x30
END chimera_restore_jump

        .section .note.GNU-stack, "", %progbits
