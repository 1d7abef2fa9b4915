// crossings.cpp: layouts kept beside the nodes that gradients return to.
//
// The backward of x.cpu() is grad.to("mesh"), which knows no mesh. The node
// that takes that gradient is the next one of the node that runs.

#include "program/crossings.h"

#include <algorithm>
#include <memory>
#include <mutex>
#include <string>

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/variable.h>

#include "dispatch/edge_hooks.h"
#include "tensor/global_tensor.h"

namespace torch_mesh {
namespace {

using torch::autograd::AccumulateGrad;
using torch::autograd::Edge;
using torch::autograd::FunctionPreHook;
using torch::autograd::Node;
using torch::autograd::variable_list;

// Changes nothing: it is kept where the gradient arrives.
struct RememberedLayout final : FunctionPreHook {
  RememberedLayout(uint32_t input, Layout layout)
      : input(input), layout(layout) {}

  variable_list operator()(const variable_list& gradients) override {
    return gradients;
  }

  const uint32_t input;
  const Layout layout;
};

std::mutex& mutex() {
  static auto* mutex = new std::mutex;
  return *mutex;
}

std::optional<Layout> layout_at(const Edge& edge) {
  if (!edge.is_valid()) {
    return std::nullopt;
  }
  // A leaf has its layout itself, and may have got another one since.
  if (const auto* leaf = dynamic_cast<AccumulateGrad*>(edge.function.get())) {
    return is_global(leaf->variable)
               ? std::optional(layout_of(leaf->variable).with_sums_reduced())
               : std::nullopt;
  }
  const auto* found = hook_at<RememberedLayout>(edge);
  return found ? std::optional(found->layout) : std::nullopt;
}

// Whether the node's backward moves a gradient between devices. Others may run
// a whole program, as checkpointing does.
bool only_moves(const Node& node) {
  const std::string name = node.name();
  return name == "ToCopyBackward0" || name == "CopyBackwards" ||
         name == "torch::autograd::CopyBackwards" || name == "CopySlices" ||
         name == "torch::autograd::CopySlices";
}

}  // namespace

void remember_layout(const at::Tensor& tensor) {
  const Edge edge = torch::autograd::impl::gradient_edge(tensor);
  if (dynamic_cast<AccumulateGrad*>(edge.function.get())) {
    return;
  }
  const std::lock_guard lock(mutex());
  if (!hook_at<RememberedLayout>(edge)) {
    edge.function->add_tensor_pre_hook(
        std::make_unique<RememberedLayout>(
            edge.input_nr, layout_of(tensor).with_sums_reduced()));
  }
}

std::optional<Layout> layout_of_returning_gradient() {
  const auto node = torch::autograd::get_current_node();
  if (!node || !only_moves(*node)) {
    return std::nullopt;
  }
  const std::lock_guard lock(mutex());
  for (const Edge& edge : node->next_edges()) {
    if (const auto layout = layout_at(edge)) {
      return layout;
    }
  }
  return std::nullopt;
}

}  // namespace torch_mesh
