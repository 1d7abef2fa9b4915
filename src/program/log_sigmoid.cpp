// log_sigmoid.cpp: log_sigmoid without the buffer that it keeps on some
// devices.
//
// The kernel of a CPU saves exp(-|x|) for the backward pass, that of a GPU
// nothing, so no rule says what the second result is. Here nothing is saved,
// and a shard's backward computes what its own kernel needs.

#include <ATen/Functions.h>
#include <torch/library.h>

#include "program/programs.h"

namespace torch_mesh::programs {
namespace {

using at::Tensor;

Tensor forward(const Tensor& self) {
  return std::get<0>(at::log_sigmoid_forward(self));
}

Tensor gradient(const Tensor& grad, const Tensor& self) {
  return at::log_sigmoid_backward(
      grad, self, std::get<1>(at::log_sigmoid_forward(self)));
}

TORCH_LIBRARY_FRAGMENT(torch_mesh, library) {
  library.def("log_sigmoid(Tensor self) -> Tensor");
  library.def("log_sigmoid_grad(Tensor grad, Tensor self) -> Tensor");
  for (const auto key : {c10::DispatchKey::CPU, c10::DispatchKey::CUDA}) {
    library.impl("log_sigmoid", torch::dispatch(key, TORCH_FN(forward)));
    library.impl("log_sigmoid_grad", torch::dispatch(key, TORCH_FN(gradient)));
  }
}

}  // namespace

bool log_sigmoid_forward(const CallArgs& args) {
  static const Op& local = op_named("torch_mesh::log_sigmoid", "");
  const Tensor self = args.tensor("self");
  run_op(local, args.stack);
  args.stack.emplace_back(at::empty({0}, self.options()));
  return true;
}

bool log_sigmoid_backward(const CallArgs& args) {
  static const Op& local = op_named("torch_mesh::log_sigmoid_grad", "");
  args.stack.pop_back();  // the buffer
  run_op(local, args.stack);
  return true;
}

}  // namespace torch_mesh::programs
