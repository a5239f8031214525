// SPDX-License-Identifier: GPL-2.0-or-later
//
// ISA-neutral variadic functions.
//
//   f(fixed, ...)   becomes   f(fixed, ptr slots)
//
// and a call packs its variable arguments into 8-byte slots of a buffer in the
// caller's frame.  va_list is then `char *` and va_arg is pointer arithmetic
// (include/prelude.h), the same on every ISA.
//
// Invariants:
//  1. Runs before any optimisation, so that va_start is still the call of
//     __chimera_va_start in the variadic function itself.
//  2. An argument of size s takes ceil(s / 8) slots.  The front end has
//     already split small structs into eightbytes, so that slot order is
//     struct layout.
//  3. `declare T @f(...)` (no fixed parameter) is a K&R declaration, not a
//     variadic function: its calls become plain calls.
//  4. An indirect call without variable arguments may be K&R or variadic; it
//     passes one buffer more than a K&R callee takes, which harms neither.

#include "Chimera.h"

#include "llvm/Support/ErrorHandling.h"

using namespace llvm;

namespace {

constexpr const char VaStartFn[] = "__chimera_va_start";

FunctionType *loweredType(FunctionType *T) {
  SmallVector<Type *, 8> Params(T->params());
  Params.push_back(PointerType::get(T->getContext(), 0));
  return FunctionType::get(T->getReturnType(), Params, false);
}

bool isUnprototyped(const Function &F) {
  return F.isVarArg() && F.arg_size() == 0;
}

bool lowerFunctions(Module &M) {
  SmallVector<Function *, 16> Variadic;
  for (Function &F : M)
    if (F.isVarArg() && !F.isIntrinsic() && !isUnprototyped(F))
      Variadic.push_back(&F);

  for (Function *F : Variadic) {
    Function *N = Function::Create(loweredType(F->getFunctionType()),
                                   F->getLinkage(), "", &M);
    N->takeName(F);
    N->copyAttributesFrom(F);
    if (!F->isDeclaration()) {
      N->splice(N->begin(), F);
      N->setSubprogram(F->getSubprogram());
      F->setSubprogram(nullptr);
      for (unsigned I = 0; I < F->arg_size(); I++) {
        F->getArg(I)->replaceAllUsesWith(N->getArg(I));
        N->getArg(I)->takeName(F->getArg(I));
      }
      SmallVector<CallInst *, 4> Starts;
      for (Instruction &I : instructions(*N))
        if (auto *CI = dyn_cast<CallInst>(&I))
          if (Function *G = CI->getCalledFunction())
            if (G->getName() == VaStartFn)
              Starts.push_back(CI);
      for (CallInst *CI : Starts) {
        CI->replaceAllUsesWith(N->getArg(N->arg_size() - 1));
        CI->eraseFromParent();
      }
    }
    F->replaceAllUsesWith(N);
    F->eraseFromParent();
  }
  return !Variadic.empty();
}

// A K&R call: the same arguments, not variadic.
void lowerUnprototypedCall(CallBase &CB) {
  FunctionType *FT = CB.getFunctionType();
  SmallVector<Type *, 8> Params;
  SmallVector<Value *, 8> Args;
  for (Value *A : CB.args()) {
    Params.push_back(A->getType());
    Args.push_back(A);
  }
  CB.mutateFunctionType(FunctionType::get(FT->getReturnType(), Params, false));
}

void lowerCall(CallInst &CI, AllocaInst *Buffer, uint64_t &MaxBytes) {
  const DataLayout &DL = CI.getDataLayout();
  FunctionType *FT = CI.getFunctionType();
  IRBuilder<> B(&CI);
  uint64_t Offset = 0;

  for (unsigned I = FT->getNumParams(); I < CI.arg_size(); I++) {
    Value *A = CI.getArgOperand(I);
    Value *Slot = B.CreateConstGEP1_64(B.getInt8Ty(), Buffer, Offset);
    uint64_t Bytes;
    if (CI.isByValArgument(I)) {
      Bytes = DL.getTypeAllocSize(CI.getParamByValType(I));
      B.CreateMemCpy(Slot, Align(8), A, CI.getParamAlign(I).valueOrOne(),
                     Bytes);
    } else {
      Bytes = DL.getTypeAllocSize(A->getType());
      B.CreateAlignedStore(A, Slot, Align(8));
    }
    Offset += alignTo(Bytes, 8);
  }
  MaxBytes = std::max(MaxBytes, Offset);

  AttributeList Old = CI.getAttributes();
  SmallVector<Value *, 8> Args;
  SmallVector<AttributeSet, 8> ArgAttrs;
  for (unsigned I = 0; I < FT->getNumParams(); I++) {
    Args.push_back(CI.getArgOperand(I));
    ArgAttrs.push_back(Old.getParamAttrs(I));
  }
  Args.push_back(Buffer);
  ArgAttrs.push_back(AttributeSet());
  CallInst *N = B.CreateCall(loweredType(FT), CI.getCalledOperand(), Args);
  N->setCallingConv(CI.getCallingConv());
  N->setAttributes(AttributeList::get(CI.getContext(), Old.getFnAttrs(),
                                      Old.getRetAttrs(), ArgAttrs));
  N->setDebugLoc(CI.getDebugLoc());
  CI.replaceAllUsesWith(N);
  CI.eraseFromParent();
}

bool lowerCalls(Function &F) {
  SmallVector<CallInst *, 16> Calls;
  for (Instruction &I : instructions(F)) {
    auto *CB = dyn_cast<CallBase>(&I);
    if (!CB || !CB->getFunctionType()->isVarArg() || isa<IntrinsicInst>(CB) ||
        CB->isInlineAsm())
      continue;
    auto *G = dyn_cast<Function>(CB->getCalledOperand()->stripPointerCasts());
    if (G && CB->arg_size() == CB->getFunctionType()->getNumParams() &&
        (isUnprototyped(*G) || !G->isVarArg()) &&
        G->getFunctionType() != loweredType(CB->getFunctionType())) {
      lowerUnprototypedCall(*CB);
      continue;
    }
    if (auto *CI = dyn_cast<CallInst>(CB))
      Calls.push_back(CI);
    else
      report_fatal_error("chimera-va: invoke of a variadic function");
  }
  if (Calls.empty())
    return false;

  Type *I8 = Type::getInt8Ty(F.getContext());
  auto *Buffer = new AllocaInst(I8, 0, nullptr, Align(16), "va.slots",
                                F.getEntryBlock().begin());
  uint64_t MaxBytes = 8;
  for (CallInst *CI : Calls)
    lowerCall(*CI, Buffer, MaxBytes);
  Buffer->setAllocatedType(ArrayType::get(I8, MaxBytes));
  return true;
}

} // namespace

bool chimera::lowerVariadics(Module &M) {
  bool Changed = lowerFunctions(M);
  for (Function &F : M)
    if (!F.isDeclaration())
      Changed |= lowerCalls(F);
  return Changed;
}
