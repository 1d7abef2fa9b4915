// widen.cpp: parts of half-precision sums in a wider type.

#include "lower/lower.h"

namespace torch_mesh::passes {

using Kind = Instruction::Kind;

// One local op in place of all forms the sum itself, in the type that it likes.
void widen_sums(Lowering& call) {
  if (!call.plan.widens) {
    return;
  }
  Instruction widen{Kind::kWiden};
  for (size_t i = 0; i < call.plan.inputs.size(); ++i) {
    widen.slots.push_back(static_cast<int>(i));
  }
  Instruction round{Kind::kRound};
  for (size_t o = 0; o < call.plan.outputs.size(); ++o) {
    if (!call.call.results[o].is_argument) {
      round.slots.push_back(static_cast<int>(o));
    }
  }
  std::vector<Instruction>& lanes = call.to.lanes;
  lanes.insert(lanes.begin(), std::move(widen));
  lanes.push_back(std::move(round));
}

}  // namespace torch_mesh::passes
