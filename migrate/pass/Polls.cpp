// SPDX-License-Identifier: GPL-2.0-or-later
//
// Where a running program looks whether it should move.
//
//   if (__chimera_flag) [[unlikely]] __chimera_poll_slow();
//
// The poll is a load, a compare and a branch that is never taken.  The slow
// call preserves every register (preserve_all), even on the way to its pad, so
// that it costs the register allocator nothing; Sites.cpp makes the pad.
//
// Placement, so that time between polls is bounded and hot code pays little:
//  1. entry: one function on every cycle of the call graph polls on its way to
//     the calls that make the cycle.  That bounds recursion; calls that end it
//     (half of all, in a binary recursion) pay nothing.
//  2. entry: a function that is called from loops (or through pointers) and has
//     loops in loops polls at entry.
//  3. loops: a loop that contains loops; an innermost one only if nothing around
//     it polls, neither an outer loop nor a loop or a recursion of the callers,
//     and its trip count is not a small constant.
// A poll in a loop whose body calls a function that polls at entry is left
// out: the callee does it.

#include "Chimera.h"

#include "llvm/ADT/SCCIterator.h"
#include "llvm/Analysis/CallGraph.h"
#include "llvm/Analysis/LoopInfo.h"
#include "llvm/Analysis/ScalarEvolution.h"
#include "llvm/IR/Dominators.h"
#include "llvm/IR/MDBuilder.h"
#include "llvm/Transforms/Utils/BasicBlockUtils.h"

using namespace llvm;
using namespace chimera;

namespace {

// A loop that runs at most so often, around straight code, is soon over.
constexpr unsigned SmallTripCount = 1024;

bool polls(const Function &F) {
  return !F.isDeclaration() && nativeReason(F).empty() &&
         modeOf(F) >= Mode::Entry;
}

bool isRealCall(const Instruction &I) {
  auto *CB = dyn_cast<CallBase>(&I);
  return CB && !isa<IntrinsicInst>(CB) && !CB->isInlineAsm();
}

class Placer {
public:
  Placer(Module &M, FunctionAnalysisManager &FAM) : M(M), FAM(FAM) {}

  void run() {
    findRecursive();
    for (Function &F : M)
      if (!F.isDeclaration())
        scan(F);
    for (Function &F : M)
      if (polls(F))
        place(F);
  }

private:
  // Cycles of direct calls; indirect ones are covered by loop polls.
  // In each, the target of every back edge of a depth-first search polls.
  void findRecursive() {
    CallGraph CG(M);
    for (auto It = scc_begin(&CG); !It.isAtEnd(); ++It) {
      if (!It.hasCycle())
        continue;
      unsigned Id = ++NumCycles;
      SmallVector<Function *, 8> Members;
      for (CallGraphNode *N : *It)
        if (Function *F = N->getFunction(); F && !F->isDeclaration()) {
          Cycle[F] = Id;
          Members.push_back(F);
        }
      DenseMap<Function *, int> State; // 1 on the path, 2 done
      for (Function *F : Members)
        if (!State[F])
          visit(*F, State);
    }
  }

  bool staysInCycle(const Instruction &I) const {
    if (!isRealCall(I))
      return false;
    Function *G = cast<CallBase>(I).getCalledFunction();
    unsigned Id = Cycle.lookup(I.getFunction());
    return G && Id && Cycle.lookup(G) == Id;
  }

  void visit(Function &Root, DenseMap<Function *, int> &State) {
    struct Step {
      Function *F;
      SmallVector<Function *, 8> Callees;
    };
    std::vector<Step> Path;
    auto Enter = [&](Function *F) {
      State[F] = 1;
      Path.push_back({F, {}});
      for (Instruction &I : instructions(*F))
        if (staysInCycle(I))
          Path.back().Callees.push_back(
              cast<CallBase>(I).getCalledFunction());
    };
    Enter(&Root);
    while (!Path.empty()) {
      Step &S = Path.back();
      if (S.Callees.empty()) {
        State[S.F] = 2;
        Path.pop_back();
        continue;
      }
      Function *G = S.Callees.pop_back_val();
      if (State[G] == 1)
        Recursive.insert(G);
      else if (!State[G])
        Enter(G);
    }
  }

  // Where a recursive function polls: the block that dominates all calls into
  // the cycle, outside of loops.
  Instruction *recursionPoint(Function &F) {
    DominatorTree &DT = FAM.getResult<DominatorTreeAnalysis>(F);
    LoopInfo &LI = FAM.getResult<LoopAnalysis>(F);
    BasicBlock *Common = nullptr;
    for (Instruction &I : instructions(F))
      if (staysInCycle(I))
        Common = Common ? DT.findNearestCommonDominator(Common, I.getParent())
                        : I.getParent();
    // Not in a block made for it before the loop: where the function is little
    // more than that loop, the new edge costs more than the poll at entry.
    while (Loop *L = LI.getLoopFor(Common))
      Common = DT.getNode(L->getHeader())->getIDom()->getBlock();
    auto It = Common->getFirstInsertionPt();
    while (isa<AllocaInst>(&*It))
      ++It;
    return &*It;
  }

  void scan(Function &F) {
    LoopInfo &LI = FAM.getResult<LoopAnalysis>(F);
    for (Instruction &I : instructions(F))
      if (isRealCall(I)) {
        Function *G = cast<CallBase>(I).getCalledFunction();
        if (G && (LI.getLoopFor(I.getParent()) || Cycle.lookup(&F)))
          FromLoop.insert(G);
      }
    if (any_of(LI, [](Loop *L) { return !L->getSubLoops().empty(); }))
      Nested.insert(&F);
  }

  bool pollsAtEntry(Function &F) const {
    return polls(F) && !Recursive.count(&F) && Nested.count(&F) &&
           (FromLoop.count(&F) || F.hasAddressTaken());
  }

  bool wantsPoll(Loop &L, ScalarEvolution &SE) {
    for (BasicBlock *BB : L.blocks())
      for (Instruction &I : *BB)
        if (isRealCall(I))
          if (Function *G = cast<CallBase>(I).getCalledFunction())
            if (pollsAtEntry(*G) || (polls(*G) && Recursive.count(G)))
              return false;
    if (!L.getSubLoops().empty())
      return true;
    Function &F = *L.getHeader()->getParent();
    if (L.getParentLoop() || FromLoop.count(&F) || Cycle.lookup(&F))
      return false;
    unsigned Trips = SE.getSmallConstantMaxTripCount(&L);
    return Trips == 0 || Trips > SmallTripCount;
  }

  void place(Function &F) {
    SmallVector<Instruction *, 8> At;
    if (Recursive.count(&F)) {
      At.push_back(recursionPoint(F));
    } else if (pollsAtEntry(F)) {
      auto It = F.getEntryBlock().begin();
      while (isa<AllocaInst>(&*It))
        ++It;
      At.push_back(&*It);
    }
    if (modeOf(F) == Mode::Loops) {
      LoopInfo &LI = FAM.getResult<LoopAnalysis>(F);
      ScalarEvolution &SE = FAM.getResult<ScalarEvolutionAnalysis>(F);
      for (Loop *L : LI.getLoopsInPreorder())
        if (wantsPoll(*L, SE))
          At.push_back(&*L->getHeader()->getFirstInsertionPt());
    }
    for (Instruction *I : At)
      insert(I);
  }

  void insert(Instruction *Before) {
    LLVMContext &C = M.getContext();
    auto *I32 = Type::getInt32Ty(C);
    auto *Flag = cast<GlobalVariable>(M.getOrInsertGlobal(FlagVar, I32));
    FunctionCallee Slow =
        M.getOrInsertFunction(SlowFn, PointerType::get(C, 0));
    IRBuilder<> B(Before);
    LoadInst *L = B.CreateLoad(I32, Flag, "poll");
    L->setVolatile(true);
    Value *Cond = B.CreateICmpNE(L, B.getInt32(0));
    Instruction *Then = SplitBlockAndInsertIfThen(
        Cond, Before, false, MDBuilder(C).createUnlikelyBranchWeights());
    B.SetInsertPoint(Then);
    B.SetCurrentDebugLocation(Before->getDebugLoc());
    CallInst *CI = B.CreateCall(Slow);
    CI->setCallingConv(CallingConv::PreserveAll);
  }

  Module &M;
  FunctionAnalysisManager &FAM;
  unsigned NumCycles = 0;
  DenseMap<Function *, unsigned> Cycle; // 0: in none
  DenseSet<Function *> Recursive;       // polls for its cycle
  DenseSet<Function *> FromLoop;        // called where something may poll
  DenseSet<Function *> Nested;          // has loops in loops
};

// An explicit migration point is a poll without the test.
void expandPoints(Module &M) {
  Function *Point = M.getFunction(PointFn);
  if (!Point)
    return;
  FunctionCallee Slow =
      M.getOrInsertFunction(SlowFn, PointerType::get(M.getContext(), 0));
  SmallVector<CallInst *, 8> Calls;
  for (User *U : Point->users())
    if (auto *CI = dyn_cast<CallInst>(U))
      if (CI->getCalledFunction() == Point)
        Calls.push_back(CI);
  for (CallInst *CI : Calls) {
    // A native function cannot be captured: nothing to do there.
    if (nativeReason(*CI->getFunction()).empty()) {
      IRBuilder<> B(CI);
      B.CreateCall(Slow)->setCallingConv(CallingConv::PreserveAll);
    }
    CI->eraseFromParent();
  }
}

} // namespace

void chimera::insertPolls(Module &M, FunctionAnalysisManager &FAM) {
  Placer(M, FAM).run();
  expandPoints(M);
  if (Function *Slow = M.getFunction(SlowFn))
    Slow->setCallingConv(CallingConv::PreserveAll);
}
