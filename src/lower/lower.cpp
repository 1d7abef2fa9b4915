// lower.cpp: the order of the passes.

#include "lower/lower.h"

namespace torch_mesh {

namespace passes {

bool Lowering::stands(size_t argument) const {
  const LoweredPlan::Input& input = plan.inputs[argument];
  const CallFacts::Argument& fact = call.arguments[argument];
  return fact.is_here &&
         (!input.moves || (input.reduces_only && !fact.is_read_in_parts));
}

}  // namespace passes

Instructions lower(const LoweredPlan& plan, const CallFacts& call) {
  passes::Lowering lowering{plan, call};
  passes::bring(lowering);
  passes::form_sums(lowering);
  passes::keep_order(lowering);
  passes::own_copies(lowering);
  passes::call_local(lowering);
  passes::share_parts(lowering);
  passes::widen_sums(lowering);
  passes::commit(lowering);
  return std::move(lowering.to);
}

}  // namespace torch_mesh
