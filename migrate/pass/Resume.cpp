// SPDX-License-Identifier: GPL-2.0-or-later
//
// Resume clones: `T f$resume(rec)` re-enters f at the site named in the
// record, with the values saved there.
//
//   resume.entry:  switch (rec->site)
//   resume.N:      load the live values; resume the inner frame (an invoke:
//                  the thread may move again while it runs), or, at a poll,
//                  tell the run-time library that the thread has arrived;
//                  continue in the middle of the cloned body
//
// __chimera_resume(rec) calls the clone of a record, of whatever type, on the part
// of the stack that is to be its (rt/capture.c, invariant 4).
//
// Invariants:
//  1. The invoke that resumes the inner frame has its own pad (Sites.cpp,
//     invariant 1), which saves the values just loaded: they are still those
//     of the site.
//  2. A clone makes no objects of its own but those for a debugger; it uses
//     the addresses that the original saved.  It hands on, in every record it
//     writes, which stack memory those need and where it was called (REC_LOW,
//     REC_PLACE).
//  3. Aliasing metadata is dropped: slots that the original shared between
//     objects of different lifetimes are plain memory here.
//  4. The original's entry block is not reachable.

#include "../rt/abi.h"
#include "Chimera.h"

#include "llvm/IR/DebugInfo.h"
#include "llvm/IR/DIBuilder.h"
#include "llvm/Transforms/Utils/BasicBlockUtils.h"
#include "llvm/Transforms/Utils/Cloning.h"
#include "llvm/Transforms/Utils/Local.h"
#include "llvm/Transforms/Utils/SSAUpdater.h"

using namespace llvm;
using namespace chimera;

namespace {

void dropAliasing(Function &F) {
  SmallVector<Instruction *, 8> Dead;
  for (Instruction &I : instructions(F)) {
    I.setMetadata(LLVMContext::MD_tbaa, nullptr);
    I.setMetadata(LLVMContext::MD_tbaa_struct, nullptr);
    I.setMetadata(LLVMContext::MD_alias_scope, nullptr);
    I.setMetadata(LLVMContext::MD_noalias, nullptr);
    if (auto *II = dyn_cast<IntrinsicInst>(&I))
      if (II->isLifetimeStartOrEnd() ||
          II->getIntrinsicID() ==
              Intrinsic::experimental_noalias_scope_decl)
        Dead.push_back(II);
  }
  for (Instruction *I : Dead)
    I->eraseFromParent();
}

using Definitions = std::vector<std::pair<BasicBlock *, Value *>>;

// Gives every use of V in the clone the definition that reaches it.
void repair(Instruction *V, const Definitions &Defs) {
  SSAUpdater U;
  U.Initialize(V->getType(), V->hasName() ? V->getName() : "live");
  U.AddAvailableValue(V->getParent(), V);
  for (auto &[BB, D] : Defs)
    U.AddAvailableValue(BB, D);
  SmallVector<Use *, 16> Uses;
  for (Use &X : V->uses())
    Uses.push_back(&X);
  for (Use *X : Uses) {
    auto *I = cast<Instruction>(X->getUser());
    BasicBlock *BB = I->getParent();
    if (auto *Phi = dyn_cast<PHINode>(I))
      BB = Phi->getIncomingBlock(*X);
    // After the definition in its own block; a call's value has none there.
    if (BB == V->getParent() && !isa<InvokeInst>(V))
      continue;
    U.RewriteUse(*X);
  }
  // A debugger must see the same definition, or none.
  SmallVector<DbgVariableIntrinsic *, 2> Old;
  SmallVector<DbgVariableRecord *, 4> Records;
  findDbgUsers(Old, V, &Records);
  for (DbgVariableRecord *D : Records) {
    BasicBlock *BB = D->getParent();
    if (BB == V->getParent() && !isa<InvokeInst>(V))
      continue;
    if (U.HasValueForBlock(BB))
      D->replaceVariableLocationOp(V, U.GetValueAtEndOfBlock(BB), true);
    else
      D->setKillLocation();
  }
}

// The variables that live in V, an object of the original's frame.
SmallVector<DbgVariableRecord *, 2> variablesIn(Instruction *V) {
  SmallVector<DbgVariableRecord *, 2> List;
  if (!isa<AllocaInst>(V))
    return List;
  for (DbgVariableRecord *D : findDVRDeclares(V))
    List.push_back(D);
  DenseSet<DebugVariable> Seen;
  for (DbgVariableRecord *D : at::getDVRAssignmentMarkers(V))
    if (D->getAddress() == V && Seen.insert(DebugVariable(D)).second)
      List.push_back(D);
  return List;
}

// For a debugger: a slot in the clone's frame that holds the address of object V
// of the original's, or null before a site that does not know it.  Nothing reads
// the slot, so it need not travel.
AllocaInst *describeObject(Instruction *V, BasicBlock *Entry) {
  auto Variables = variablesIn(V);
  if (Variables.empty())
    return nullptr;
  IRBuilder<> B(Entry, Entry->begin());
  AllocaInst *Slot = B.CreateAlloca(V->getType(), nullptr, "debug");
  B.SetInsertPoint(Entry->getTerminator());
  B.CreateStore(ConstantPointerNull::get(cast<PointerType>(V->getType())),
                Slot);
  for (DbgVariableRecord *D : Variables) {
    const DIExpression *E =
        D->isDbgAssign() ? D->getAddressExpression() : D->getExpression();
    // A part of a variable that was split up says so in the other expression.
    if (D->getExpression()->getFragmentInfo() && D->isDbgAssign())
      continue;
    Entry->insertDbgRecordBefore(
        DbgVariableRecord::createDVRDeclare(
            Slot, D->getVariable(),
            DIExpression::prepend(E, DIExpression::DerefBefore),
            D->getDebugLoc()),
        Entry->getTerminator()->getIterator());
  }
  return Slot;
}

} // namespace

Function *FunctionRewriter::makeClone() {
  auto *Clone = Function::Create(
      FunctionType::get(F.getReturnType(), {RT.Ptr}, false),
      GlobalValue::InternalLinkage, F.getName() + "$resume", RT.M);

  // Arguments become values of the (unreachable) old entry block.
  ValueToValueMapTy Map;
  SmallVector<Instruction *, 8> Placeholders;
  for (Argument &A : F.args()) {
    auto *P = new FreezeInst(PoisonValue::get(A.getType()));
    P->setName(A.getName());
    Map[&A] = P;
    Placeholders.push_back(P);
  }
  SmallVector<ReturnInst *, 8> Returns;
  AttributeList Attrs = F.getAttributes();
  CloneFunctionInto(Clone, &F, Map, CloneFunctionChangeType::LocalChangesOnly,
                    Returns);
  Clone->setAttributes(
      AttributeList::get(RT.C, Attrs.getFnAttrs(), AttributeSet(), {}));
  Clone->addFnAttr(Attribute::Cold);
  Clone->addFnAttr(Attribute::NoInline);
  Clone->setCallingConv(CallingConv::C);
  Clone->setLinkage(GlobalValue::InternalLinkage);
  Clone->setVisibility(GlobalValue::DefaultVisibility);
  Clone->setComdat(nullptr);
  Clone->setPersonalityFn(RT.Personality);
  BasicBlock *OldEntry = &Clone->getEntryBlock();
  for (Instruction *P : Placeholders)
    P->insertBefore(OldEntry->getFirstInsertionPt());
  dropAliasing(*Clone);

  auto *Entry = BasicBlock::Create(RT.C, "resume.entry", Clone, OldEntry);
  auto *Bad = BasicBlock::Create(RT.C, "resume.bad", Clone);
  new UnreachableInst(RT.C, Bad);
  IRBuilder<> B(Entry);
  Argument *Rec = Clone->getArg(0);
  Rec->setName("rec");
  auto Field = [&](IRBuilder<> &At, uint64_t Offset) {
    return At.CreateConstGEP1_64(RT.I8, Rec, Offset);
  };
  Carried Low;
  for (unsigned I = 0; I < REC_CARRIED_WORDS; I++)
    Low.push_back(B.CreateLoad(RT.I64, Field(B, REC_LOW + 8 * I), "low"));
  SwitchInst *SW = B.CreateSwitch(B.CreateLoad(RT.I32, Field(B, REC_SITE)),
                                  Bad, Sites.size());
  DebugLoc Start;
  if (DISubprogram *SP = Clone->getSubprogram())
    Start = DILocation::get(RT.C, SP->getLine(), 0, SP);

  MapVector<Instruction *, Definitions> Defs;
  DenseMap<Value *, AllocaInst *> Slots;
  for (Instruction &I : F.getEntryBlock())
    if (isa<AllocaInst>(I))
      if (AllocaInst *Slot = describeObject(cast<Instruction>(Map[&I]), Entry))
        Slots[&I] = Slot;

  for (Site &S : Sites) {
    SmallVector<Value *, 16> Live, Loaded;
    for (Value *V : S.Live)
      Live.push_back(Map[V]);
    FrameLayout L = layoutOf(Live, RT.DL);

    auto *BB = BasicBlock::Create(RT.C, "resume." + Twine(S.Id), Clone,
                                  OldEntry);
    SW->addCase(B.getInt32(S.Id), BB);
    IRBuilder<> D(BB);
    auto *Inv = cast<InvokeInst>(Map[S.Inv]);
    D.SetCurrentDebugLocation(Inv->getDebugLoc() ? Inv->getDebugLoc() : Start);
    for (unsigned I = 0; I < Live.size(); I++) {
      Type *T = Live[I]->getType();
      uint64_t A =
          std::min<uint64_t>(16, RT.DL.getABITypeAlign(T).value());
      Value *V = D.CreateAlignedLoad(T, Field(D, L.Offset[I]), Align(A),
                                     Live[I]->getName());
      if (isa<AllocaInst>(S.Live[I]))
        V = bias(D, V, -Bias);
      if (AllocaInst *Slot = Slots.lookup(S.Live[I]))
        D.CreateStore(V, Slot);
      Loaded.push_back(V);
      Defs[cast<Instruction>(Live[I])].push_back({BB, V});
    }

    BasicBlock *Pad = Inv->getUnwindDest();
    Pad->getTerminator()->eraseFromParent();
    fillPad(Pad, Live, S, Low);
    if (S.IsPoll) {
      D.CreateCall(RT.Arrived, {});
      D.CreateBr(Inv->getNormalDest());
    } else {
      Value *Inner = D.CreateLoad(RT.Ptr, Field(D, REC_INNER), "inner");
      auto *InnerPad = BasicBlock::Create(RT.C, "resume.pad", Clone);
      InvokeInst *Again = D.CreateInvoke(
          FunctionType::get(Inv->getType(), {RT.Ptr}, false),
          RT.Resume.getCallee(), Inv->getNormalDest(), InnerPad, {Inner});
      if (!Inv->getType()->isVoidTy())
        Defs[Inv].push_back({BB, Again});
      fillPad(InnerPad, Loaded, S, Low);
    }
  }

  for (auto &[V, D] : Defs)
    repair(V, D);
  EliminateUnreachableBlocks(*Clone);
  return Clone;
}

// void f$entry(rec, result): the outermost frame of a segment is resumed from
// the run-time library, which does not know its type.
Function *FunctionRewriter::makeEntryThunk(Function *Clone) {
  auto *Thunk = Function::Create(
      FunctionType::get(Type::getVoidTy(RT.C), {RT.Ptr, RT.Ptr}, false),
      GlobalValue::InternalLinkage, F.getName() + "$entry", RT.M);
  Thunk->setUWTableKind(UWTableKind::Sync);
  Thunk->setSection("chimera_thunks");
  Thunk->addFnAttr(Attribute::Cold);
  Thunk->addFnAttr(Attribute::NoInline);
  IRBuilder<> B(BasicBlock::Create(RT.C, "", Thunk));
  CallInst *CI =
      B.CreateCall(FunctionType::get(Clone->getReturnType(), {RT.Ptr}, false),
                   RT.Resume.getCallee(), {Thunk->getArg(0)});
  if (!Clone->getReturnType()->isVoidTy())
    B.CreateStore(CI, Thunk->getArg(1));
  B.CreateRetVoid();
  return Thunk;
}
