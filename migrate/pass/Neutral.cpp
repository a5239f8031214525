// SPDX-License-Identifier: GPL-2.0-or-later
//
// Makes the merged program mean the same on every ISA.
//
// Invariants afterwards:
//  1. No function or call names a CPU or a feature of one, other than generic.
//  2. No code address is a value: the labels of a computed goto are small
//     numbers and the goto is a switch.  (Function addresses stay: they are
//     equal on both ISAs.)

#include "Chimera.h"

#include "llvm/IR/CFG.h"
#include "llvm/IR/InlineAsm.h"

#include <set>

using namespace llvm;

namespace {

void stripTarget(Function &F) {
  for (const char *A : {"target-cpu", "target-features", "tune-cpu"})
    F.removeFnAttr(A);
  // As clang does without -mtune; else llc tunes x86_64 for an i586.
  F.addFnAttr("tune-cpu", "generic");
  // A frame pointer in every frame would be saved and restored for nothing.
  F.removeFnAttr("frame-pointer");
  F.removeFnAttr(Attribute::StackProtect);
  F.removeFnAttr(Attribute::StackProtectStrong);
  F.removeFnAttr(Attribute::StackProtectReq);
}

void neutraliseCall(CallBase &CB) {
  for (const char *A : {"target-cpu", "target-features", "tune-cpu"})
    CB.removeFnAttr(A);
  // The front end lists the x86 flags as clobbered by every asm; here only
  // empty ones are left, which clobber nothing but perhaps memory.
  if (auto *Asm = dyn_cast<InlineAsm>(CB.getCalledOperand())) {
    std::string S = Asm->getConstraintString();
    for (StringRef Flag : {"~{dirflag}", "~{fpsr}", "~{flags}", "~{cc}"})
      for (size_t P; (P = S.find(Flag)) != std::string::npos;) {
        size_t From = P && S[P - 1] == ',' ? P - 1 : P;
        size_t Len = Flag.size() + (P - From);
        if (From == 0 && Len < S.size() && S[Len] == ',')
          Len++;
        S.erase(From, Len);
      }
    CB.setCalledOperand(InlineAsm::get(Asm->getFunctionType(),
                                       Asm->getAsmString(), S,
                                       Asm->hasSideEffects()));
  }
}

void lowerIndirectBranch(IndirectBrInst *Br,
                         const std::vector<BasicBlock *> &Labels) {
  BasicBlock *From = Br->getParent();
  LLVMContext &C = From->getContext();
  std::set<BasicBlock *> Targets(succ_begin(From), succ_end(From));
  auto *Bad = BasicBlock::Create(C, "goto.bad", From->getParent());
  new UnreachableInst(C, Bad);

  IRBuilder<> B(Br);
  Type *I64 = B.getInt64Ty();
  SwitchInst *SW = B.CreateSwitch(B.CreatePtrToInt(Br->getAddress(), I64), Bad,
                                  Labels.size());
  std::set<BasicBlock *> Reached;
  for (unsigned I = 0; I < Labels.size(); I++)
    if (Targets.count(Labels[I])) {
      SW->addCase(B.getInt64(I + 1), Labels[I]);
      Reached.insert(Labels[I]);
    }
  // The branch may list a block twice; a PHI has one entry per edge.
  std::map<BasicBlock *, unsigned> Seen;
  for (unsigned I = 0; I < Br->getNumDestinations(); I++)
    if (++Seen[Br->getDestination(I)] > 1)
      Br->getDestination(I)->removePredecessor(From, true);
  for (BasicBlock *T : Targets)
    if (!Reached.count(T))
      T->removePredecessor(From, true);
  Br->eraseFromParent();
}

} // namespace

void chimera::neutralise(Module &M) {
  for (Function &F : M) {
    stripTarget(F);
    for (Instruction &I : instructions(F))
      if (auto *CB = dyn_cast<CallBase>(&I))
        neutraliseCall(*CB);
  }
}

// The program is linked statically at fixed addresses.
void chimera::makeLocal(Module &M) {
  for (GlobalValue &G : M.global_values())
    if (!G.hasExternalWeakLinkage())
      G.setDSOLocal(true);
}

void chimera::lowerIndirectBranches(Module &M) {
  LLVMContext &C = M.getContext();
  auto *I64 = Type::getInt64Ty(C);
  auto *Ptr = PointerType::get(C, 0);
  for (Function &F : M) {
    SmallVector<IndirectBrInst *, 2> Branches;
    std::vector<BasicBlock *> Labels;
    for (BasicBlock &BB : F) {
      if (auto *Br = dyn_cast<IndirectBrInst>(BB.getTerminator()))
        Branches.push_back(Br);
      if (BB.hasAddressTaken())
        Labels.push_back(&BB);
    }
    for (unsigned I = 0; I < Labels.size(); I++) {
      auto *BA = BlockAddress::get(&F, Labels[I]);
      BA->replaceAllUsesWith(
          ConstantExpr::getIntToPtr(ConstantInt::get(I64, I + 1), Ptr));
      BA->destroyConstant();
    }
    for (IndirectBrInst *Br : Branches)
      lowerIndirectBranch(Br, Labels);
  }
}
