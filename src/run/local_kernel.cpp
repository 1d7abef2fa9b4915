// local_kernel.cpp: arguments that lie better, for speed but for the last two,
// and arguments that torch's kernels for the CPU take where those of
// accelerators take others. The gradient of a pool lies as the pool's input,
// that of a convolution as oneDNN likes it, and where the two meet torch's
// loops are scalar. Measured: benchmarks/README.md.

#include "run/local_kernel.h"

#include <map>

#include <ATen/ops/histc.h>

#include "shard/strides.h"

namespace torch_mesh {
namespace {

// Below this many elements two copies cost more than they save.
constexpr int64_t kMinElements = 32768;

// A pixel with fewer bytes of channels does not fill a vector.
constexpr int64_t kMinPixelBytes = 32;

c10::IValue& argument(const Op& op, Stack& stack, size_t index) {
  return stack[stack.size() - op.params.size() + index];
}

bool is_large(const at::Tensor& tensor) {
  return tensor.numel() >= kMinElements && tensor.is_cpu();
}

// The gradient of an activation, of `like` and `other`, of which `like` gives
// the result its order of dims. Loops over two orders are scalar, and these
// branch or take exponentials: 2 to 12 times the time of the vectorized loop,
// which a copy costs once.
template <size_t like, size_t other>
void run_in_one_order(const Op& op, Stack& stack) {
  const at::Tensor& reference = argument(op, stack, like).toTensor();
  c10::IValue& value = argument(op, stack, other);
  const at::Tensor& tensor = value.toTensor();
  if (is_large(reference) && reference.sizes() == tensor.sizes() &&
      reference.strides() != tensor.strides() &&
      reference.is_non_overlapping_and_dense()) {
    value = in_order(tensor, reference.strides());
  }
  op.handle.callBoxed(stack);
}

// Pools of images that lie channel by channel: over one that lies pixel by
// pixel torch vectorizes across the channels, 2 to 5 times faster with the
// copies there and back.
void run_pool(const Op& op, Stack& stack) {
  const at::Tensor self = argument(op, stack, 0).toTensor();
  if (self.dim() != 4 || !is_large(self) || !self.is_floating_point() ||
      self.suggest_memory_format() != at::MemoryFormat::Contiguous ||
      self.size(1) * self.itemsize() < kMinPixelBytes) {
    op.handle.callBoxed(stack);
    return;
  }
  const size_t num_results = op.schema.returns.size();
  argument(op, stack, 0) = self.contiguous(at::MemoryFormat::ChannelsLast);
  op.handle.callBoxed(stack);
  for (size_t r = stack.size() - num_results; r < stack.size(); ++r) {
    stack[r] = stack[r].toTensor().contiguous();
  }
}

// The gradient of a pool takes the output's in the order of the input; torch
// gets it there by a loop that takes ten times a copy.
void run_pool_backward(const Op& op, Stack& stack) {
  c10::IValue& gradient = argument(op, stack, 0);
  const at::Tensor& self = argument(op, stack, 1).toTensor();
  if (is_large(self)) {
    gradient = gradient.toTensor().contiguous(self.suggest_memory_format());
  }
  op.handle.callBoxed(stack);
}

// torch's gradient of a kernel with one output channel fails for one image if
// the kernel lies pixel by pixel, as Keras's do. A device may get one image of
// a batch for which torch's works.
void run_convolution_backward(const Op& op, Stack& stack) {
  c10::IValue& weight = argument(op, stack, 2);
  if (argument(op, stack, 1).toTensor().size(0) == 1 &&
      weight.toTensor().size(0) == 1) {
    weight = weight.toTensor().contiguous();
  }
  op.handle.callBoxed(stack);
}

// torch's gradient of batch norm is wrong where dims of one element hide that
// the gradient lies pixel by pixel: they are contiguous so, and their strides
// do not say it.
void run_batch_norm_backward(const Op& op, Stack& stack) {
  c10::IValue& gradient = argument(op, stack, 0);
  const at::Tensor& tensor = gradient.toTensor();
  if (!tensor.is_contiguous() &&
      tensor.suggest_memory_format() == at::MemoryFormat::Contiguous &&
      (tensor.is_contiguous(at::MemoryFormat::ChannelsLast) ||
       tensor.is_contiguous(at::MemoryFormat::ChannelsLast3d))) {
    gradient = tensor.contiguous();
  }
  op.handle.callBoxed(stack);
}

// What accelerators compute in half precision, and programs ask for on every
// device but "cpu", where torch's kernel for the CPU refuses it: in float32,
// rounded once.
void run_halves_wide(const Op& op, Stack& stack) {
  const at::Tensor first = argument(op, stack, 0).toTensor();
  const c10::ScalarType dtype = first.scalar_type();
  if (!first.is_cpu() || (dtype != at::kHalf && dtype != at::kBFloat16)) {
    op.handle.callBoxed(stack);
    return;
  }
  for (size_t i = 0; i < op.params.size(); ++i) {
    c10::IValue& value = argument(op, stack, i);
    if (value.isTensor() && value.toTensor().defined() &&
        value.toTensor().scalar_type() == dtype) {
      value = value.toTensor().to(at::kFloat);
    }
  }
  op.handle.callBoxed(stack);
  const size_t num_results = op.schema.returns.size();
  for (size_t r = stack.size() - num_results; r < stack.size(); ++r) {
    if (stack[r].toTensor().scalar_type() == at::kFloat) {
      stack[r] = stack[r].toTensor().to(dtype);
    }
  }
}

// Programs ask for it on every device but "cpu".
void run_histc(const Op& op, Stack& stack) {
  const at::Tensor counts = histogram(
      argument(op, stack, 0).toTensor(),
      argument(op, stack, 1).toInt(),
      argument(op, stack, 2).toScalar(),
      argument(op, stack, 3).toScalar());
  stack.resize(stack.size() - op.params.size());
  stack.emplace_back(counts);
}

}  // namespace

at::Tensor histogram(
    const at::Tensor& self,
    int64_t bins,
    const c10::Scalar& min,
    const c10::Scalar& max) {
  const c10::ScalarType dtype = self.scalar_type();
  if (!self.is_cpu() || !c10::isIntegralType(dtype, /*includeBool=*/false)) {
    return at::histc(self, bins, min, max);
  }
  // Products and quotients of these integers are exact enough in double that
  // each falls into the bin that integer arithmetic gives.
  return at::histc(
             self.to(at::kDouble), bins, min.to<int64_t>(), max.to<int64_t>())
      .to(dtype);
}

LocalKernel local_kernel(const std::string& name) {
  static const std::map<std::string, LocalKernel> kernels{
      {"aten::_upsample_bicubic2d_aa", run_halves_wide},
      {"aten::_upsample_bicubic2d_aa_backward", run_halves_wide},
      {"aten::_upsample_bilinear2d_aa", run_halves_wide},
      {"aten::_upsample_bilinear2d_aa_backward", run_halves_wide},
      {"aten::avg_pool2d", run_pool},
      {"aten::avg_pool3d", run_halves_wide},
      {"aten::avg_pool3d_backward", run_halves_wide},
      {"aten::convolution_backward", run_convolution_backward},
      {"aten::elu_backward", run_in_one_order<0, 5>},
      {"aten::histc", run_histc},
      {"aten::leaky_relu_backward", run_in_one_order<1, 0>},
      {"aten::max_pool2d_with_indices", run_pool},
      {"aten::max_pool2d_with_indices_backward", run_pool_backward},
      {"aten::mish_backward", run_in_one_order<0, 1>},
      {"aten::multi_margin_loss", run_halves_wide},
      {"aten::multi_margin_loss_backward", run_halves_wide},
      {"aten::multilabel_margin_loss_backward", run_halves_wide},
      {"aten::multilabel_margin_loss_forward", run_halves_wide},
      {"aten::native_batch_norm_backward", run_batch_norm_backward},
      {"aten::silu_backward", run_in_one_order<0, 1>},
      {"aten::softplus_backward", run_in_one_order<0, 1>},
      {"aten::threshold_backward", run_in_one_order<1, 0>},
  };
  const auto found = kernels.find(name);
  return found == kernels.end() ? nullptr : found->second;
}

}  // namespace torch_mesh
