// kernel.cpp: the boxed kernel of the mesh device: unpack, key, plan, run.

#include <algorithm>

#include <ATen/MemoryOverlap.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_strided.h>

#include <torch_mesh/error.h>
#include <torch_mesh/rule.h>

#include "dispatch/autograd_thread.h"
#include "dispatch/call_key.h"
#include "dispatch/device_index.h"
#include "dispatch/ops.h"
#include "dispatch/overlapping_destinations.h"
#include "dispatch/plain_destinations.h"
#include "dispatch/plain_gradients.h"
#include "dispatch/program.h"
#include "job/job.h"
#include "rules/families.h"
#include "rules/modifiers.h"
#include "run/executor.h"
#include "run/foreach.h"
#include "run/noted_call.h"
#include "run/replicas.h"
#include "run/stand_ins.h"
#include "shard/local_ops.h"
#include "tensor/global_tensor.h"
#include "trace/counters.h"
#include "trace/explain.h"

namespace torch_mesh {
namespace {

std::shared_ptr<const Rule> rule_of(const Op& op) {
  std::shared_ptr<const Rule> rule = find_rule(op.schema.name);
  if (!rule && op.schema.is_pointwise) {
    rule = rules::pointwise_rule();
  }
  return rule;
}

// Whether lanes add up parts of float16 in one memory. Torch's kernels form
// sums of float16 in float32; bfloat16 has the range of float32, so its parts
// do not overflow.
bool sums_halves(
    const Op& op,
    c10::ArrayRef<c10::IValue> args,
    const CallTensors& tensors,
    const LoweredPlan& prepared) {
  const bool folds = std::any_of(
      prepared.outputs.begin(), prepared.outputs.end(), [](const auto& output) {
        return output.folds;
      });
  if (!folds || tensors.any_written) {
    return false;
  }
  bool any = false;
  for (const CallTensors::Entry& entry : tensors.entries) {
    if (entry.tensor->is_floating_point() || entry.tensor->is_complex()) {
      any = entry.tensor->scalar_type() == at::kHalf;
      if (!any) {
        return false;
      }
    }
  }
  const int dtype = op.schema.param("dtype");
  const bool is_cast = dtype >= 0 && args[dtype].isInt() &&
                       args[dtype].toScalarType() != at::kHalf;
  return any && !is_cast;
}

std::shared_ptr<const LoweredPlan> make_plan(
    const Op& op,
    c10::ArrayRef<c10::IValue> args,
    const CallTensors& tensors,
    UnboundedNumbers unbounded) {
  count_plan();
  const std::shared_ptr<const Rule> rule = rule_of(op);
  OpCall call = call_of(op, args, tensors, unbounded);
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
  if (plan.kind == Plan::Kind::kRewrite && !op.program_where_cut) {
    plan = plan_op(call, nullptr, written);
  }
  // How many numbers a mask stands for, only its values say.
  const int indices = op.schema.param("indices");
  const bool any_mask = indices >= 0 &&
                        call.args[indices].kind == ArgKind::kTensorList &&
                        rules::has_masks(call.args[indices]);
  if (!any_mask && (plan.kind == Plan::Kind::kRewrite ||
                    (rule && plan.kind == Plan::Kind::kReplicate))) {
    check_arguments(op, args);
  }
  LoweredPlan prepared = assign_lanes(std::move(plan));
  prepared.lacks_rule = any_cut && prepared.plan.kind == Plan::Kind::kReplicate;
  prepared.widens = sums_halves(op, args, tensors, prepared);
  prepared.in_parallel &= !op.moves_no_data;
  if (op.is_view) {
    prepared.windows = windows_of(op, args);
  } else if (prepared.plan.kind == Plan::Kind::kLocal) {
    find_hidden_strides(op, args, prepared);
  }
  lower_call(op, tensors, prepared);
  if (log_level() >= 2) {
    log_line(op.schema.name + " " + prepared.plan.str());
  }
  return std::make_shared<const LoweredPlan>(std::move(prepared));
}

std::shared_ptr<const LoweredPlan> plan_of(
    const Op& op,
    c10::ArrayRef<c10::IValue> args,
    const CallTensors& tensors) {
  const UnboundedNumbers unbounded = unbounded_numbers(op, args, tensors);
  const CallKey key = key_of(op, args, tensors, unbounded);
  const KeyWords words(key.data(), key.size());
  const uint64_t hash = hash_of(words);
  if (auto found = op.cache.find(words, hash)) {
    return found;
  }
  auto made = make_plan(op, args, tensors, unbounded);
  op.cache.insert(words, hash, made);
  return made;
}

std::string text_of_call(const Op& op, const CallTensors& tensors) {
  std::string line = op.schema.name;
  for (const CallTensors::Entry& entry : tensors.entries) {
    line += " " + text_of(entry);
  }
  return line;
}

void explain(
    const Op& op,
    const CallTensors& tensors,
    const LoweredPlan& prepared) {
  explain_line(text_of_call(op, tensors) + "  " + prepared.plan.str());
}

// Refuses a destination of which one element is several, or which overlaps
// another argument, as plain torch does: by sizes, strides and offsets, which
// are those of plain torch. Shards do not show it. Plain tensors and global
// ones share no memory.
void check_overlap(const CallTensors& tensors) {
  for (const CallTensors::Entry& written : tensors.entries) {
    if (!written.is_written) {
      continue;
    }
    at::assert_no_internal_overlap(*written.tensor);
    for (const CallTensors::Entry& other : tensors.entries) {
      if (&other != &written && other.is_global == written.is_global) {
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

// Errors of the ops that an op is made of name that op too.
void run_where_cut(const Op& op, Stack& stack) {
  try {
    op.program_where_cut(CallArgs(op, stack));
  } catch (c10::Error& error) {
    error.add_context("in " + op.schema.name);
    throw;
  }
}

// A tensor like a global one that is asked for on another device: torch's op
// sees a plain tensor of that geometry. False if the mesh is where it shall be.
bool make_elsewhere(const Op& op, Stack& stack) {
  const size_t base = stack.size() - op.params.size();
  const auto device =
      stack[base + op.schema.param("device")].toOptional<c10::Device>();
  if (!device || device->is_privateuseone()) {
    if (device) {
      check_device_index(*device);
    }
    return false;
  }
  const at::Tensor self = stack[base].toTensor();
  stack[base] = at::empty_strided(
      self.sizes(), self.strides(), self.options().device(*device));
  op.handle.callBoxed(stack);
  return true;
}

void run_call(
    const Op& op,
    c10::ArrayRef<c10::IValue> args,
    CallTensors& tensors,
    Stack& stack) {
  if (tensors.any_written && op.checks_overlap) {
    check_overlap(tensors);
  }
  if (op.makes_like && make_elsewhere(op, stack)) {
    return;
  }
  if (op.program && op.program(CallArgs(op, stack))) {
    return;
  }
  if (tensors.any_written) {
    if (writes_plain(op, tensors)) [[unlikely]] {
      run_on_plain(op, tensors, stack);
      return;
    }
    if (writes_over_itself(op, tensors)) [[unlikely]] {
      run_over_itself(op, tensors, stack);
      return;
    }
  }
  if (op.runs_on_replicas && run_on_replicas(op, tensors, stack)) {
    return;
  }
  if (op.is_foreach && run_foreach(op, stack)) {
    return;
  }
  if (op.variant && op.variant(CallArgs(op, stack))) {
    return;
  }
  hold_sums(op, tensors);
  auto prepared = plan_of(op, args, tensors);
  if (tensors.any_written && settle_blanks(tensors, prepared->plan)) {
    prepared = plan_of(op, args, tensors);
  }
  if (is_explaining()) [[unlikely]] {
    explain(op, tensors, *prepared);
  }
  if (prepared->plan.kind == Plan::Kind::kRewrite) {
    run_where_cut(op, stack);
    return;
  }
  if (prepared->lacks_rule) [[unlikely]] {
    count_replicated(op.schema.name);
  }
  execute(op, *prepared, tensors, stack);
}

void run(const Op& op, Stack& stack) {
  const size_t num_args = op.params.size();
  const c10::ArrayRef<c10::IValue> args(
      stack.data() + stack.size() - num_args, num_args);
  CallTensors tensors = tensors_of(op, args);
  if (current_job()) [[unlikely]] {
    note_call(op, args, tensors);
  }
  std::optional<ExplainedOp> explained;
  if (is_explaining()) [[unlikely]] {
    explained.emplace(text_of_call(op, tensors));
  }
  if (!tensors.any_global && tensors.any_fake) {
    op.handle.redispatchBoxed(
        c10::DispatchKeySet(c10::DispatchKey::Meta), &stack);
    return;
  }
  if (tensors.any_plain_grad && at::GradMode::is_enabled()) [[unlikely]] {
    bring_gradients_home(tensors);
    const size_t base = stack.size() - num_args;
    run_call(op, args, tensors, stack);
    watch_results(
        c10::ArrayRef<c10::IValue>(stack.data() + base, stack.size() - base));
    return;
  }
  run_call(op, args, tensors, stack);
}

// Whether two tensors are the same window on one storage.
bool is_same_window(const at::Tensor& a, const at::Tensor& b) {
  return a.is_same(b) ||
         (a.is_alias_of(b) && a.storage_offset() == b.storage_offset() &&
          a.sizes() == b.sizes() && a.strides() == b.strides() &&
          a.scalar_type() == b.scalar_type() && a.is_conj() == b.is_conj() &&
          a.is_neg() == b.is_neg());
}

// A write over all of a broken tensor mends it, unless it fails too. A copy to
// itself is none: torch does nothing, and refuses nothing.
void run_overwrite(const Op& op, Stack& stack) {
  const size_t base = stack.size() - op.params.size();
  const at::Tensor self = stack[base].toTensor();
  const int source = op.param("src");
  if (source >= 0 && is_same_window(self, stack[base + source].toTensor())) {
    stack.resize(base + 1);
    return;
  }
  const auto broken = is_global(self) ? heal(self) : nullptr;
  try {
    run(op, stack);
  } catch (...) {
    if (broken) {
      mark_broken(self, *broken);
    }
    throw;
  }
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
    if (op.overwrites) {
      run_overwrite(op, stack);
    } else {
      run(op, stack);
    }
  } catch (const CoreError& error) {
    rethrow_for_torch(error);
  }
}

}  // namespace torch_mesh
