// variants.cpp: finds the functional op of a variant, and hands on its result.

#include "program/variants.h"

#include <map>
#include <mutex>

#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <c10/core/ScalarType.h>

#include <torch_mesh/error.h>

#include "dispatch/ops.h"
#include "program/programs.h"
#include "rules/families.h"
#include "run/arguments.h"
#include "shard/span.h"
#include "tensor/global_tensor.h"
#include "tensor/window.h"

namespace torch_mesh {
namespace {

// The overload of `base_name` with exactly these parameters.
const Op* op_with_params(
    const std::string& base_name,
    c10::ArrayRef<c10::Argument> params) {
  for (const c10::OperatorName& name :
       c10::Dispatcher::singleton().getAllOpNames()) {
    if (name.name != base_name) {
      continue;
    }
    const auto handle = c10::Dispatcher::singleton().findOp(name);
    if (!handle || !handle->hasSchema() ||
        handle->schema().arguments().size() != params.size()) {
      continue;
    }
    bool same = true;
    for (size_t i = 0; i < params.size(); ++i) {
      const c10::Argument& theirs = handle->schema().arguments()[i];
      same &= theirs.name() == params[i].name() &&
              *theirs.type() == *params[i].type() && !theirs.is_out();
    }
    if (same) {
      return &op_of(*handle);
    }
  }
  return nullptr;
}

struct FunctionalOps {
  std::mutex mutex;  // guards the rest
  std::map<const Op*, const Op*> found;
  uint64_t num_gone = 0;  // operators, when `found` was begun
};

// The functional op of a variant; nullptr if there is none.
const Op* functional_of(
    const Op& op,
    const std::string& base_name,
    size_t num_params) {
  static FunctionalOps* ops = new FunctionalOps;
  {
    std::lock_guard lock(ops->mutex);
    if (ops->num_gone != num_ops_gone()) {
      ops->found.clear();
      ops->num_gone = num_ops_gone();
    }
    auto found = ops->found.find(&op);
    if (found != ops->found.end()) {
      return found->second;
    }
  }
  const auto& all = op.handle.schema().arguments();
  const Op* functional = op_with_params(base_name, {all.data(), num_params});
  std::lock_guard lock(ops->mutex);
  ops->found[&op] = functional;
  return functional;
}

// A plain tensor to write in place of an `out`. Kernels that draw do so into
// the destination as it is; of all others a fresh one is asked for.
at::Tensor plain_out(const Op& op, const at::Tensor& out) {
  const at::TensorOptions options = out.options().device(at::kCPU);
  return op.is_random ? at::empty_strided(
                            out.sizes(),
                            strides_in_order_of(
                                as_span(out.sizes()), as_span(out.strides())),
                            options)
                      : at::empty({0}, options);
}

// Runs an out= op that has no functional op with the same arguments (arange,
// randperm), or of which the destination decides: on plain tensors, once.
Stack run_plain(const Op& op, c10::ArrayRef<c10::IValue> args) {
  Stack local;
  push_arguments(
      op,
      args,
      at::kCPU,
      local,
      [&](const at::Tensor& tensor, size_t p, size_t) {
        if (op.handle.schema().arguments()[p].is_out()) {
          return plain_out(op, tensor);
        }
        const at::Tensor plain =
            is_global(tensor) ? full_value(tensor) : tensor;
        // What the functional op has written to already is not written twice.
        return op.schema.params[p].is_written ? plain.clone() : plain;
      });
  op.handle.callBoxed(local);
  return local;
}

// Whether an `out` has another dtype than the result. Some ops then compute in
// it, some cast, and some refuse: plain torch's op decides.
bool has_other_dtype(
    c10::ArrayRef<c10::IValue> args,
    const Stack& results,
    size_t num_in) {
  for (size_t i = num_in; i < args.size(); ++i) {
    const c10::IValue& result = results[i - num_in];
    if (args[i].isTensor() && result.isTensor() &&
        args[i].toTensor().defined() && result.toTensor().defined() &&
        args[i].toTensor().scalar_type() != result.toTensor().scalar_type()) {
      return true;
    }
  }
  return false;
}

// Gives a global destination other sizes. Where its storage has room and others
// share it, or a window on all of it will do, it stays on that storage.
void resize_out(
    const at::Tensor& out,
    const at::Tensor& result,
    const std::vector<int64_t>& strides) {
  const bool is_shared = out.storage().use_count() > 1;
  const size_t needed = at::detail::computeStorageNbytes(
      result.sizes(), strides, out.itemsize(), out.storage_offset());
  const bool fits = needed <= MeshStorage::of(out)->nbytes();
  if (fits &&
      (is_shared || (out.numel() == result.numel() && !is_unwritten(out)))) {
    const at::Tensor window = window_of_storage(
        out.storage(),
        result.sizes(),
        strides,
        out.storage_offset(),
        out.scalar_type());
    if (is_shared || !meta_of(window).is_write_back) {
      become(out, window);
      return;
    }
  }
  check_can_grow(out);
  become(
      out,
      make_unwritten(
          is_global(result) ? layout_of(result)
                            : Layout::replicated(layout_of(out).mesh()),
          result.sizes(),
          strides,
          out.scalar_type()));
}

}  // namespace

void check_can_hold(const at::Tensor& out, const at::Tensor& result) {
  TORCH_CHECK(
      c10::canCast(result.scalar_type(), out.scalar_type()),
      "result type ",
      result.scalar_type(),
      " can't be cast to the desired output type ",
      out.scalar_type());
}

void give_result(
    const at::Tensor& result,
    const at::Tensor& out,
    bool keeps_order) {
  if (out.sizes() != result.sizes()) {
    if (out.numel() != 0) {
      TORCH_WARN(
          "An output with one or more elements was resized since it had "
          "shape ",
          out.sizes(),
          ", which does not match the required output shape ",
          result.sizes(),
          ".");
    } else if (is_global(out) && is_global(result) &&
               out.scalar_type() == result.scalar_type() &&
               !result.is_non_overlapping_and_dense()) {
      // LAPACK's result is a window on more memory, which the destination gets.
      become(out, result);
      return;
    }
    if (is_global(out)) {
      resize_out(
          out,
          result,
          keeps_order ? strides_in_order_of(result.sizes(), result.strides())
                      : contiguous_strides(as_span(result.sizes())));
    } else {
      out.resize_(result.sizes());
    }
  }
  out.copy_(result);
}

bool programs::out(const CallArgs& call) {
  const Op& op = call.op;
  Stack& stack = call.stack;
  size_t num_in = 0;
  for (const c10::Argument& argument : op.handle.schema().arguments()) {
    num_in += !argument.is_out();
  }
  const size_t base = stack.size() - op.params.size();
  Stack inputs(stack.begin() + base, stack.begin() + base + num_in);
  bool takes_tensors = false;
  bool writes_more = false;
  for (size_t i = 0; i < num_in; ++i) {
    takes_tensors |=
        op.schema.params[i].is_tensor || op.schema.params[i].is_tensor_list;
    writes_more |= op.schema.params[i].is_written;
  }
  // The destination decides what is drawn.
  const bool is_drawn = op.is_random && !writes_more;
  const Op* functional = takes_tensors && !is_drawn
                             ? functional_of(op, op.base_name, num_in)
                             : nullptr;
  if (functional) {
    // Not through the dispatcher: torch may compose it of this very op.
    run_op(*functional, inputs);
  } else {
    inputs = run_plain(
        op, c10::ArrayRef<c10::IValue>(stack.data() + base, op.params.size()));
  }
  const c10::ArrayRef<c10::IValue> args(stack.data() + base, op.params.size());
  if (functional && !op.is_random && has_other_dtype(args, inputs, num_in)) {
    inputs = run_plain(op, args);
  }
  std::vector<std::pair<at::Tensor, at::Tensor>> gifts;
  size_t next = 0;
  for (size_t i = num_in; i < op.params.size(); ++i, ++next) {
    const c10::IValue& out = stack[base + i];
    if (out.isTensor()) {
      gifts.emplace_back(inputs[next].toTensor(), out.toTensor());
    } else {
      const auto results = inputs[next].toTensorVector();
      const auto outs = out.toTensorVector();
      for (size_t e = 0; e < outs.size(); ++e) {
        gifts.emplace_back(results[e], outs[e]);
      }
    }
  }
  // All are checked before any is written.
  for (const auto& [result, out] : gifts) {
    check_can_hold(out, result);
  }
  for (const auto& [result, out] : gifts) {
    const bool keeps_order = out.sizes() != result.sizes() &&
                             !rules::op_says(op.schema.name, "contiguous_out");
    give_result(result, out, keeps_order);
  }
  // The results are the out arguments, in order.
  Stack outs(stack.begin() + base + num_in, stack.end());
  outs.resize(op.schema.returns.size());
  stack.resize(base);
  for (c10::IValue& out : outs) {
    stack.push_back(std::move(out));
  }
  return true;
}

bool programs::inplace_view(const CallArgs& args) {
  const Op& op = args.op;
  Stack& stack = args.stack;
  std::string name = op.base_name;
  name.pop_back();
  const Op* view = functional_of(op, name, op.params.size());
  TORCH_MESH_ASSERT(view, op.schema.name, " has no view op");
  const size_t base = stack.size() - op.params.size();
  const at::Tensor self = stack[base].toTensor();
  view->handle.callBoxed(stack);
  become(self, stack.back().toTensor());
  stack.back() = self;
  return true;
}

}  // namespace torch_mesh
