; SPDX-License-Identifier: GPL-2.0-or-later
; Static objects stay in the frame, which is marked; dynamic ones move to the
; second stack, whose pointer is restored at the return.
; RUN: %chimera %s | FileCheck %s
target datalayout = "e-m:e-p270:32:32-p271:32:32-p272:64:64-i64:64-i128:128-f80:128-n8:16:32:64-S128"
declare void @__chimera_point()
declare void @use(ptr)

; CHECK-LABEL: define {{.*}}void @fixed(
; CHECK: %v = alloca [4 x i32]
; CHECK: mig.pad:
; CHECK: store i32 1, ptr
; CHECK: %[[BIASED:.*]] = getelementptr i8, ptr %v, i64 1
; CHECK: store ptr %[[BIASED]], ptr
define void @fixed() #0 {
  %v = alloca [4 x i32]
  call void @use(ptr %v)
  call void @__chimera_point()
  call void @use(ptr %v)
  ret void
}
; CHECK-LABEL: define {{.*}}void @vla(
; CHECK: %[[MARK:.*]] = load ptr, ptr %{{.*}}
; CHECK: %v = call ptr @__chimera_dynamic_alloca(i64 %{{.*}}, i64 16)
; CHECK-NOT: alloca
; CHECK: store ptr %[[MARK]], ptr
; CHECK-NEXT: ret void
define void @vla(i64 %n) #0 {
  %v = alloca i32, i64 %n, align 16
  call void @use(ptr %v)
  call void @__chimera_point()
  call void @use(ptr %v)
  ret void
}
attributes #0 = { "chimera"="loops" }
