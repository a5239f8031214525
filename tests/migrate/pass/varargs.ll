; SPDX-License-Identifier: GPL-2.0-or-later
; RUN: %va %s | FileCheck %s
target datalayout = "e-m:e-p270:32:32-p271:32:32-p272:64:64-i64:64-i128:128-f80:128-n8:16:32:64-S128"
declare ptr @__chimera_va_start()
declare i32 @printf(ptr, ...)
declare i32 @kandr(...)
define i32 @sum(i32 %n, ...) {
  %ap = call ptr @__chimera_va_start()
  %v = load i64, ptr %ap
  %r = trunc i64 %v to i32
  ret i32 %r
}
; CHECK-LABEL: define {{.*}}void @calls()
; CHECK: %va.slots = alloca [24 x i8], align 16
; CHECK: store double 1.000000e+00, ptr %{{.*}}, align 8
; CHECK: call i32 @printf(ptr null, ptr %va.slots)
; CHECK: call i32 @kandr(i32 1, i32 2)
define void @calls() {
  %a = call i32 (ptr, ...) @printf(ptr null, i32 7, double 1.0, i64 9)
  %b = call i32 (i32, i32, ...) @kandr(i32 1, i32 2)
  ret void
}
; CHECK: define {{.*}}i32 @sum(i32 %n, ptr %[[SLOTS:.*]])
; CHECK: load i64, ptr %[[SLOTS]]
