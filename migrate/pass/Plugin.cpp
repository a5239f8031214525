// SPDX-License-Identifier: GPL-2.0-or-later
//
// Registration and the order of the steps.

#include "Chimera.h"

#include "llvm/IR/Verifier.h"
#include "llvm/Passes/PassBuilder.h"
#include "llvm/Passes/PassPlugin.h"
#include "llvm/Support/CommandLine.h"
#include "llvm/Support/ErrorHandling.h"
#include "llvm/Support/raw_ostream.h"

using namespace llvm;
using namespace chimera;

static cl::opt<std::string>
    MigrateMode("chimera-migrate", cl::init("loops"),
                cl::desc("none, calls, entry or loops: what may be done to "
                         "the functions of this file"));
static cl::opt<std::string>
    ExplainFile("chimera-explain", cl::init(""),
                cl::desc("write to this file which functions can migrate"));
static cl::opt<bool> Stats("chimera-stats", cl::init(false),
                           cl::desc("print numbers of functions and sites"));

Runtime::Runtime(Module &M, unsigned NumFunctions)
    : M(M), C(M.getContext()), DL(M.getDataLayout()),
      Ptr(PointerType::get(C, 0)), I8(Type::getInt8Ty(C)),
      I32(Type::getInt32Ty(C)), I64(Type::getInt64Ty(C)),
      Row(StructType::get(Ptr, Ptr, Ptr)), Rows(NumFunctions) {
  auto *Void = Type::getVoidTy(C);
  Table = new GlobalVariable(M, ArrayType::get(Row, NumFunctions), true,
                             GlobalValue::ExternalLinkage, nullptr,
                             "__chimera_table");
  Table->setSection("chimera_table");
  Next = M.getOrInsertFunction("__chimera_next", Void, Ptr);
  Arrived = M.getOrInsertFunction("__chimera_arrived", Void);
  Resume = M.getOrInsertFunction("__chimera_resume", Void, Ptr);
  for (FunctionCallee F : {Next, Arrived}) {
    auto *Fn = cast<Function>(F.getCallee());
    Fn->addFnAttr(Attribute::Cold);
    Fn->addFnAttr(Attribute::NoUnwind);
  }
  Personality =
      cast<Constant>(M.getOrInsertFunction("__chimera_personality", I32)
                         .getCallee());
}

Function *Runtime::returnThunk(const Function *F) {
  Type *T = F->getReturnType();
  int Ext = F->getAttributes().hasRetAttr(Attribute::ZExt)   ? 1
            : F->getAttributes().hasRetAttr(Attribute::SExt) ? 2
                                                             : 0;
  Function *&Thunk = Returns[{T, Ext}];
  if (Thunk)
    return Thunk;
  Thunk = Function::Create(FunctionType::get(T, {Ptr}, false),
                           GlobalValue::InternalLinkage, "chimera.return", M);
  Thunk->setSection("chimera_thunks");
  if (Ext)
    Thunk->addRetAttr(Ext == 1 ? Attribute::ZExt : Attribute::SExt);
  IRBuilder<> B(BasicBlock::Create(C, "", Thunk));
  if (T->isVoidTy())
    B.CreateRetVoid();
  else
    B.CreateRet(B.CreateAlignedLoad(T, Thunk->getArg(0), Align(16)));
  return Thunk;
}

void Runtime::finish() {
  for (Constant *&Row : Rows)
    if (!Row)
      Row = ConstantAggregateZero::get(this->Row);
  Table->setInitializer(
      ConstantArray::get(cast<ArrayType>(Table->getValueType()), Rows));
}

namespace {

struct VaPass : PassInfoMixin<VaPass> {
  static bool isRequired() { return true; }
  PreservedAnalyses run(Module &M, ModuleAnalysisManager &) {
    for (Function &F : M)
      if (!F.isDeclaration() && !F.hasFnAttribute(ModeAttr))
        F.addFnAttr(ModeAttr, MigrateMode);
    return lowerVariadics(M) ? PreservedAnalyses::none()
                             : PreservedAnalyses::all();
  }
};

struct CheckPass : PassInfoMixin<CheckPass> {
  static bool isRequired() { return true; }
  PreservedAnalyses run(Module &M, ModuleAnalysisManager &) {
    checkPortable(M);
    return PreservedAnalyses::all();
  }
};

struct ChimeraPass : PassInfoMixin<ChimeraPass> {
  static bool isRequired() { return true; }
  PreservedAnalyses run(Module &M, ModuleAnalysisManager &MAM) {
    auto &FAM =
        MAM.getResult<FunctionAnalysisManagerModuleProxy>(M).getManager();
    neutralise(M);
    lowerIndirectBranches(M);
    insertPolls(M, FAM);
    Reach R(M);
    if (!R.functions().empty())
      lowerByValue(M);
    Runtime RT(M, R.functions().size() + 1);
    unsigned Fn = 1, NumSites = 0, NumLive = 0;
    for (Function *F : R.functions()) {
      FunctionRewriter W(*F, Fn++, R, RT);
      W.run();
      NumSites += W.numSites();
      NumLive += W.numLive();
    }
    RT.finish();
    assignSections(M);
    makeLocal(M);
    if (!ExplainFile.empty()) {
      std::error_code EC;
      raw_fd_ostream OS(ExplainFile, EC);
      if (EC)
        report_fatal_error(Twine("chimera: ") + ExplainFile + ": " +
                           EC.message());
      R.explain(OS);
    }
    if (Stats)
      errs() << "chimera: " << R.functions().size() << " functions, "
             << NumSites << " sites, " << NumLive << " live values\n";
    if (verifyModule(M, &errs()))
      report_fatal_error("chimera: the module is broken; this is a bug");
    return PreservedAnalyses::none();
  }
};

} // namespace

extern "C" LLVM_ATTRIBUTE_WEAK PassPluginLibraryInfo llvmGetPassPluginInfo() {
  return {LLVM_PLUGIN_API_VERSION, "chimera", "1", [](PassBuilder &PB) {
            PB.registerPipelineStartEPCallback(
                [](ModulePassManager &MPM, OptimizationLevel) {
                  MPM.addPass(VaPass());
                });
            PB.registerOptimizerLastEPCallback(
                [](ModulePassManager &MPM, OptimizationLevel) {
                  MPM.addPass(CheckPass());
                });
            PB.registerPipelineParsingCallback(
                [](StringRef Name, ModulePassManager &MPM,
                   ArrayRef<PassBuilder::PipelineElement>) {
                  if (Name == "chimera-va")
                    MPM.addPass(VaPass());
                  else if (Name == "chimera-check")
                    MPM.addPass(CheckPass());
                  else if (Name == "chimera")
                    MPM.addPass(ChimeraPass());
                  else
                    return false;
                  return true;
                });
          }};
}
