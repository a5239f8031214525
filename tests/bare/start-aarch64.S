/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Entered at EL1 with the MMU off. */
        .text
        .globl  start
start:
        ldr     x0, =stack_end
        mov     sp, x0
        bl      image
1:      wfi
        b       1b

        .bss
        .balign 16
        .skip   16384
stack_end:

        .section .note.GNU-stack, "", @progbits
