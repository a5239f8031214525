/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Entered in 32-bit protected mode without paging, as PVH says. */
        .section .note.Xen, "a", @note
        .long   4, 4, 18        /* XEN_ELFNOTE_PHYS32_ENTRY */
        .asciz  "Xen"
        .long   start

        .text
        .globl  start
start:
        movl    $stack_end, %esp
        call    image
1:      hlt
        jmp     1b

        .bss
        .balign 16
        .skip   16384
stack_end:

        .section .note.GNU-stack, "", @progbits
