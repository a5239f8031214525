// SPDX-License-Identifier: GPL-2.0-or-later
//
// Where a function's objects live.
//
// Static allocas stay in the native frame.  While the frame is away, the
// run-time library keeps that stack memory as it is (REC_F_FRAME), and the
// resume clone works on the old addresses.  So an object costs nothing until
// its frame is captured, whether or not its address escapes.
//
// Dynamic allocas (VLAs, alloca) cannot do that: a clone would have to restore
// stack pointers of a frame that is not its own.  They move to a second stack
// of the thread in shared memory.
//
// Invariants afterwards:
//  1. The function has static allocas only, all in its entry block, and no
//     stacksave or stackrestore.
//  2. __chimera_dsp has at every return the value it had at entry.

#include "Chimera.h"

using namespace llvm;

bool chimera::hasStaticAllocas(const Function &F) {
  for (const Instruction &I : F.getEntryBlock())
    if (isa<AllocaInst>(I))
      return true;
  return false;
}

void chimera::lowerDynamicAllocas(Function &F) {
  SmallVector<AllocaInst *, 4> Dynamic;
  SmallVector<IntrinsicInst *, 4> Saves;
  for (Instruction &I : instructions(F)) {
    if (auto *A = dyn_cast<AllocaInst>(&I)) {
      if (!A->isStaticAlloca())
        Dynamic.push_back(A);
    } else if (auto *II = dyn_cast<IntrinsicInst>(&I)) {
      if (II->getIntrinsicID() == Intrinsic::stacksave ||
          II->getIntrinsicID() == Intrinsic::stackrestore)
        Saves.push_back(II);
    }
  }
  if (Dynamic.empty() && Saves.empty())
    return;

  Module &M = *F.getParent();
  LLVMContext &C = M.getContext();
  auto *Ptr = PointerType::get(C, 0);
  auto *I64 = Type::getInt64Ty(C);
  const DataLayout &DL = M.getDataLayout();
  auto *Dsp =
      cast<GlobalVariable>(M.getOrInsertGlobal("__chimera_dsp", Ptr, [&] {
        return new GlobalVariable(M, Ptr, false, GlobalValue::ExternalLinkage,
                                  nullptr, "__chimera_dsp", nullptr,
                                  GlobalValue::LocalExecTLSModel);
      }));
  FunctionCallee Alloc =
      M.getOrInsertFunction("__chimera_dynamic_alloca", Ptr, I64, I64);

  auto LoadDsp = [&](IRBuilder<> &B) -> Value * {
    return B.CreateLoad(Ptr, B.CreateThreadLocalAddress(Dsp), "dsp");
  };
  auto StoreDsp = [&](IRBuilder<> &B, Value *V) {
    B.CreateStore(V, B.CreateThreadLocalAddress(Dsp));
  };

  auto It = F.getEntryBlock().begin();
  while (isa<AllocaInst>(&*It) && cast<AllocaInst>(*It).isStaticAlloca())
    ++It;
  IRBuilder<> Entry(&F.getEntryBlock(), It);
  Value *Mark = LoadDsp(Entry);

  for (AllocaInst *A : Dynamic) {
    IRBuilder<> B(A);
    Value *Count = B.CreateZExtOrTrunc(A->getArraySize(), I64);
    Value *Bytes = B.CreateMul(
        Count, B.getInt64(DL.getTypeAllocSize(A->getAllocatedType())));
    Value *P = B.CreateCall(Alloc, {Bytes, B.getInt64(A->getAlign().value())});
    P->takeName(A);
    A->replaceAllUsesWith(P);
    A->eraseFromParent();
  }
  for (IntrinsicInst *II : Saves) {
    IRBuilder<> B(II);
    if (II->getIntrinsicID() == Intrinsic::stacksave)
      II->replaceAllUsesWith(LoadDsp(B));
    else
      StoreDsp(B, II->getArgOperand(0));
    II->eraseFromParent();
  }
  // Lifetimes of what is no alloca any more mean nothing.
  SmallVector<Instruction *, 8> Dead;
  for (Instruction &I : instructions(F)) {
    if (auto *II = dyn_cast<IntrinsicInst>(&I))
      if (II->isLifetimeStartOrEnd() &&
          !isa<AllocaInst>(II->getArgOperand(1)->stripPointerCasts()))
        Dead.push_back(II);
    if (auto *R = dyn_cast<ReturnInst>(&I)) {
      IRBuilder<> B(R);
      StoreDsp(B, Mark);
    }
  }
  for (Instruction *I : Dead)
    I->eraseFromParent();
}
