// log_sigmoid.cpp: log_sigmoid without the buffer that it keeps on some
// devices.
//
// The kernel of a CPU saves exp(-|x|) for the backward pass, that of a GPU
// nothing, so no rule says what the second result is. Here nothing is saved,
// and a shard's backward computes what its own kernel needs.

#include "dispatch/log_sigmoid.h"

#include <ATen/Functions.h>
#include <torch/library.h>

namespace torch_mesh {
namespace {

using at::Tensor;

Tensor log_sigmoid(const Tensor& self) {
  return std::get<0>(at::log_sigmoid_forward(self));
}

Tensor log_sigmoid_grad(const Tensor& grad, const Tensor& self) {
  return at::log_sigmoid_backward(
      grad, self, std::get<1>(at::log_sigmoid_forward(self)));
}

bool forward(const Op& op, Stack& stack) {
  static const Op& local = op_named("torch_mesh::log_sigmoid", "");
  const size_t base = stack.size() - op.params.size();
  const Tensor self = stack[base].toTensor();
  run_op(local, stack);
  stack.emplace_back(at::empty({0}, self.options()));
  return true;
}

// (grad_output, self, buffer)
bool backward(const Op&, Stack& stack) {
  static const Op& local = op_named("torch_mesh::log_sigmoid_grad", "");
  stack.pop_back();
  run_op(local, stack);
  return true;
}

TORCH_LIBRARY_FRAGMENT(torch_mesh, library) {
  library.def("log_sigmoid(Tensor self) -> Tensor");
  library.def("log_sigmoid_grad(Tensor grad, Tensor self) -> Tensor");
  for (const auto key : {c10::DispatchKey::CPU, c10::DispatchKey::CUDA}) {
    library.impl("log_sigmoid", torch::dispatch(key, TORCH_FN(log_sigmoid)));
    library.impl(
        "log_sigmoid_grad", torch::dispatch(key, TORCH_FN(log_sigmoid_grad)));
  }
}

}  // namespace

SpecialKernel log_sigmoid_kernel(const std::string& name) {
  return name == "aten::log_sigmoid_forward"    ? forward
         : name == "aten::log_sigmoid_backward" ? backward
                                                : nullptr;
}

}  // namespace torch_mesh
