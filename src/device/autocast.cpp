// autocast.cpp: the CPU's autocast lists for global tensors.
//
// Arguments are cast above autograd, as torch casts those on a CPU; the local
// ops below run with autocast off.

#include "device/autocast.h"

#include <set>
#include <span>
#include <string>
#include <vector>

#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

#include "device/operators.h"

namespace torch_mesh {
namespace {

constexpr auto kKey = c10::DispatchKey::AutocastPrivateUse1;

enum class Policy { kLowerPrecision, kFloat32, kWidest };

// An op in one of the CPU's lists that is in neither of these computes in
// float32. Torch says which ops are listed, but not where.
const std::set<std::string>& in_lower_precision() {
  static const auto* names = new std::set<std::string>{
      "_addmm_activation",
      "_convolution",
      "_native_multi_head_attention",
      "addbmm",
      "addmm",
      "baddbmm",
      "bmm",
      "conv1d",
      "conv2d",
      "conv3d",
      "conv_tbc",
      "conv_transpose1d",
      "conv_transpose2d",
      "conv_transpose3d",
      "linalg_vecdot",
      "linear",
      "matmul",
      "mkldnn_rnn_layer",
      "mm",
      "prelu",
      "scaled_dot_product_attention",
  };
  return *names;
}

const std::set<std::string>& in_widest() {
  static const auto* names =
      new std::set<std::string>{"cat", "index_copy", "stack"};
  return *names;
}

Policy policy_of(const std::string& name) {
  return in_lower_precision().count(name) ? Policy::kLowerPrecision
         : in_widest().count(name)        ? Policy::kWidest
                                          : Policy::kFloat32;
}

// A plain CPU tensor beside global ones is cast as they are.
c10::DeviceType place_of(const at::Tensor& tensor) {
  return tensor.is_cpu() ? c10::kCPU : c10::kPrivateUse1;
}

class CastingKernel final : public c10::OperatorKernel {
 public:
  explicit CastingKernel(Policy policy) : policy_(policy) {}

  void operator()(
      const c10::OperatorHandle& op,
      c10::DispatchKeySet,
      torch::jit::Stack* stack) {
    const c10::impl::ExcludeDispatchKeyGuard below(kKey);
    const size_t num_args = op.schema().arguments().size();
    const std::span<c10::IValue> args(
        stack->data() + stack->size() - num_args, num_args);
    const c10::ScalarType dtype = dtype_for(args);
    for (c10::IValue& value : args) {
      if (value.isTensor()) {
        value = cast(value.toTensor(), dtype);
      } else if (value.isTensorList()) {
        std::vector<at::Tensor> list = value.toTensorVector();
        for (at::Tensor& tensor : list) {
          tensor = cast(tensor, dtype);
        }
        value = std::move(list);
      }
    }
    op.callBoxed(stack);
  }

 private:
  c10::ScalarType dtype_for(std::span<const c10::IValue> args) const {
    if (policy_ == Policy::kFloat32) {
      return c10::kFloat;
    }
    c10::ScalarType dtype = at::autocast::get_autocast_dtype(c10::kPrivateUse1);
    if (policy_ == Policy::kLowerPrecision) {
      return dtype;
    }
    auto widen = [&](const at::Tensor& tensor) {
      if (tensor.defined()) {
        dtype = at::autocast::prioritize(dtype, tensor, place_of(tensor));
      }
    };
    for (const c10::IValue& value : args) {
      if (value.isTensor()) {
        widen(value.toTensor());
      } else if (value.isTensorList()) {
        for (const at::Tensor& tensor : value.toTensorVector()) {
          widen(tensor);
        }
      }
    }
    return dtype;
  }

  static at::Tensor cast(const at::Tensor& tensor, c10::ScalarType dtype) {
    return tensor.defined()
               ? at::autocast::cached_cast(dtype, tensor, place_of(tensor))
               : tensor;
  }

  const Policy policy_;
};

}  // namespace

std::vector<std::string> autocast_names() {
  std::vector<std::string> names(
      in_lower_precision().begin(), in_lower_precision().end());
  names.insert(names.end(), in_widest().begin(), in_widest().end());
  return names;
}

void register_autocast() {
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const c10::OperatorName& name : dispatcher.getAllOpNames()) {
    const auto op = dispatcher.findOp(name);
    if (name.name.rfind("aten::", 0) == 0 && op && op->hasSchema() &&
        op->hasKernelForDispatchKey(c10::DispatchKey::AutocastCPU)) {
      const Policy policy = policy_of(name.name.substr(sizeof("aten::") - 1));
      add_kernel(
          name,
          kKey,
          c10::KernelFunction::makeFromBoxedFunctor<CastingKernel>(
              std::make_unique<CastingKernel>(policy)));
    }
  }
  add_fallback(kKey, c10::KernelFunction::makeFallthrough());
}

}  // namespace torch_mesh
