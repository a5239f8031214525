; SPDX-License-Identifier: GPL-2.0-or-later
; A computed goto is a switch over small numbers.
; RUN: %chimera %s | FileCheck %s
target datalayout = "e-m:e-p270:32:32-p271:32:32-p272:64:64-i64:64-i128:128-f80:128-n8:16:32:64-S128"
@labels = internal constant [2 x ptr] [ptr blockaddress(@f, %a), ptr blockaddress(@f, %b)]
; CHECK: @labels = {{.*}}constant [2 x ptr] [ptr inttoptr (i64 1 to ptr), ptr inttoptr (i64 2 to ptr)]
; CHECK-SAME: section "chimera_rodata"
; CHECK-LABEL: define {{.*}}i32 @f(
; CHECK-NOT: indirectbr
; CHECK: switch i64
define i32 @f(i64 %i) {
  %p = getelementptr [2 x ptr], ptr @labels, i64 0, i64 %i
  %t = load ptr, ptr %p
  indirectbr ptr %t, [label %a, label %b, label %a]
a:
  ret i32 1
b:
  ret i32 2
}
