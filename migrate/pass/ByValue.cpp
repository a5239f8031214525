// SPDX-License-Identifier: GPL-2.0-or-later
//
// Structures that are passed in memory by value.
//
//   f(ptr byval(T) p)   becomes   f(ptr p), with a copy made by the caller
//
// A byval argument lies in the part of the caller's frame that the code
// generator lays out for the call.  A resume clone would need such a part of its
// own, while the callee goes on using the original's.  A copy in an alloca is an
// object like any other (Stack.cpp), at the same address for both.
//
// Invariants afterwards:
//  1. No function has a parameter that is byval, so what a call's arguments
//     occupy is dead once the callee has been entered and captured.
//  2. All functions of the program agree on it, native ones too.  (A program in
//     which nothing can migrate stays as it is.)

#include "Chimera.h"

#include "llvm/Support/ErrorHandling.h"

using namespace llvm;

namespace {

bool isByValueParameter(const Value *V) {
  auto *A = dyn_cast<Argument>(V);
  return A && A->hasByValAttr();
}

void lowerArgument(CallBase &CB, unsigned N) {
  const DataLayout &DL = CB.getDataLayout();
  Type *T = CB.getParamByValType(N);
  Align A = CB.getParamAlign(N).value_or(DL.getABITypeAlign(T));
  Value *From = CB.getArgOperand(N);

  CB.removeParamAttr(N, Attribute::ByVal);
  CB.removeFnAttr(Attribute::Memory);
  auto *CI = dyn_cast<CallInst>(&CB);
  if (CI && CI->isMustTailCall()) {
    // The caller's frame is gone then, but not what it was given.
    if (!isByValueParameter(From->stripPointerCasts()))
      report_fatal_error(Twine("chimera: function '") +
                         CB.getFunction()->getName() +
                         "' passes a local structure by value in a musttail "
                         "call; pass a pointer to one that lives longer");
    return;
  }

  BasicBlock &Entry = CB.getFunction()->getEntryBlock();
  auto *Copy = new AllocaInst(T, DL.getAllocaAddrSpace(), nullptr, A,
                              "by.value", Entry.begin());
  ConstantInt *Bytes =
      ConstantInt::get(Type::getInt64Ty(CB.getContext()),
                       DL.getTypeAllocSize(T));
  IRBuilder<> B(&CB);
  B.CreateLifetimeStart(Copy, Bytes);
  B.CreateMemCpy(Copy, A, From, A, Bytes);
  CB.setArgOperand(N, Copy);
  if (CI) {
    CI->setTailCall(false);
    B.SetInsertPoint(CI->getNextNode());
    B.CreateLifetimeEnd(Copy, Bytes);
  }
}

} // namespace

void chimera::lowerByValue(Module &M) {
  for (Function &F : M)
    for (Instruction &I : instructions(F))
      if (auto *CB = dyn_cast<CallBase>(&I))
        for (unsigned N = 0; N < CB->arg_size(); N++)
          if (CB->isByValArgument(N))
            lowerArgument(*CB, N);
  for (Function &F : M)
    for (Argument &A : F.args())
      if (A.hasByValAttr()) {
        A.removeAttr(Attribute::ByVal);
        F.removeFnAttr(Attribute::Memory);
      }
}
