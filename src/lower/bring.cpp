// bring.cpp: how each argument gets to the mesh and its layout.

#include "lower/lower.h"

namespace torch_mesh::passes {

using Kind = Instruction::Kind;

void bring(Lowering& call) {
  std::vector<Instruction>& to = call.to.bring;
  for (size_t i = 0; i < call.plan.inputs.size(); ++i) {
    const CallFacts::Argument& argument = call.call.arguments[i];
    const auto slot = static_cast<int>(i);
    if (!argument.is_here) {
      add(to, Kind::kSpread, slot);
    } else if (call.stands(i)) {
      add(to, argument.is_written ? Kind::kOpen : Kind::kTake, slot);
      continue;
    }
    if (call.plan.inputs[i].moves) {
      add(to, Kind::kMove, slot);
    }
  }
}

}  // namespace torch_mesh::passes
