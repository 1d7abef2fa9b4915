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

// `layout`: where a gradient of a global tensor shall stand.
struct BringHome final : FunctionPreHook {
  BringHome(uint32_t input, c10::Device device, const Layout& layout)
      : input(input), device(device), layout(layout) {}

  variable_list operator()(const variable_list& gradients) override {
    variable_list result = gradients;
    at::Tensor& gradient = result[input];
    if (gradient.defined() && gradient.device() != device) {
      gradient = device.is_privateuseone() ? distribute(gradient, layout)
                                           : gradient.to(device);
    }
    return result;
  }

  const uint32_t input;
  const c10::Device device;
  const Layout layout;
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
    const Layout layout = is_global(tensor)
                              ? Layout::replicated(layout_of(tensor).mesh())
                              : Layout();
    hooks.insert(
        hooks.begin(),
        std::make_unique<BringHome>(input, tensor.device(), layout));
  }
}

void bring_home(const CallTensors& tensors, bool of_global) {
  static std::mutex mutex;  // a tensor may be in calls of two threads
  const std::lock_guard lock(mutex);
  for (const CallTensors::Entry& entry : tensors.entries) {
    if (entry.is_global == of_global && entry.tensor->requires_grad()) {
      bring_gradient_home(*entry.tensor);
    }
  }
}

}  // namespace

void bring_gradients_home(const CallTensors& tensors) {
  bring_home(tensors, /*of_global=*/false);
}

void bring_gradients_to_mesh(const CallTensors& tensors) {
  bring_home(tensors, /*of_global=*/true);
}

}  // namespace torch_mesh
