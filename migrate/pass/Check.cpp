// SPDX-License-Identifier: GPL-2.0-or-later
//
// What one IR cannot express for two ISAs is an error, at the place where the
// user wrote it and with what to do instead.
//
// Runs after the optimiser: asm in a function that was dropped harms nobody.

#include "Chimera.h"

#include "llvm/IR/DebugInfo.h"
#include "llvm/IR/DiagnosticInfo.h"
#include "llvm/IR/InlineAsm.h"

using namespace llvm;

namespace {

// An empty asm is a compiler barrier and means the same everywhere.
bool isEmptyAsm(const InlineAsm &Asm) {
  return StringRef(Asm.getAsmString()).trim().empty();
}

class Checker {
public:
  explicit Checker(Module &M) : M(M) {}

  bool run() {
    if (!StringRef(M.getModuleInlineAsm()).trim().empty())
      error(Twine("chimera: ") + M.getSourceFileName() +
            ": assembly at file scope cannot be compiled for two ISAs; leave "
            "it out under #ifdef __chimera__");
    for (const GlobalIFunc &G : M.ifuncs())
      error(Twine("chimera: ") + M.getSourceFileName() + ": ifunc '" +
            G.getName() +
            "' would resolve differently on each ISA; call one version");
    for (Function &F : M)
      checkFunction(F);
    return Good;
  }

private:
  void error(const Twine &Text) {
    Good = false;
    M.getContext().emitError(Text);
  }

  void errorAt(const Instruction &I, const Twine &What, const Twine &Remedy) {
    Good = false;
    std::string Text = ("chimera: " + What + " in function '" +
                        I.getFunction()->getName() + "': " + Remedy)
                           .str();
    if (I.getMetadata("srcloc")) {
      M.getContext().diagnose(DiagnosticInfoInlineAsm(I, Text, DS_Error));
      return;
    }
    // Without -g the instruction has no line: name the file at least.
    std::string Where = M.getSourceFileName();
    if (DebugLoc L = I.getDebugLoc())
      Where = (L->getFilename() + ":" + Twine(L.getLine())).str();
    M.getContext().emitError(Where + ": " + Text);
  }

  void checkFunction(Function &F) {
    if (F.hasFnAttribute(Attribute::Naked))
      error(Twine("chimera: ") + M.getSourceFileName() +
            ": naked function '" + F.getName() +
            "' is assembly; leave it out under #ifdef __chimera__");
    for (Instruction &I : instructions(F))
      checkInstruction(I);
  }

  void checkInstruction(Instruction &I) {
    if (isa<VAArgInst>(I)) {
      errorAt(I, "native va_arg", "use <stdarg.h> as chimera-cc gives it");
      return;
    }
    if (I.getType()->isX86_FP80Ty() || I.getType()->isX86_AMXTy())
      errorAt(I, "80-bit floating point",
              "there is no such type on the other ISA");
    auto *CB = dyn_cast<CallBase>(&I);
    if (!CB)
      return;
    if (CB->isInlineAsm()) {
      if (!isEmptyAsm(*cast<InlineAsm>(CB->getCalledOperand())))
        errorAt(I, "inline assembly",
                "give a C version under #ifdef __chimera__ "
                "(__builtin_ and __atomic_ functions work on every ISA)");
      return;
    }
    Function *G = CB->getCalledFunction();
    if (!G)
      return;
    if (G->getIntrinsicID() == Intrinsic::vastart)
      errorAt(I, "native va_start", "use <stdarg.h> as chimera-cc gives it");
    else if (G->getName() == "__chimera_va_start")
      errorAt(I, "va_start in a function without variable arguments",
              "it has nothing to start from");
    else if (G->isTargetIntrinsic())
      errorAt(I, Twine("intrinsic ") + G->getName(),
              "it exists on one ISA only; use portable C or vector types");
  }

  Module &M;
  bool Good = true;
};

} // namespace

bool chimera::checkPortable(Module &M) { return Checker(M).run(); }
