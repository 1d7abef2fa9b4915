// stand_ins.cpp: what torch says of tensors like these, without their values.

#include "dispatch/stand_ins.h"

#include <ATen/OpMathType.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>

#include "dispatch/arguments.h"

namespace torch_mesh {
namespace {

// The arguments with uninitialised tensors of the same metadata in place of
// tensors. `as_wide`: float32 in place of halves.
Stack with_stand_ins(
    const Op& op,
    c10::ArrayRef<c10::IValue> args,
    c10::DeviceType device,
    bool as_wide = false) {
  auto stand_in = [&](const at::Tensor& tensor, size_t, size_t) {
    const c10::ScalarType dtype = tensor.scalar_type();
    const bool has_wider =
        as_wide && (c10::isFloatingType(dtype) || c10::isComplexType(dtype));
    const at::Tensor made = at::empty_strided(
        tensor.sizes(),
        tensor.strides(),
        tensor.options().device(device).dtype(
            has_wider ? at::toOpMathType(dtype) : dtype));
    // A Python number counts less than a tensor when dtypes are chosen.
    if (tensor.unsafeGetTensorImpl()->is_wrapped_number()) {
      made.unsafeGetTensorImpl()->set_wrapped_number(true);
    }
    return made;
  };
  Stack stack;
  push_arguments(op, args, device, stack, stand_in);
  for (size_t i = 0; i < args.size(); ++i) {
    if (op.params[i] == Op::ParamKind::kDevice && args[i].isDevice()) {
      stack[i] = c10::Device(device);  // also in place of another device
    }
  }
  return stack;
}

void fill(Stack& stack, int value) {
  for (const c10::IValue& argument : stack) {
    if (argument.isTensor() && argument.toTensor().defined()) {
      argument.toTensor().fill_(value);
    } else if (argument.isList()) {
      for (const c10::IValue& element : argument.toListRef()) {
        if (element.isTensor() && element.toTensor().defined()) {
          element.toTensor().fill_(value);
        }
      }
    }
  }
}

// The results on the meta device; nothing if torch cannot say.
std::optional<std::vector<at::Tensor>> results_on_meta(
    const Op& op,
    c10::ArrayRef<c10::IValue> args) {
  if (!op.handle.hasComputedKernelForDispatchKey(c10::DispatchKey::Meta)) {
    return std::nullopt;
  }
  // Meta kernels in Python compute pointwise ops of halves on copies in
  // float32, and a copy of an expanded tensor is not expanded.
  Stack stack =
      with_stand_ins(op, args, at::kMeta, /*as_wide=*/op.schema.is_pointwise);
  // Meta kernels in Python take no wrapped numbers; sizes and strides do not
  // depend on that.
  for (const c10::IValue& value : stack) {
    if (value.isTensor() && value.toTensor().defined() &&
        value.toTensor().dim() == 0) {
      value.toTensor().unsafeGetTensorImpl()->set_wrapped_number(false);
    }
  }
  try {
    op.handle.callBoxed(stack);
  } catch (const std::exception&) {
    return std::nullopt;
  }
  std::vector<at::Tensor> results;
  for (const c10::IValue& value : stack) {
    if (value.isTensor()) {
      results.push_back(value.toTensor());
    } else if (value.isTensorList()) {
      for (const at::Tensor& result : value.toTensorVector()) {
        results.push_back(result);
      }
    }
  }
  return results;
}

// A dim of which the first device has one element says nothing.
bool hides_strides(
    const Plan::Output& output,
    const PreparedPlan::Output& prepared) {
  for (size_t d = 0; d < output.sizes.size(); ++d) {
    if (output.sizes[d] > 1 && prepared.local_sizes[0][d] == 1) {
      return true;
    }
  }
  return false;
}

// Ops that keep channels_last, which torch's meta kernels forget.
bool keeps_memory_format(const Op& op) {
  return op.base_name == "aten::convolution" ||
         op.base_name == "aten::floor_divide" || op.base_name == "aten::roll" ||
         op.base_name == "aten::max_unpool2d";
}

// The result of such an op.
at::Tensor in_format_of(
    const at::Tensor& self,
    const std::vector<int64_t>& sizes) {
  return at::empty(
      sizes,
      self.options().device(at::kMeta).memory_format(
          self.suggest_memory_format()));
}

}  // namespace

std::vector<PreparedPlan::Window> windows_of(
    const Op& op,
    c10::ArrayRef<c10::IValue> args) {
  Stack stack = with_stand_ins(op, args, at::kMeta);
  op.handle.callBoxed(stack);
  std::vector<PreparedPlan::Window> windows;
  auto add = [&](const at::Tensor& view) {
    windows.push_back(
        {{view.sizes().begin(), view.sizes().end()},
         {view.strides().begin(), view.strides().end()},
         view.storage_offset()});
  };
  for (const c10::IValue& value : stack) {
    if (value.isTensor()) {
      add(value.toTensor());
    } else if (value.isTensorList()) {
      for (const at::Tensor& view : value.toTensorVector()) {
        add(view);
      }
    }
  }
  return windows;
}

std::optional<std::vector<std::vector<int64_t>>> sizes_of_results(
    const Op& op,
    c10::ArrayRef<c10::IValue> args) {
  const auto results = results_on_meta(op, args);
  if (!results) {
    return std::nullopt;
  }
  std::vector<std::vector<int64_t>> sizes;
  for (const at::Tensor& result : *results) {
    sizes.push_back(
        result.defined() ? result.sizes().vec() : std::vector<int64_t>());
  }
  return sizes;
}

void find_hidden_strides(
    const Op& op,
    c10::ArrayRef<c10::IValue> args,
    PreparedPlan& prepared) {
  std::optional<std::vector<at::Tensor>> results;
  for (size_t o = 0; o < prepared.outputs.size(); ++o) {
    const Plan::Output& output = prepared.plan.outputs[o];
    if (!hides_strides(output, prepared.outputs[o])) {
      continue;
    }
    if (!results) {
      results = keeps_memory_format(op) ? std::vector<at::Tensor>{in_format_of(
                                              args[0].toTensor(), output.sizes)}
                                        : results_on_meta(op, args);
    }
    if (!results || results->size() != prepared.outputs.size()) {
      return;
    }
    const at::Tensor& result = (*results)[o];
    if (result.defined() && result.is_non_overlapping_and_dense() &&
        result.sizes() == c10::IntArrayRef(output.sizes)) {
      const c10::IntArrayRef strides = result.strides();
      prepared.outputs[o].strides.assign(strides.begin(), strides.end());
    }
  }
}

void check_arguments(const Op& op, c10::ArrayRef<c10::IValue> args) {
  if (!op.handle.hasComputedKernelForDispatchKey(c10::DispatchKey::Meta)) {
    return;
  }
  try {
    Stack meta = with_stand_ins(op, args, at::kMeta);
    op.handle.callBoxed(meta);
  } catch (const std::exception&) {
    Stack plain = with_stand_ins(op, args, at::kCPU);
    fill(plain, 0);
    op.handle.callBoxed(plain);
  }
}

bool fails_on_all_values(
    const Op& op,
    c10::ArrayRef<c10::IValue> args,
    const std::string& error) {
  // Random numbers would be used up, and Python code run once more.
  if (op.is_random || op.is_python) {
    return false;
  }
  for (int value : {0, 1}) {
    try {
      Stack plain = with_stand_ins(op, args, at::kCPU);
      fill(plain, value);
      op.handle.callBoxed(plain);
      return false;
    } catch (const c10::Error& other) {
      if (other.msg() != error) {
        return false;
      }
    } catch (const std::exception&) {
      return false;
    }
  }
  return true;
}

}  // namespace torch_mesh
