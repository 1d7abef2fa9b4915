// lower_call.cpp: what a call says beside its plan.

#include <algorithm>

#include "lower/lower.h"
#include "run/executor.h"
#include "tensor/global_tensor.h"

namespace torch_mesh {
namespace {

// Adds which arguments lie in one storage. False if none do. Sums that are read
// and copies of what is written depend on it, so only a plan that moves
// something has to know.
bool find_aliases(
    const LoweredPlan& plan,
    const CallTensors& tensors,
    std::vector<CallFacts::Argument>& arguments) {
  bool any = false;
  for (size_t i = 0; i < arguments.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      const CallTensors::Entry& one = tensors.entries[i];
      const CallTensors::Entry& other = tensors.entries[j];
      if (!one.is_global || !other.is_global ||
          !one.tensor->is_alias_of(*other.tensor)) {
        continue;
      }
      any = true;
      arguments[i].is_aliased = arguments[j].is_aliased = true;
      arguments[i].is_read_in_parts |=
          plan.plan.inputs[j].redistribution.to.has_partial();
      arguments[j].is_read_in_parts |=
          plan.plan.inputs[i].redistribution.to.has_partial();
    }
  }
  return any;
}

// Rules give lists to ops that return one list and nothing else.
std::vector<CallFacts::Result> results_of(
    const Op& op,
    const LoweredPlan& plan,
    const CallTensors& tensors) {
  const size_t num = plan.plan.kind == Plan::Kind::kLocal ? plan.outputs.size()
                                                          : plan.windows.size();
  std::vector<CallFacts::Result> results;
  for (const OpSchema::Param& returned : op.schema.returns) {
    const CallFacts::Result result{
        returned.is_written, viewed_argument(op, tensors, returned.alias)};
    if (returned.is_tensor_list) {
      results.resize(num, result);
    } else if (returned.is_tensor && results.size() < num) {
      results.push_back(result);
    }
  }
  return results;
}

// `arguments`: what find_aliases says of them, if it was asked.
CallFacts facts_of(
    const Op& op,
    const LoweredPlan& plan,
    const CallTensors& tensors,
    std::vector<CallFacts::Argument> arguments) {
  CallFacts facts;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const CallTensors::Entry& entry = tensors.entries[i];
    arguments[i].is_written = entry.is_written;
    arguments[i].is_global = entry.is_global;
    arguments[i].is_here =
        entry.is_global && layout_of(*entry.tensor).mesh() == plan.plan.mesh;
  }
  facts.arguments = std::move(arguments);
  facts.results = results_of(op, plan, tensors);
  facts.is_view = op.is_view;
  facts.is_python = op.is_python;
  facts.draws_once = op.is_random && plan.plan.kind == Plan::Kind::kReplicate;
  return facts;
}

}  // namespace

void lower_call(const Op& op, const CallTensors& tensors, LoweredPlan& plan) {
  std::vector<CallFacts::Argument> arguments(tensors.entries.size());
  plan.instructions =
      lower(plan, facts_of(op, plan, tensors, std::move(arguments)));
}

const Instructions& instructions_of(
    const Op& op,
    const LoweredPlan& plan,
    const CallTensors& tensors,
    Instructions& anew) {
  if (tensors.entries.size() < 2 || !plan.moves_any) {
    return plan.instructions;
  }
  std::vector<CallFacts::Argument> arguments(tensors.entries.size());
  if (!find_aliases(plan, tensors, arguments)) {
    return plan.instructions;
  }
  anew = lower(plan, facts_of(op, plan, tensors, std::move(arguments)));
  return anew;
}

}  // namespace torch_mesh
