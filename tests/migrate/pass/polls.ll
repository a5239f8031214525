; SPDX-License-Identifier: GPL-2.0-or-later
; Polls: recursion at entry, the outer of two loops, not a short one.
; RUN: %chimera %s | FileCheck %s
target datalayout = "e-m:e-p270:32:32-p271:32:32-p272:64:64-i64:64-i128:128-f80:128-n8:16:32:64-S128"

; CHECK-LABEL: define {{.*}}i64 @fib(
; CHECK: more:
; CHECK-NEXT: %poll = load volatile i32, ptr @__chimera_flag
define i64 @fib(i64 %n) #0 {
  %c = icmp slt i64 %n, 2
  br i1 %c, label %done, label %more
more:
  %a = add i64 %n, -1
  %x = call i64 @fib(i64 %a)
  %b = add i64 %n, -2
  %y = call i64 @fib(i64 %b)
  %s = add i64 %x, %y
  ret i64 %s
done:
  ret i64 %n
}

; CHECK-LABEL: define {{.*}}void @nest(
; CHECK: outer:
; CHECK: load volatile i32, ptr @__chimera_flag
; CHECK: inner:
; CHECK-NOT: load volatile i32, ptr @__chimera_flag
; CHECK-LABEL: define {{.*}}void @short(
; CHECK-NOT: load volatile i32, ptr @__chimera_flag
; CHECK-LABEL: define {{.*}}i64 @native(
define void @nest(ptr %p, i64 %n) #0 {
entry:
  br label %outer
outer:
  %i = phi i64 [ 0, %entry ], [ %i1, %latch ]
  br label %inner
inner:
  %j = phi i64 [ 0, %outer ], [ %j1, %inner ]
  %q = getelementptr i64, ptr %p, i64 %j
  store i64 %i, ptr %q
  %j1 = add i64 %j, 1
  %d = icmp ult i64 %j1, %n
  br i1 %d, label %inner, label %latch
latch:
  %i1 = add i64 %i, 1
  %e = icmp ult i64 %i1, %n
  br i1 %e, label %outer, label %out
out:
  ret void
}
define void @short(ptr %p) #0 {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %i1, %loop ]
  %q = getelementptr i64, ptr %p, i64 %i
  store i64 %i, ptr %q
  %i1 = add nuw nsw i64 %i, 1
  %e = icmp ult i64 %i1, 16
  br i1 %e, label %loop, label %out
out:
  ret void
}
define i64 @native(i64 %n) #1 {
  %x = call i64 @native(i64 %n)
  ret i64 %x
}
attributes #0 = { "chimera"="loops" }
attributes #1 = { "chimera"="none" }
