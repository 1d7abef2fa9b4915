// call.cpp: the local op on lanes, and on joined shards; what it yields.

#include "lower/lower.h"

namespace torch_mesh::passes {

using Kind = Instruction::Kind;

namespace {

// Lanes that write into shards of one storage may leave it half written. A
// single local op leaves its destination as the plain op leaves it.
std::vector<int> half_written(const Lowering& call) {
  std::vector<int> slots;
  const Plan& plan = call.plan.plan;
  for (size_t i = 0; i < call.call.arguments.size(); ++i) {
    if (plan.mesh.lanes(plan.executed_on).num > 1 &&
        call.call.arguments[i].is_written && call.stands(i)) {
      slots.push_back(static_cast<int>(i));
    }
  }
  return slots;
}

}  // namespace

void call_local(Lowering& call) {
  const LoweredPlan& plan = call.plan;
  const Kind on = call.call.draws_once ? Kind::kCallOnce : Kind::kCallLanes;
  call.to.lanes.push_back({on, half_written(call)});
  const bool joins = plan.joins && !call.call.is_python;
  if (joins) {
    call.to.joined.push_back({Kind::kCallJoined});
  }
  if (plan.plan.kind != Plan::Kind::kLocal) {
    call.to.lanes.push_back({Kind::kCopy});
    return;
  }
  for (size_t o = 0; o < plan.outputs.size(); ++o) {
    if (call.call.results[o].is_argument) {
      continue;
    }
    const auto slot = static_cast<int>(o);
    add(call.to.lanes, plan.outputs[o].folds ? Kind::kFold : Kind::kPick, slot);
    if (joins) {
      add(call.to.joined, Kind::kCut, slot);
    }
  }
}

}  // namespace torch_mesh::passes
