/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What cannot be said in C, for x86_64. */
#define __ASSEMBLER__ 1
#include "thread.h"

#define USP (T_USP + 8 * CHIMERA_ISA_X86_64)

        .macro  FUNCTION name
        .globl  \name
        .type   \name, @function
        .balign 16
\name:
        .cfi_startproc
        .endm
        .macro  END name
        .cfi_endproc
        .size   \name, . - \name
        .endm

        .text

FUNCTION _start
        .cfi_undefined rip
        xor     %ebp, %ebp
        mov     %rsp, %rdi
        and     $-16, %rsp
        call    chimera_start
        ud2
END _start

/*
 * preserve_all: everything but rax and r11.  A poll that moves returns to its
 * pad, with the record in rax and all else as it was.
 */
FUNCTION __chimera_poll_slow
        push    %rbp
        .cfi_def_cfa_offset 16
        .cfi_offset rbp, -16
        mov     %rsp, %rbp
        .cfi_def_cfa_register rbp
        push    %rcx
        push    %rdx
        push    %rsi
        push    %rdi
        push    %r8
        push    %r9
        push    %r10
        push    %r11
        sub     $256, %rsp
        .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
        movups  %xmm\n, 16 * \n(%rsp)
        .endr
        mov     8(%rbp), %rdi
        call    chimera_poll_slow
        test    %rax, %rax
        jz      1f
        mov     %fs:__chimera_self@tpoff, %rcx
        mov     (%rbp), %rdx
        mov     %rbx, CTX_REGS(%rcx)
        mov     %rdx, CTX_REGS + 8(%rcx)
        mov     %r12, CTX_REGS + 16(%rcx)
        mov     %r13, CTX_REGS + 24(%rcx)
        mov     %r14, CTX_REGS + 32(%rcx)
        mov     %r15, CTX_REGS + 40(%rcx)
        lea     16(%rbp), %rdx
        mov     %rdx, CTX_SP(%rcx)
        mov     CTX_PAD(%rcx), %rdx
        mov     %rdx, 8(%rbp)
1:
        .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
        movups  16 * \n(%rsp), %xmm\n
        .endr
        add     $256, %rsp
        pop     %r11
        pop     %r10
        pop     %r9
        pop     %r8
        pop     %rdi
        pop     %rsi
        pop     %rdx
        pop     %rcx
        pop     %rbp
        .cfi_def_cfa rsp, 8
        ret
END __chimera_poll_slow

/*
 * __chimera_next(end): a pad is done.  The call pushed its return address
 * where the unwound callee's was; nothing else below the frame is written.
 */
FUNCTION __chimera_next
        .cfi_undefined rip
        mov     %fs:__chimera_self@tpoff, %rax
        mov     USP(%rax), %rsp
        and     $-16, %rsp
        xor     %ebp, %ebp
        mov     %rdi, %rsi
        mov     %rax, %rdi
        call    chimera_captured
        ud2
END __chimera_next

/* chimera_enter_pad(ctx, pad, rec): the record goes where pads expect the
   exception object */
FUNCTION chimera_enter_pad
        mov     %rdx, %rax
        mov     %rsi, %rcx
        mov     CTX_REGS(%rdi), %rbx
        mov     CTX_REGS + 8(%rdi), %rbp
        mov     CTX_REGS + 16(%rdi), %r12
        mov     CTX_REGS + 24(%rdi), %r13
        mov     CTX_REGS + 32(%rdi), %r14
        mov     CTX_REGS + 40(%rdi), %r15
        mov     CTX_SP(%rdi), %rsp
        xor     %edx, %edx
        jmp     *%rcx
END chimera_enter_pad

/* chimera_return(ctx, return_value, result): as if the frame inside ctx had
   returned *result */
FUNCTION chimera_return
        mov     %rsi, %rax
        mov     CTX_REGS(%rdi), %rbx
        mov     CTX_REGS + 8(%rdi), %rbp
        mov     CTX_REGS + 16(%rdi), %r12
        mov     CTX_REGS + 24(%rdi), %r13
        mov     CTX_REGS + 32(%rdi), %r14
        mov     CTX_REGS + 40(%rdi), %r15
        mov     CTX_PC(%rdi), %rcx
        mov     CTX_SP(%rdi), %rsi
        mov     %rcx, -8(%rsi)
        mov     %rdx, -16(%rsi)
        lea     -16(%rsi), %rsp
        mov     %rdx, %rdi
        call    *%rax
        /* Only now: a handler that moves has a result, too. */
        pop     %r11
        movl    $0, T_BUSY - T_RESULT(%r11)
        ret
END chimera_return

/* chimera_call_on(entry, rec, result, sp, &save_sp, &usp) */
FUNCTION chimera_call_on
        push    %rbx
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset rbx, 0
        push    %rbp
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset rbp, 0
        push    %r12
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset r12, 0
        push    %r13
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset r13, 0
        push    %r14
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset r14, 0
        push    %r15
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset r15, 0
        mov     %rsp, (%r8)
        mov     %rsp, (%r9)
        mov     %rsp, %rbx
        /* Below is another stack: a debugger's backtrace ends here. */
        .cfi_remember_state
        .cfi_undefined rip
        mov     %rcx, %rsp
        mov     %rdi, %rax
        mov     %rsi, %rdi
        mov     %rdx, %rsi
        call    *%rax
        mov     %rbx, %rsp
        .cfi_restore_state
        mov     $1, %eax
.Lleave:
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %rbp
        pop     %rbx
        ret
END chimera_call_on

/*
 * T __chimera_resume(rec): calls the clone of the record, with the stack pointer
 * at REC_AT if that is lower.  What it needs then lies there: right below the
 * caller's frame may be objects that are kept.
 */
FUNCTION __chimera_resume
        mov     REC_FN(%rdi), %eax
        imul    $TABLE_ROW, %rax, %rax
        mov     __chimera_table+TABLE_RESUME(%rax), %rax
        mov     REC_AT(%rdi), %rcx
        lea     SHIFT_BYTES(%rcx), %rdx
        cmp     %rdx, %rsp
        jae     1f
        jmp     *%rax
1:      mov     %rsp, %rdx
        mov     %rcx, %rsp
        mov     %rbp, (%rcx)
        mov     %rdx, 8(%rcx)
        mov     %rcx, %rbp
        .cfi_remember_state
        /* CFA = *(rbp + 8) + 8; rbp is at rbp */
        .cfi_escape 0x0f, 5, 0x76, 8, 0x06, 0x23, 8
        .cfi_escape 0x10, 6, 2, 0x76, 0
        call    *%rax
        .globl  chimera_shifted
chimera_shifted:
        mov     8(%rbp), %r11
        mov     (%rbp), %rbp
        mov     %r11, %rsp
        .cfi_restore_state
        ret
END __chimera_resume

/* chimera_leave(sp, how): chimera_call_on() returns @how */
FUNCTION chimera_leave
        mov     %rdi, %rsp
        mov     %esi, %eax
        jmp     .Lleave
END chimera_leave

/* chimera_start_on(sp, fn, arg) */
FUNCTION chimera_start_on
        .cfi_undefined rip
        mov     %rdi, %rsp
        xor     %ebp, %ebp
        mov     %rdx, %rdi
        call    *%rsi
        ud2
END chimera_start_on

/* chimera_spawn(stack_top, fn, arg, ret_tid): a kernel thread without libc.
   CLONE_VM|FS|FILES|SIGHAND|THREAD|SYSVSEM|PARENT_SETTID */
FUNCTION chimera_spawn
        mov     %rsi, %r8
        mov     %rdx, %r9
        mov     %rcx, %rdx
        mov     %rdi, %rsi
        and     $-16, %rsi
        mov     $0x150f00, %edi
        xor     %r10d, %r10d
        mov     $56, %eax
        syscall
        test    %eax, %eax
        jz      1f
        ret
1:      .cfi_undefined rip
        xor     %ebp, %ebp
        mov     %r9, %rdi
        call    *%r8
        ud2
END chimera_spawn

FUNCTION chimera_raw_syscall
        mov     %rdi, %rax
        mov     %rsi, %rdi
        mov     %rdx, %rsi
        mov     %rcx, %rdx
        mov     %r8, %r10
        mov     %r9, %r8
        mov     8(%rsp), %r9
        syscall
        ret
END chimera_raw_syscall

FUNCTION chimera_sigreturn
        mov     $15, %eax
        syscall
END chimera_sigreturn

/* A landing pad's personality is only named, never called. */
FUNCTION __chimera_personality
        mov     $8, %eax
        ret
END __chimera_personality

/* Functions whose addresses programs and the C library may keep: these have
   the same address on every ISA. */

        .section .ctext.setjmp, "ax", @progbits
FUNCTION setjmp
        .globl  _setjmp, __setjmp
        .type   _setjmp, @function
        .type   __setjmp, @function
_setjmp:
__setjmp:
        mov     %rbx, (%rdi)
        mov     %rbp, 8(%rdi)
        mov     %r12, 16(%rdi)
        mov     %r13, 24(%rdi)
        mov     %r14, 32(%rdi)
        mov     %r15, 40(%rdi)
        lea     8(%rsp), %rdx
        mov     %rdx, 48(%rdi)
        mov     (%rsp), %rdx
        mov     %rdx, 56(%rdi)
        movq    $CHIMERA_ISA_X86_64, JB_ISA(%rdi)
        mov     %fs:__chimera_dsp@tpoff, %rdx
        mov     %rdx, JB_DSP(%rdi)
        mov     %fs:__chimera_self@tpoff, %rdx
        test    %rdx, %rdx
        jz      1f
        mov     T_RUN + 8 * CHIMERA_ISA_X86_64(%rdx), %rdx
1:      mov     %rdx, JB_RUN(%rdi)
        xor     %eax, %eax
        ret
END setjmp

        .section .ctext.longjmp, "ax", @progbits
FUNCTION longjmp
        .globl  _longjmp
        .type   _longjmp, @function
_longjmp:
        mov     %esi, %eax
        cmp     $1, %eax
        adc     $0, %eax
        movslq  %eax, %rsi
        jmp     chimera_jump
END longjmp

        .section .ctext.sigsetjmp, "ax", @progbits
FUNCTION sigsetjmp
        .globl  __sigsetjmp
        .type   __sigsetjmp, @function
__sigsetjmp:
        test    %esi, %esi
        jz      setjmp
        popq    JB_FLAG(%rdi)
        mov     %rbx, JB_MASK + 8(%rdi)
        mov     %rdi, %rbx
        call    setjmp
        pushq   JB_FLAG(%rbx)
        mov     %rbx, %rdi
        mov     %eax, %esi
        mov     JB_MASK + 8(%rbx), %rbx
        jmp     __sigsetjmp_tail
END sigsetjmp

/* Return from a signal handler.  Unwinders look at the byte before. */
        .section .ctext.restore, "ax", @progbits
        nop
        .globl  __restore_rt, __restore
        .type   __restore_rt, @function
        .balign 16
__restore:
__restore_rt:
        mov     $15, %eax
        syscall
        .size   __restore_rt, . - __restore_rt

        .text
/* chimera_restore_jump(buf, value) */
FUNCTION chimera_restore_jump
        mov     %esi, %eax
        mov     (%rdi), %rbx
        mov     8(%rdi), %rbp
        mov     16(%rdi), %r12
        mov     24(%rdi), %r13
        mov     32(%rdi), %r14
        mov     40(%rdi), %r15
        mov     48(%rdi), %rsp
        jmp     *56(%rdi)
END chimera_restore_jump

        .section .note.GNU-stack, "", @progbits
