// SPDX-License-Identifier: GPL-2.0-or-later
//
// Sites: the places where a frame can be captured, what is live there, and the
// code that saves it.
//
// A call that may migrate becomes an invoke.  When the thread moves, the
// run-time library unwinds frame by frame into the invokes' landing pads; a pad
// stores the live values to the record it is handed and asks for the next
// frame.  The path on which nobody moves does not change.  A poll's slow call is
// such a call, too; the library goes from there to its pad with all registers as
// they were, so that what is live in a loop can stay in any of them.
//
// The code generator puts pads to sections of their own, apart from the code that
// runs (.text.split, driver/link.c).
//
// Invariants:
//  1. A pad has exactly one predecessor.  (LLVM 19's PHIElimination places the
//     copies of a pad with several wrongly; tests/migrate/hanoi.c.)  Nothing
//     after this pass simplifies the CFG.
//  2. A pad calls nothing but __chimera_next, which does not return: below the
//     frame lie others that must not change.
//  3. Live means: may be used after the continuation is entered and was
//     defined before.  A static alloca is a value like others: its address;
//     without optimisation those of the program's variables are always live.
//  4. A call in tail position without anything live stays a call, so that it
//     can be a jump.  If it is not made one, the segment ends there.

#include "../rt/abi.h"
#include "Chimera.h"

#include "llvm/ADT/BitVector.h"
#include "llvm/IR/CFG.h"
#include "llvm/IR/DebugInfo.h"
#include "llvm/Transforms/Utils/BasicBlockUtils.h"
#include "llvm/Transforms/Utils/Local.h"

using namespace llvm;
using namespace chimera;

namespace {

bool isPoll(const CallBase &CB) {
  const Function *G = CB.getCalledFunction();
  return G && G->getName() == SlowFn;
}

bool isTailPosition(const CallInst &CI) {
  if (CI.isMustTailCall())
    return true;
  if (!CI.isTailCall())
    return false;
  const Instruction *Next = CI.getNextNonDebugInstruction();
  auto *Ret = dyn_cast_or_null<ReturnInst>(Next);
  return Ret && (!Ret->getReturnValue() || Ret->getReturnValue() == &CI ||
                 isa<UndefValue>(Ret->getReturnValue()));
}

bool isStorable(const Type *T) {
  return !T->isVoidTy() && !T->isTokenTy() && !T->isLabelTy() &&
         !T->isMetadataTy();
}

void dropPromises(CallBase &CB) {
  CB.removeFnAttr(Attribute::NoUnwind);
  CB.removeFnAttr(Attribute::Memory);
  CB.removeFnAttr(Attribute::WillReturn);
}

} // namespace

FrameLayout chimera::layoutOf(ArrayRef<Value *> Live, const DataLayout &DL) {
  FrameLayout L;
  uint64_t Offset = REC_VALUES;
  for (Value *V : Live) {
    uint64_t A =
        std::min<uint64_t>(16, DL.getABITypeAlign(V->getType()).value());
    Offset = alignTo(Offset, A);
    L.Offset.push_back(Offset);
    Offset += DL.getTypeAllocSize(V->getType());
  }
  L.End = alignTo(Offset, 16);
  return L;
}

unsigned FunctionRewriter::numLive() const {
  unsigned N = 0;
  for (const Site &S : Sites)
    N += S.Live.size();
  return N;
}

void FunctionRewriter::makeSites() {
  SmallVector<CallInst *, 16> Calls;
  for (Instruction &I : instructions(F)) {
    auto *CI = dyn_cast<CallInst>(&I);
    if (!CI || isa<IntrinsicInst>(CI))
      continue;
    if (isPoll(*CI) || (R.mayMigrate(*CI) && !isTailPosition(*CI)))
      Calls.push_back(CI);
  }

  for (CallInst *CI : Calls) {
    auto *Pad = BasicBlock::Create(RT.C, "mig.pad", &F);
    new UnreachableInst(RT.C, Pad);
    BasicBlock *BB = CI->getParent();
    changeToInvokeAndSplitBasicBlock(CI, Pad);
    Site S;
    S.Inv = cast<InvokeInst>(BB->getTerminator());
    S.IsPoll = isPoll(*S.Inv);
    dropPromises(*S.Inv);
    S.Cont = S.Inv->getNormalDest();
    assert(S.Cont->getSinglePredecessor());
    Sites.push_back(S);
  }
}

// Backward dataflow; the uses of a PHI belong to the edges it comes from.
void FunctionRewriter::findLive() {
  std::vector<Value *> Values;
  DenseMap<Value *, unsigned> Index;
  auto Add = [&](Value *V) {
    if (isStorable(V->getType()) && !V->use_empty()) {
      Index[V] = Values.size();
      Values.push_back(V);
    }
  };
  for (Argument &A : F.args())
    Add(&A);
  for (Instruction &I : instructions(F))
    Add(&I);

  unsigned N = Values.size();
  struct Sets {
    BitVector Use, Def, In, PhiOut;
  };
  DenseMap<BasicBlock *, Sets> Blocks;
  for (BasicBlock &BB : F)
    Blocks[&BB] = {BitVector(N), BitVector(N), BitVector(N), BitVector(N)};
  for (BasicBlock &BB : F) {
    Sets &S = Blocks[&BB];
    for (Instruction &I : BB) {
      if (auto *Phi = dyn_cast<PHINode>(&I)) {
        for (unsigned K = 0; K < Phi->getNumIncomingValues(); K++) {
          auto It = Index.find(Phi->getIncomingValue(K));
          if (It != Index.end())
            Blocks[Phi->getIncomingBlock(K)].PhiOut.set(It->second);
        }
      } else {
        for (Value *Op : I.operands()) {
          auto It = Index.find(Op);
          if (It != Index.end() && !S.Def[It->second])
            S.Use.set(It->second);
        }
      }
      auto It = Index.find(&I);
      if (It != Index.end())
        S.Def.set(It->second);
    }
  }
  // Worklist over predecessors, seeded with every block, last first.
  SmallVector<BasicBlock *, 64> Work;
  DenseSet<BasicBlock *> Queued;
  for (BasicBlock &BB : F) {
    Work.push_back(&BB);
    Queued.insert(&BB);
  }
  while (!Work.empty()) {
    BasicBlock *BB = Work.pop_back_val();
    Queued.erase(BB);
    Sets &S = Blocks[BB];
    BitVector In = S.PhiOut;
    for (BasicBlock *Succ : successors(BB))
      In |= Blocks[Succ].In;
    In.reset(S.Def);
    In |= S.Use;
    if (In == S.In)
      continue;
    S.In = std::move(In);
    for (BasicBlock *Pred : predecessors(BB))
      if (Queued.insert(Pred).second)
        Work.push_back(Pred);
  }
  // Without optimisation a debugger may ask for any object at any time.
  BitVector Always(N);
  if (F.hasOptNone())
    for (unsigned I = 0; I < N; I++)
      if (isa<AllocaInst>(Values[I]) && !findDVRDeclares(Values[I]).empty())
        Always.set(I);
  for (Site &S : Sites) {
    BitVector Live = Blocks[S.Cont].In;
    Live |= Always;
    for (unsigned I : Live.set_bits())
      if (Values[I] != S.Inv)
        S.Live.push_back(Values[I]);
  }
}

void FunctionRewriter::fillPad(BasicBlock *Pad, ArrayRef<Value *> Live,
                               const Site &S, const Carried &Low) {
  IRBuilder<> B(Pad);
  LandingPadInst *LP =
      B.CreateLandingPad(StructType::get(RT.Ptr, RT.I32), 0, "frame");
  LP->setCleanup(true);
  Value *Buffer = B.CreateExtractValue(LP, 0);
  auto At = [&](uint64_t Offset) {
    return B.CreateConstGEP1_64(RT.I8, Buffer, Offset);
  };
  B.CreateStore(B.getInt64(Fn | uint64_t(S.Id) << 32), At(REC_FN));
  unsigned Flags = Framed ? REC_F_FRAME : 0;
  if (!Low.empty()) {
    Flags = REC_F_CLONE;
    for (unsigned I = 0; I < Low.size(); I++)
      B.CreateStore(Low[I], At(REC_LOW + 8 * I));
  }
  B.CreateStore(B.getInt32(Flags), At(REC_FLAGS));
  FrameLayout L = layoutOf(Live, RT.DL);
  for (unsigned I = 0; I < Live.size(); I++) {
    uint64_t A =
        std::min<uint64_t>(16, RT.DL.getABITypeAlign(Live[I]->getType()).value());
    Value *V = isa<AllocaInst>(S.Live[I]) ? bias(B, Live[I], Bias) : Live[I];
    B.CreateAlignedStore(V, At(L.Offset[I]), Align(A));
  }
  CallInst *CI = B.CreateCall(RT.Next, {At(L.End)});
  CI->setDoesNotReturn();
  B.CreateUnreachable();
}

bool FunctionRewriter::run() {
  // Even if it has no sites: its tail calls may migrate.
  F.removeFnAttr(Attribute::NoUnwind);
  F.removeFnAttr(Attribute::Memory);
  F.removeFnAttr(Attribute::WillReturn);
  lowerDynamicAllocas(F);
  Framed = hasStaticAllocas(F);
  makeSites();
  if (Sites.empty())
    return false;
  findLive();

  // Sites with too much to carry are none.
  std::vector<Site> Kept;
  for (Site &S : Sites) {
    if (layoutOf(S.Live, RT.DL).End <= REC_MAX_BYTES) {
      S.Id = Kept.size() + 1;
      Kept.push_back(S);
    } else {
      BasicBlock *Pad = S.Inv->getUnwindDest();
      CallInst *CI = changeToCall(S.Inv);
      if (S.IsPoll)
        CI->eraseFromParent();
      Pad->eraseFromParent();
    }
  }
  Sites = std::move(Kept);
  if (Sites.empty())
    return false;

  F.setUWTableKind(UWTableKind::Sync);
  F.setPersonalityFn(RT.Personality);

  Function *Clone = makeClone();
  for (Site &S : Sites) {
    BasicBlock *Pad = S.Inv->getUnwindDest();
    Pad->getTerminator()->eraseFromParent();
    fillPad(Pad, S.Live, S, {});
  }
  Function *Entry = makeEntryThunk(Clone);
  RT.Rows[Fn] =
      ConstantStruct::get(RT.Row, Clone, Entry, RT.returnThunk(&F));
  return true;
}
