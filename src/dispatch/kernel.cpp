// kernel.cpp: the boxed kernel of the mesh device: unpack, key, plan, run.

#include <ATen/MemoryOverlap.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>

#include <torch_mesh/error.h>
#include <torch_mesh/rule.h>

#include "dispatch/autograd_thread.h"
#include "dispatch/call_key.h"
#include "dispatch/execution.h"
#include "dispatch/explain.h"
#include "dispatch/op.h"
#include "dispatch/rewrites.h"
#include "dispatch/variants.h"
#include "rules/families.h"
#include "tensor/global_tensor.h"
#include "trace/counters.h"

namespace torch_mesh {
namespace {

// The arguments with empty tensors of the same metadata in place of tensors.
Stack with_stand_ins(
    const Op& op,
    c10::ArrayRef<c10::IValue> args,
    c10::DeviceType device) {
  auto stand_in = [&](const at::Tensor& tensor) {
    if (!tensor.defined()) {
      return tensor;
    }
    const at::Tensor made = at::empty_strided(
        tensor.sizes(), tensor.strides(), tensor.options().device(device));
    LazyMarks::of(tensor).put_on(made);
    return made;
  };
  Stack stack;
  for (size_t i = 0; i < args.size(); ++i) {
    const c10::IValue& value = args[i];
    if (value.isTensor()) {
      stack.emplace_back(stand_in(value.toTensor()));
    } else if (op.params[i] == Op::ParamKind::kTensorList && value.isList()) {
      c10::List<at::Tensor> list;
      for (const c10::IValue& element : value.toListRef()) {
        list.push_back(stand_in(element.toTensor()));
      }
      stack.emplace_back(std::move(list));
    } else {
      stack.push_back(value);
    }
  }
  return stack;
}

// The tensors that an op gave, in order.
std::vector<at::Tensor> tensors_in(const Stack& results) {
  std::vector<at::Tensor> tensors;
  for (const c10::IValue& value : results) {
    if (value.isTensor()) {
      tensors.push_back(value.toTensor());
    } else if (value.isTensorList()) {
      for (const at::Tensor& tensor : value.toTensorVector()) {
        tensors.push_back(tensor);
      }
    }
  }
  return tensors;
}

// Where the results of a view op lie in the argument's storage: what plain
// torch says of tensors with this metadata.
std::vector<PreparedPlan::Window> windows_of(
    const Op& op,
    c10::ArrayRef<c10::IValue> args) {
  Stack stack = with_stand_ins(op, args, at::kMeta);
  op.handle.callBoxed(stack);
  std::vector<PreparedPlan::Window> windows;
  for (const at::Tensor& view : tensors_in(stack)) {
    windows.push_back(
        {{view.sizes().begin(), view.sizes().end()},
         {view.strides().begin(), view.strides().end()},
         view.storage_offset(),
         LazyMarks::of(view)});
  }
  return windows;
}

// The results of an op as torch makes them of tensors with this metadata; none
// if it cannot tell.
std::vector<at::Tensor> results_on_meta(
    const Op& op,
    c10::ArrayRef<c10::IValue> args) {
  if (!op.handle.hasComputedKernelForDispatchKey(c10::DispatchKey::Meta)) {
    return {};
  }
  Stack stack = with_stand_ins(op, args, at::kMeta);
  try {
    op.handle.callBoxed(stack);
  } catch (const std::exception&) {
    return {};
  }
  return tensors_in(stack);
}

std::optional<std::vector<std::vector<int64_t>>> sizes_of_results(
    const Op& op,
    c10::ArrayRef<c10::IValue> args) {
  const std::vector<at::Tensor> results = results_on_meta(op, args);
  if (results.empty()) {
    return std::nullopt;
  }
  std::vector<std::vector<int64_t>> sizes;
  for (const at::Tensor& result : results) {
    sizes.push_back(
        result.defined() ? result.sizes().vec() : std::vector<int64_t>());
  }
  return sizes;
}

// The result of roll, which is a cat: torch's meta kernel forgets that it keeps
// channels_last.
at::Tensor roll_on_meta(const at::Tensor& self) {
  return at::empty(
      self.sizes(),
      self.options().device(at::kMeta).memory_format(
          self.suggest_memory_format()));
}

// Asks torch for the order of dims of results where shards may not tell: a dim
// of local size 1 says nothing of its place, unless all is row-major.
void find_strides(
    const Op& op,
    c10::ArrayRef<c10::IValue> args,
    const CallTensors& tensors,
    PreparedPlan& prepared) {
  bool any_cut = false;
  for (const Plan::Output& output : prepared.plan.outputs) {
    any_cut |= output.layout.sharded_axes() != 0;
  }
  bool row_major =
      op.memory_format_param < 0 || args[op.memory_format_param].isNone();
  for (const CallTensors::Entry& entry : tensors.entries) {
    row_major &= entry.tensor->is_contiguous();
  }
  if (!any_cut || row_major) {
    return;
  }
  const std::vector<at::Tensor> results =
      op.base_name == "aten::roll"
          ? std::vector<at::Tensor>{roll_on_meta(args[0].toTensor())}
          : results_on_meta(op, args);
  for (size_t o = 0; o < std::min(results.size(), prepared.outputs.size());
       ++o) {
    if (results[o].defined() && results[o].layout() == at::kStrided &&
        results[o].dim() ==
            static_cast<int64_t>(prepared.plan.outputs[o].sizes.size())) {
      prepared.outputs[o].strides.assign(
          results[o].strides().begin(), results[o].strides().end());
    }
  }
}

std::shared_ptr<const Rule> rule_of(const Op& op) {
  std::shared_ptr<const Rule> rule = find_rule(op.schema.name);
  if (!rule && op.schema.is_pointwise) {
    rule = rules::pointwise_rule();
  }
  return rule;
}

// Lets torch say what is wrong with sizes, before anything moves: if the op
// fails on meta tensors it is run on empty plain ones, for plain torch's words.
void check_sizes(const Op& op, c10::ArrayRef<c10::IValue> args) {
  if (!op.handle.hasKernelForDispatchKey(c10::DispatchKey::Meta)) {
    return;
  }
  try {
    Stack meta = with_stand_ins(op, args, at::kMeta);
    op.handle.callBoxed(meta);
  } catch (const std::exception&) {
    Stack plain = with_stand_ins(op, args, at::kCPU);
    for (const c10::IValue& value : plain) {
      if (value.isTensor() && value.toTensor().defined()) {
        value.toTensor().zero_();
      }
    }
    op.handle.callBoxed(plain);
  }
}

std::shared_ptr<const PreparedPlan> make_plan(
    const Op& op,
    c10::ArrayRef<c10::IValue> args,
    const CallTensors& tensors) {
  count_plan();
  const std::shared_ptr<const Rule> rule = rule_of(op);
  OpCall call = call_of(op, args, tensors);
  call.result_sizes = [&] { return sizes_of_results(op, args); };
  std::vector<int> written;
  bool any_cut = false;
  for (size_t i = 0; i < tensors.entries.size(); ++i) {
    if (tensors.entries[i].is_written && tensors.entries[i].is_global) {
      written.push_back(static_cast<int>(i));
    }
    any_cut |= !layout_in_call(tensors.entries[i]).is_replicated();
  }
  Plan plan = plan_op(call, rule.get(), written);
  if (plan.kind == Plan::Kind::kRewrite && !rewrite_of(op)) {
    plan = plan_op(call, nullptr, written);
  }
  if (rule && plan.kind == Plan::Kind::kReplicate) {
    check_sizes(op, args);
  }
  PreparedPlan prepared = prepare(std::move(plan));
  prepared.lacks_rule = any_cut && prepared.plan.kind == Plan::Kind::kReplicate;
  if (op.is_view) {
    prepared.windows = windows_of(op, args);
  } else if (prepared.plan.kind == Plan::Kind::kLocal && !tensors.any_written) {
    find_strides(op, args, tensors, prepared);
  }
  if (log_level() >= 2) {
    log_line(op.schema.name + " " + prepared.plan.str());
  }
  return std::make_shared<const PreparedPlan>(std::move(prepared));
}

std::shared_ptr<const PreparedPlan> plan_of(
    const Op& op,
    c10::ArrayRef<c10::IValue> args,
    const CallTensors& tensors) {
  const CallKey key = key_of(op, args, tensors);
  const KeyWords words(key.data(), key.size());
  const uint64_t hash = hash_of(words);
  if (auto found = op.cache.find(words, hash)) {
    return found;
  }
  auto made = make_plan(op, args, tensors);
  op.cache.insert(words, hash, made);
  return made;
}

void explain(
    const Op& op,
    const CallTensors& tensors,
    const PreparedPlan& prepared) {
  std::string line = op.schema.name;
  for (const CallTensors::Entry& entry : tensors.entries) {
    line += " " + text_of(entry);
  }
  explain_line(line + "  " + prepared.plan.str());
}

// Refuses a destination of which one element is several, or which overlaps
// another argument, as plain torch does: by sizes, strides and offsets, which
// are those of plain torch. Shards do not show it.
void check_overlap(const CallTensors& tensors) {
  for (const CallTensors::Entry& written : tensors.entries) {
    if (!written.is_written || !written.is_global) {
      continue;
    }
    at::assert_no_internal_overlap(*written.tensor);
    for (const CallTensors::Entry& other : tensors.entries) {
      if (&other != &written && other.is_global) {
        at::assert_no_partial_overlap(*written.tensor, *other.tensor);
      }
    }
  }
}

// Gives destinations of zeros that nobody has read the layouts that the plan
// would have them in.
bool settle_blanks(const CallTensors& tensors, const Plan& plan) {
  bool any = false;
  for (size_t i = 0; i < tensors.entries.size(); ++i) {
    const CallTensors::Entry& entry = tensors.entries[i];
    if (entry.is_written && entry.is_global && is_blank(*entry.tensor) &&
        plan.kind == Plan::Kind::kLocal) {
      settle_blank(*entry.tensor, plan.inputs[i].redistribution.to);
      any = true;
    }
  }
  return any;
}

void run(const Op& op, Stack& stack) {
  const size_t num_args = op.params.size();
  const c10::ArrayRef<c10::IValue> args(
      stack.data() + stack.size() - num_args, num_args);
  const CallTensors tensors = tensors_of(op, args);
  if (!tensors.any_global && tensors.any_fake) {
    op.handle.redispatchBoxed(
        c10::DispatchKeySet(c10::DispatchKey::Meta), &stack);
    return;
  }
  if (tensors.any_written && op.checks_overlap) {
    check_overlap(tensors);
  }
  if (op.special && op.special(op, stack)) {
    return;
  }
  if (op.is_out) {
    run_out(op, stack);
    return;
  }
  if (op.is_inplace_view) {
    run_inplace_view(op, stack);
    return;
  }
  // Readers may reduce a pending sum between planning and running, so this ends
  // after as many rounds as there are sums.
  constexpr int kMostRounds = 1000;
  for (int round = 0; round < kMostRounds; ++round) {
    const auto prepared = plan_of(op, args, tensors);
    if (tensors.any_written && settle_blanks(tensors, prepared->plan)) {
      continue;
    }
    if (is_explaining()) [[unlikely]] {
      explain(op, tensors, *prepared);
    }
    if (prepared->plan.kind == Plan::Kind::kRewrite) {
      rewrite_of(op)(op, stack);
      return;
    }
    if (prepared->lacks_rule) [[unlikely]] {
      count_replicated(op.schema.name);
    }
    try {
      execute(op, *prepared, tensors, stack);
      return;
    } catch (const StalePlan&) {
    }
  }
  TORCH_MESH_ASSERT(
      false, op.schema.name, ": the layouts of its arguments do not settle.");
}

}  // namespace

void run_op(const Op& op, Stack& stack) {
  if (at::GradMode::is_enabled()) {
    prepare_autograd();
  }
  const LocalOps local;
  const CurrentOp current(op.schema.name);
  count_op();
  try {
    run(op, stack);
  } catch (const CoreError& error) {
    rethrow_for_torch(error);
  }
}

}  // namespace torch_mesh
