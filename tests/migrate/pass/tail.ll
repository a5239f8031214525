; SPDX-License-Identifier: GPL-2.0-or-later
; A call in tail position with nothing live stays a call.
; RUN: %chimera %s | FileCheck %s
target datalayout = "e-m:e-p270:32:32-p271:32:32-p272:64:64-i64:64-i128:128-f80:128-n8:16:32:64-S128"
declare void @__chimera_point()
define i32 @leaf(i32 %x) #0 {
  call void @__chimera_point()
  ret i32 %x
}
; CHECK-LABEL: define {{.*}}i32 @last(
; CHECK-NOT: invoke
; CHECK: tail call i32 @leaf
; CHECK-LABEL: define {{.*}}i32 @forced(
; CHECK: musttail call i32 @leaf
define i32 @last(i32 %x) #0 {
  %r = tail call i32 @leaf(i32 %x)
  ret i32 %r
}
define i32 @forced(i32 %x) #0 {
  %r = musttail call i32 @leaf(i32 %x)
  ret i32 %r
}
attributes #0 = { "chimera"="loops" }
