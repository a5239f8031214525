; SPDX-License-Identifier: GPL-2.0-or-later
; A call that may migrate becomes an invoke with a pad of its own; the clone's
; inner resume has another (one predecessor per pad).
; RUN: %chimera %s | FileCheck %s
; RUN: %chimera %s | FileCheck %s --check-prefix=RET
target datalayout = "e-m:e-p270:32:32-p271:32:32-p272:64:64-i64:64-i128:128-f80:128-n8:16:32:64-S128"

declare void @__chimera_point()

define i32 @leaf(i32 %x) #0 {
  call void @__chimera_point()
  %y = add i32 %x, 1
  ret i32 %y
}

; CHECK-LABEL: define {{.*}}i32 @leaf(
; CHECK: invoke preserve_allcc ptr @__chimera_poll_slow()
; CHECK-NEXT: to label %{{.*}} unwind label %mig.pad
; CHECK: mig.pad:
; CHECK-NEXT: landingpad
; CHECK: store i64 4294967297, ptr
; CHECK: call void @__chimera_next(ptr
; CHECK-NEXT: unreachable

define i32 @caller(i32 %a, i32 %b) #0 {
  %r = call i32 @leaf(i32 %a)
  %s = call i32 @leaf(i32 %r)
  %t = add i32 %s, %b
  ret i32 %t
}

; CHECK-LABEL: define {{.*}}i32 @caller(
; CHECK-SAME: personality ptr @__chimera_personality
; CHECK: invoke i32 @leaf(i32 %a)
; CHECK-NEXT: to label %{{.*}} unwind label %[[PAD1:.*]]
; CHECK: invoke i32 @leaf(
; CHECK-NEXT: to label %{{.*}} unwind label %[[PAD2:.*]]
; CHECK: [[PAD1]]:
; CHECK-NEXT: landingpad
; CHECK: store i32 %b
; CHECK: call void @__chimera_next(ptr
; CHECK: [[PAD2]]:

; CHECK-LABEL: define {{.*}}i32 @"caller$resume"(ptr %rec)
; CHECK: %low = load i64, ptr
; CHECK: switch i32 %{{.*}}, label %resume.bad
; CHECK: resume.1:
; CHECK: %inner = load ptr
; CHECK: invoke i32 @__chimera_resume(ptr %inner)
; CHECK-NEXT: to label %{{.*}} unwind label %[[RPAD:.*]]
; CHECK: resume.2:
; CHECK: [[RPAD]]:
; CHECK-NEXT: landingpad

; CHECK: define {{.*}}void @"caller$entry"(ptr %0, ptr %1)
; RET: define {{.*}}i32 @chimera.return(ptr %0) section "chimera_thunks"

attributes #0 = { "chimera"="loops" noinline }
