// plain_beside.cpp: brings plain arguments over, then runs torch's composition.

#include "device/plain_beside.h"

#include <set>
#include <string>
#include <vector>

#include <ATen/core/grad_mode.h>
#include <ATen/core/stack.h>

#include "device/operators.h"
#include "dispatch/ops.h"
#include "dispatch/plain_gradients.h"
#include "program/plain_arguments.h"

namespace torch_mesh {
namespace {

using Key = c10::DispatchKey;

// Found by a search: every op of torch's test database with one tensor plain
// (tests/python/laws/test_law_13.py repeats it).
bool compares_devices(const std::string& name) {
  static const auto* names = new std::set<std::string>{
      "aten::_chunk_cat",
      "aten::block_diag",
      "aten::cholesky_solve",
      "aten::inner",
      "aten::istft",
      "aten::linalg_multi_dot",
      "aten::meshgrid",
      "aten::nanquantile",
      "aten::quantile",
      "aten::stft",
      "aten::take_along_dim",
  };
  return names->count(name) != 0;
}

void for_tensors(c10::IValue& value, const auto& visit) {
  if (value.isTensor() && value.toTensor().defined()) {
    visit(value.toTensor());
  } else if (value.isTensorList()) {
    for (const at::Tensor& tensor : value.toTensorVector()) {
      visit(tensor);
    }
  }
}

void replace_tensors(c10::IValue& value, const Mesh& mesh) {
  if (value.isTensor() && value.toTensor().defined()) {
    value = brought_over(value.toTensor(), mesh);
  } else if (value.isTensorList()) {
    std::vector<at::Tensor> list = value.toTensorVector();
    for (at::Tensor& tensor : list) {
      tensor = brought_over(tensor, mesh);
    }
    value = c10::IValue(std::move(list));
  }
}

class BringOver final : public c10::OperatorKernel {
 public:
  explicit BringOver(const c10::OperatorHandle& op)
      : composition_(op.getComputedKernelForDispatchKey(Key::CPU)) {}

  void operator()(
      const c10::OperatorHandle& handle,
      c10::DispatchKeySet keys,
      Stack* stack) {
    const size_t num_args = handle.schema().arguments().size();
    const c10::ArrayRef<c10::IValue> args(
        stack->data() + stack->size() - num_args, num_args);
    bool any_plain = false;
    std::optional<Mesh> mesh;
    for (size_t i = stack->size() - num_args; i < stack->size(); ++i) {
      for_tensors((*stack)[i], [&](const at::Tensor& tensor) {
        any_plain |= tensor.is_cpu();
        if (!mesh) {
          mesh = mesh_among(tensor);
        }
      });
    }
    if (!any_plain || !mesh) {
      composition_.callBoxed(handle, keys, stack);
      return;
    }
    const CallTensors tensors = tensors_of(op_of(handle), args);
    // Where autograd has recorded the op itself, and not what it is made of.
    const bool below = !keys.has_any(c10::autograd_dispatch_keyset) &&
                       tensors.any_plain_grad && at::GradMode::is_enabled();
    if (below) {
      bring_gradients_home(tensors);
    }
    for (size_t i = stack->size() - num_args; i < stack->size(); ++i) {
      replace_tensors((*stack)[i], *mesh);
    }
    composition_.callBoxed(handle, keys, stack);
    if (below) {
      watch_results(*stack);
    }
  }

 private:
  const c10::SafeKernelFunction composition_;
};

}  // namespace

void register_if_compares_devices(const c10::OperatorHandle& op) {
  if (!compares_devices(op.schema().name()) || takes_out(op.schema())) {
    return;
  }
  auto add = [&](Key key) {
    add_kernel(
        op.operator_name(),
        key,
        c10::KernelFunction::makeFromBoxedFunctor<BringOver>(
            std::make_unique<BringOver>(op)));
  };
  // Under autograd too where torch composes it above: it records the parts.
  if (op.hasKernelForDispatchKey(Key::CompositeImplicitAutograd)) {
    add(Key::AutogradPrivateUse1);
  }
  add(Key::PrivateUse1);
}

}  // namespace torch_mesh
