// SPDX-License-Identifier: GPL-2.0-or-later
//
// Which functions can be on the stack at a migration point.
//
// A function that is left out is never wrong, it only ends a segment: its
// frame stays where it is and waits for the inner part to return.  So the
// approximation may miss calls (through a pointer of another type, say).
//
// Invariants:
//  1. Every function that contains a poll is in the set.
//  2. A function whose nativeReason() is not empty never is.
//  3. An indirect call may migrate if a function of the set with the call's
//     type has its address taken.

#include "Chimera.h"

#include "llvm/IR/DebugInfoMetadata.h"
#include "llvm/IR/InlineAsm.h"
#include "llvm/Support/raw_ostream.h"

using namespace llvm;

chimera::Mode chimera::modeOf(const Function &F) {
  return StringSwitch<Mode>(F.getFnAttribute(ModeAttr).getValueAsString())
      .Case("calls", Mode::Calls)
      .Case("entry", Mode::Entry)
      .Case("loops", Mode::Loops)
      .Default(Mode::None);
}

std::string chimera::nativeReason(const Function &F) {
  if (F.isDeclaration())
    return "defined outside the program's own files";
  if (modeOf(F) == Mode::None)
    return "compiled with -fmigrate=none";
  if (F.callsFunctionThatReturnsTwice())
    return "calls setjmp: a jump buffer belongs to one ISA";
  if (F.hasFnAttribute(Attribute::Naked))
    return "naked";
  for (const Instruction &I : instructions(F))
    if (auto *CB = dyn_cast<CallBase>(&I))
      if (isa<CallBrInst>(CB) || isa<InvokeInst>(CB))
        return "has exceptional control flow of its own";
  return "";
}

bool chimera::Reach::mayMigrate(const CallBase &CB) const {
  if (CB.isInlineAsm())
    return false;
  const Value *Callee = CB.getCalledOperand()->stripPointerCasts();
  if (auto *F = dyn_cast<Function>(Callee))
    return Set.count(F);
  return IndirectTypes.count(CB.getFunctionType());
}

chimera::Reach::Reach(Module &M) : M(M) {
  DenseSet<const Function *> Native;
  for (Function &F : M)
    if (!nativeReason(F).empty())
      Native.insert(&F);

  auto Belongs = [&](const Function &F) {
    for (const Instruction &I : instructions(F)) {
      auto *CB = dyn_cast<CallBase>(&I);
      if (!CB || isa<IntrinsicInst>(CB))
        continue;
      const Function *G = CB->getCalledFunction();
      if ((G && G->getName() == SlowFn) || mayMigrate(*CB))
        return true;
    }
    return false;
  };

  for (bool Changed = true; Changed;) {
    Changed = false;
    for (Function &F : M) {
      if (Set.count(&F) || Native.count(&F) || !Belongs(F))
        continue;
      Set.insert(&F);
      if (F.hasAddressTaken())
        IndirectTypes.insert(F.getFunctionType());
      Changed = true;
    }
  }
  for (Function &F : M)
    if (Set.count(&F))
      List.push_back(&F);
}

void chimera::Reach::explain(raw_ostream &OS) const {
  for (const Function &F : M) {
    // Not those that this pass made.
    if (F.isDeclaration() || F.getName().contains('$') ||
        F.getName().starts_with("chimera."))
      continue;
    if (const DISubprogram *SP = F.getSubprogram())
      OS << SP->getFilename() << ":" << SP->getLine() << ": ";
    OS << F.getName() << ": ";
    std::string Why = nativeReason(F);
    if (Set.count(&F))
      OS << "can migrate\n";
    else if (!Why.empty())
      OS << "native: " << Why << "\n";
    else
      OS << "native: no migration point is reached from it\n";
  }
}
