// stand_ins.cpp: what torch says of tensors like these, without their values.

#include "dispatch/stand_ins.h"

#include <ATen/ops/empty_strided.h>

namespace torch_mesh {
namespace {

// The arguments with uninitialised tensors of the same metadata in place of
// tensors.
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
    // A Python number counts less than a tensor when dtypes are chosen.
    if (tensor.unsafeGetTensorImpl()->is_wrapped_number()) {
      made.unsafeGetTensorImpl()->set_wrapped_number(true);
    }
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
    } else if (op.params[i] == Op::ParamKind::kOptionalTensorList &&
               value.isList()) {
      c10::List<std::optional<at::Tensor>> list;
      for (const c10::IValue& element : value.toListRef()) {
        list.push_back(
            element.isTensor() ? std::optional(stand_in(element.toTensor()))
                               : std::nullopt);
      }
      stack.emplace_back(std::move(list));
    } else {
      stack.push_back(value);
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
  if (!op.handle.hasComputedKernelForDispatchKey(c10::DispatchKey::Meta)) {
    return std::nullopt;
  }
  Stack stack = with_stand_ins(op, args, at::kMeta);
  try {
    op.handle.callBoxed(stack);
  } catch (const std::exception&) {
    return std::nullopt;
  }
  std::vector<std::vector<int64_t>> sizes;
  auto add = [&](const at::Tensor& result) {
    sizes.push_back(
        result.defined() ? result.sizes().vec() : std::vector<int64_t>());
  };
  for (const c10::IValue& value : stack) {
    if (value.isTensor()) {
      add(value.toTensor());
    } else if (value.isTensorList()) {
      for (const at::Tensor& result : value.toTensorVector()) {
        add(result);
      }
    }
  }
  return sizes;
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
