// SPDX-License-Identifier: GPL-2.0-or-later
//
// Gives data a layout that does not depend on the ISA.
//
// Every variable goes to a section of ours by kind, with an explicit alignment;
// the back ends emit them in the same order, so the sections are equal byte for
// byte in size and symbol offsets, and the driver places them at the same
// addresses and checks that afterwards.  Functions have a section each
// (-function-sections) and are placed by the driver at the larger of the two
// sizes.

#include "Chimera.h"

using namespace llvm;

void chimera::assignSections(Module &M) {
  const DataLayout &DL = M.getDataLayout();
  for (GlobalVariable &G : M.globals()) {
    if (G.isDeclaration() || G.getName().starts_with("llvm."))
      continue;
    if (!G.getAlign())
      G.setAlignment(DL.getPreferredAlign(&G));
    if (G.hasCommonLinkage() || G.hasLinkOnceLinkage() || G.hasWeakODRLinkage())
      G.setLinkage(GlobalValue::ExternalLinkage);
    G.setComdat(nullptr);
    if (G.hasSection())
      continue;
    bool Zero = G.getInitializer()->isNullValue();
    if (G.isThreadLocal())
      G.setSection(Zero ? ".tbss.chimera" : ".tdata.chimera");
    else if (G.isConstant())
      G.setSection("chimera_rodata");
    else
      G.setSection(Zero ? ".bss.chimera" : "chimera_data");
  }
}
