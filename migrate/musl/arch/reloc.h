/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Programs are linked statically; nothing here relocates. */
#define LDSO_ARCH "chimera"
#define REL_SYMBOLIC 1
#define REL_GOT 6
#define REL_PLT 7
#define REL_RELATIVE 8
#define REL_COPY 5
#define REL_DTPMOD 16
#define REL_DTPOFF 17
#define REL_TPOFF 18
#define REL_TLSDESC 36
#define CRTJMP(pc, sp) __builtin_trap()
