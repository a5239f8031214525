; SPDX-License-Identifier: GPL-2.0-or-later
; RUN: %check %s 2>&1 | FileCheck %s
source_filename = "dir/file.c"
; CHECK: dir/file.c: chimera: inline assembly in function 'bad': give a C version under #ifdef __chimera__
; CHECK-NOT: good
define void @bad() {
  call void asm sideeffect "cpuid", "~{eax}"()
  ret void
}
define void @good() {
  call void asm sideeffect "", "~{memory}"()
  ret void
}
