// plain_gradients.cpp: a hook in front of the node that takes the gradient.

#include "dispatch/plain_gradients.h"

#include <algorithm>
#include <memory>
#include <mutex>

#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/node.h>
#include <torch/csrc/autograd/variable.h>

#include <torch_mesh/tensor.h>

namespace torch_mesh {
namespace {

using torch::autograd::Edge;
using torch::autograd::FunctionPreHook;
using torch::autograd::InputMetadata;
using torch::autograd::Node;
using torch::autograd::variable_list;

struct BringHome final : FunctionPreHook {
  BringHome(uint32_t input, c10::Device device)
      : input(input), device(device) {}

  variable_list operator()(const variable_list& gradients) override {
    variable_list result = gradients;
    at::Tensor& gradient = result[input];
    if (gradient.defined() && gradient.device() != device) {
      gradient = gradient.to(device);
    }
    return result;
  }

  const uint32_t input;
  const c10::Device device;
};

bool has_hook(const Node& node, uint32_t input) {
  const auto& hooks = const_cast<Node&>(node).tensor_pre_hooks();
  return std::any_of(hooks.begin(), hooks.end(), [&](const auto& hook) {
    const auto* ours = dynamic_cast<const BringHome*>(hook.get());
    return ours && ours->input == input;
  });
}

// autograd compares devices before hooks run, except those of subclasses; and
// what arrives from a device needs a stream of that device to arrive on.
void accept_all_devices(InputMetadata& metadata) {
  const c10::SymIntArrayRef sizes = metadata.shape_as_dim_vector();
  const InputMetadata accepting(
      metadata.options().device(mesh_device()),
      torch::autograd::SymIntSmallVec(sizes.begin(), sizes.end()),
      /*is_tensor_subclass=*/true,
      metadata.is_nested_tensor(),
      metadata.grad_dtype());
  // It has a const member, and so no assignment.
  std::destroy_at(&metadata);
  std::construct_at(&metadata, accepting);
}

void bring_gradient_home(const at::Tensor& tensor) {
  const Edge edge = torch::autograd::impl::gradient_edge(tensor);
  Node& node = *edge.function;
  const uint32_t input = edge.input_nr;
  if (!node.input_metadata(input).is_tensor_subclass()) {
    accept_all_devices(node.mutable_input_metadata(input));
  }
  // A leaf keeps its hooks itself: its node may be another one in each step.
  // Hooks of the user come behind ours, and see a plain gradient.
  if (!has_hook(node, input)) {
    auto& hooks = node.tensor_pre_hooks();
    hooks.insert(
        hooks.begin(), std::make_unique<BringHome>(input, tensor.device()));
  }
}

}  // namespace

void bring_gradients_home(const CallTensors& tensors) {
  static std::mutex mutex;  // a plain tensor may be in calls of two threads
  const std::lock_guard lock(mutex);
  for (const CallTensors::Entry& entry : tensors.entries) {
    if (!entry.is_global && entry.tensor->requires_grad()) {
      bring_gradient_home(*entry.tensor);
    }
  }
}

}  // namespace torch_mesh
