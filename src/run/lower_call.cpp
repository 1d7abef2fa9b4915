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

std::vector<CallFacts::Argument> arguments_of(
    const Plan& plan,
    const CallTensors& tensors) {
  std::vector<CallFacts::Argument> arguments;
  for (const CallTensors::Entry& entry : tensors.entries) {
    CallFacts::Argument argument;
    argument.is_written = entry.is_written;
    argument.is_global = entry.is_global;
    argument.is_here =
        entry.is_global && layout_of(*entry.tensor).mesh() == plan.mesh;
    arguments.push_back(argument);
  }
  return arguments;
}

// The argument on whose storage a view of this alias set is a window.
int window_on(const Op& op, const CallTensors& tensors, int alias) {
  for (size_t i = 0; op.is_view && alias >= 0 && i < tensors.entries.size();
       ++i) {
    const CallTensors::Entry& entry = tensors.entries[i];
    if (entry.is_global && op.schema.params[entry.arg].alias == alias) {
      return static_cast<int>(i);
    }
  }
  return -1;
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
    const CallFacts::Result result{returned.is_written,
                                   window_on(op, tensors, returned.alias)};
    if (returned.is_tensor_list) {
      results.resize(num, result);
    } else if (returned.is_tensor && results.size() < num) {
      results.push_back(result);
    }
  }
  return results;
}

CallFacts facts_of(
    const Op& op,
    const LoweredPlan& plan,
    const CallTensors& tensors) {
  CallFacts facts;
  facts.arguments = arguments_of(plan.plan, tensors);
  facts.results = results_of(op, plan, tensors);
  facts.is_view = op.is_view;
  facts.is_python = op.is_python;
  facts.draws_once = op.is_random && plan.plan.kind == Plan::Kind::kReplicate;
  return facts;
}

bool any_moves(const LoweredPlan& plan) {
  return std::ranges::any_of(
      plan.inputs, [](const auto& input) { return input.moves; });
}

}  // namespace

void lower_call(const Op& op, const CallTensors& tensors, LoweredPlan& plan) {
  plan.instructions = lower(plan, facts_of(op, plan, tensors));
}

const Instructions& instructions_of(
    const Op& op,
    const LoweredPlan& plan,
    const CallTensors& tensors,
    Instructions& anew) {
  if (tensors.entries.size() < 2 || !any_moves(plan)) {
    return plan.instructions;
  }
  std::vector<CallFacts::Argument> arguments(tensors.entries.size());
  if (!find_aliases(plan, tensors, arguments)) {
    return plan.instructions;
  }
  CallFacts facts = facts_of(op, plan, tensors);
  find_aliases(plan, tensors, facts.arguments);
  anew = lower(plan, facts);
  return anew;
}

}  // namespace torch_mesh
