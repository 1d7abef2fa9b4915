// parts.cpp: lanes of one memory that share a part of a sum.

#include "lower/lower.h"

namespace torch_mesh::passes {

using Kind = Instruction::Kind;

// Devices in one memory hold a partial sum in one buffer, which the first of
// them reads; the others read -0.0. A write in place (index_put_, addmm_) needs
// a buffer for each of the others, and what they wrote is added at the end.
void share_parts(Lowering& call) {
  std::vector<int> shared;
  for (size_t i = 0; i < call.plan.inputs.size(); ++i) {
    if (call.call.arguments[i].is_written &&
        !call.plan.inputs[i].reads_zero.empty()) {
      shared.push_back(static_cast<int>(i));
    }
  }
  if (!shared.empty()) {
    std::vector<Instruction>& lanes = call.to.lanes;
    lanes.insert(lanes.begin(), {Kind::kZeros, shared});
    lanes.insert(lanes.begin() + 2, {Kind::kAdd, shared});
  }
}

}  // namespace torch_mesh::passes
