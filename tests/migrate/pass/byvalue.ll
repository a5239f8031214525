; SPDX-License-Identifier: GPL-2.0-or-later
; A structure passed in memory becomes a pointer to a copy of the caller's.
; RUN: %chimera %s | FileCheck %s
target datalayout = "e-m:e-p270:32:32-p271:32:32-p272:64:64-i64:64-i128:128-f80:128-n8:16:32:64-S128"

%struct.wide = type { [5 x i64] }

declare void @__chimera_point()

define i64 @callee(ptr byval(%struct.wide) align 8 %w) #0 {
  call void @__chimera_point()
  %v = load i64, ptr %w
  ret i64 %v
}

; CHECK-LABEL: define {{.*}}i64 @callee(ptr align 8 %w)

define i64 @caller(ptr %w, i64 %b) #0 {
  %r = tail call i64 @callee(ptr byval(%struct.wide) align 8 %w)
  %s = add i64 %r, %b
  ret i64 %s
}

; CHECK-LABEL: define {{.*}}i64 @caller(
; CHECK: %by.value = alloca %struct.wide, align 8
; CHECK: call void @llvm.memcpy.{{.*}}(ptr align 8 %by.value, ptr align 8 %w, i64 40
; CHECK: invoke i64 @callee(ptr align 8 %by.value)
; The frame has an object now: it is kept while the frame is away.
; CHECK: landingpad
; CHECK: store i32 1, ptr

; A native function agrees with those that it calls.
define i64 @native(ptr %w) #1 {
  %r = call i64 @callee(ptr byval(%struct.wide) align 8 %w)
  ret i64 %r
}

; CHECK-LABEL: define {{.*}}i64 @native(
; CHECK: call i64 @callee(ptr align 8 %by.value)

; What the function was given outlives it.
define i64 @forward(ptr byval(%struct.wide) align 8 %w) #1 {
  %r = musttail call i64 @callee(ptr byval(%struct.wide) align 8 %w)
  ret i64 %r
}

; CHECK-LABEL: define {{.*}}i64 @forward(
; CHECK-NEXT: musttail call i64 @callee(ptr align 8 %w)

; Nothing in a clone's frame but its place.
; CHECK-LABEL: define {{.*}}i64 @"caller$resume"(
; CHECK-NOT: alloca
; CHECK: store i32 2, ptr

attributes #0 = { "chimera"="loops" noinline }
attributes #1 = { "chimera"="none" noinline }
