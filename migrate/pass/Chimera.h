// SPDX-License-Identifier: GPL-2.0-or-later
//
// Shared declarations of the Chimera passes (LLVM 19 plugin).
//
// The passes, in the order in which a program meets them:
//
//   chimera-va     (per file, before optimisation)  VarArgs.cpp
//   chimera-check  (per file, after optimisation)   Check.cpp
//   chimera        (whole program, before codegen)  Plugin.cpp runs:
//       neutralise, lowerIndirectBranches           Neutral.cpp
//       insertPolls                                 Polls.cpp
//       Reach                                       Reach.cpp
//       lowerByValue                                ByValue.cpp
//       lowerDynamicAllocas                         Stack.cpp
//       FunctionRewriter: sites, pads               Sites.cpp
//                         resume clones             Resume.cpp
//       assignSections                              Layout.cpp
//
// What is written to a record, and what the run-time library expects of the
// generated code, is in ../rt/abi.h.

#ifndef CHIMERA_PASS_H
#define CHIMERA_PASS_H

#include "llvm/ADT/DenseMap.h"
#include "llvm/ADT/DenseSet.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/IR/Function.h"
#include "llvm/IR/IRBuilder.h"
#include "llvm/IR/InstIterator.h"
#include "llvm/IR/Instructions.h"
#include "llvm/IR/IntrinsicInst.h"
#include "llvm/IR/Module.h"
#include "llvm/IR/PassManager.h"
#include "llvm/Transforms/Utils/ValueMapper.h"

#include <map>
#include <string>
#include <vector>

namespace chimera {

// What may be done to a function; written as the attribute "chimera" when the
// file is compiled, so that files of different kinds can be linked together.
enum class Mode {
  None,   // native: never captured, ends a segment
  Calls,  // captured when something it calls migrates; no polls of its own
  Entry,  // and a poll at entry where recursion or loops in callers need one
  Loops,  // and polls in outer loops
};
constexpr const char ModeAttr[] = "chimera";
Mode modeOf(const llvm::Function &F);

// Why a function is not instrumented, for --explain; empty if it can be.
std::string nativeReason(const llvm::Function &F);

// Marker for an explicit migration point (chimera.h).
constexpr const char PointFn[] = "__chimera_point";
// Called when a poll or a point is reached and has something to do: returns to
// go on, or goes to the pad with the buffer for this frame's record.
constexpr const char SlowFn[] = "__chimera_poll_slow";
constexpr const char FlagVar[] = "__chimera_flag";

// VarArgs.cpp
bool lowerVariadics(llvm::Module &M);
// Check.cpp: false after printing errors.
bool checkPortable(llvm::Module &M);
// Neutral.cpp
void neutralise(llvm::Module &M);
void lowerIndirectBranches(llvm::Module &M);
void makeLocal(llvm::Module &M);
// Polls.cpp
void insertPolls(llvm::Module &M, llvm::FunctionAnalysisManager &FAM);

// Reach.cpp: the functions that can be on the stack at a migration point.
class Reach {
public:
  explicit Reach(llvm::Module &M);
  bool contains(const llvm::Function *F) const { return Set.count(F); }
  // The call may end in a migration point while this frame waits.
  bool mayMigrate(const llvm::CallBase &CB) const;
  const std::vector<llvm::Function *> &functions() const { return List; }
  void explain(llvm::raw_ostream &OS) const;

private:
  llvm::Module &M;
  llvm::DenseSet<const llvm::Function *> Set;
  llvm::DenseSet<llvm::FunctionType *> IndirectTypes;
  std::vector<llvm::Function *> List;
};

// ByValue.cpp
void lowerByValue(llvm::Module &M);

// Stack.cpp
void lowerDynamicAllocas(llvm::Function &F);
bool hasStaticAllocas(const llvm::Function &F);

// A place where a frame can be captured.
struct Site {
  unsigned Id = 0;
  // The call in the original, or the poll's call of SlowFn; its pad saves the
  // frame.
  llvm::InvokeInst *Inv = nullptr;
  bool IsPoll = false;
  // Where execution continues after it.
  llvm::BasicBlock *Cont = nullptr;
  llvm::SmallVector<llvm::Value *, 16> Live;
};

// Declarations and types used by the rewriting of every function.
struct Runtime {
  explicit Runtime(llvm::Module &M, unsigned NumFunctions);
  llvm::Module &M;
  llvm::LLVMContext &C;
  const llvm::DataLayout &DL;
  llvm::PointerType *Ptr;
  llvm::IntegerType *I8, *I32, *I64;
  llvm::StructType *Row;
  llvm::GlobalVariable *Table;
  llvm::FunctionCallee Next, Arrived, Resume;
  llvm::Constant *Personality;
  std::vector<llvm::Constant *> Rows;
  std::map<std::pair<llvm::Type *, int>, llvm::Function *> Returns;
  // A function that returns the value stored at its argument just as F would.
  llvm::Function *returnThunk(const llvm::Function *F);
  void finish();
};

// Sites.cpp and Resume.cpp
struct FrameLayout {
  llvm::SmallVector<uint64_t, 16> Offset;
  uint64_t End;  // offset from the record's start of the next record
};
FrameLayout layoutOf(llvm::ArrayRef<llvm::Value *> Live,
                     const llvm::DataLayout &DL);

class FunctionRewriter {
public:
  FunctionRewriter(llvm::Function &F, unsigned Fn, const Reach &R, Runtime &RT)
      : F(F), Fn(Fn), R(R), RT(RT) {}
  // False if there is nothing to capture, or no record is short enough.
  bool run();
  unsigned numSites() const { return Sites.size(); }
  unsigned numLive() const;

private:
  // What a record holds of V, an address of our own frame or another value:
  // addresses are biased.  The plain address of an object is often computed
  // before a call; if a pad wanted the same, the compiler would keep it in a
  // register across the call.  Nothing else wants the biased one.
  llvm::Value *bias(llvm::IRBuilder<> &B, llvm::Value *V, int By) {
    return B.CreateConstGEP1_64(RT.I8, V, By);
  }
  static constexpr int Bias = 1;

  // Values of a resume clone that its pads hand on (see Resume.cpp).
  using Carried = llvm::SmallVector<llvm::Value *, 2>;

  void makeSites();
  void findLive();
  void fillPad(llvm::BasicBlock *Pad, llvm::ArrayRef<llvm::Value *> Live,
               const Site &S, const Carried &Low);
  llvm::Function *makeClone();
  llvm::Function *makeEntryThunk(llvm::Function *Clone);

  llvm::Function &F;
  unsigned Fn;
  const Reach &R;
  Runtime &RT;
  bool Framed = false;
  std::vector<Site> Sites;
};

// Layout.cpp
void assignSections(llvm::Module &M);

} // namespace chimera

#endif
