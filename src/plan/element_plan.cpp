// element_plan.cpp: no choice is left once the first tensor is known.

#include "plan/element_plan.h"

namespace torch_mesh {
namespace {

Layout without_sums(Layout layout) {
  for (int axis = 0; axis < layout.mesh().num_axes(); ++axis) {
    if (layout[axis].is_partial()) {
      layout = layout.with(axis, Placement::replicate());
    }
  }
  return layout;
}

}  // namespace

ElementPlan plan_element(const std::vector<TensorInfo>& tensors) {
  const TensorInfo& first = tensors[0];
  ElementPlan plan{without_sums(first.layout), {}};
  const Layout replicated = Layout::replicated(first.layout.mesh());
  for (const TensorInfo& tensor : tensors) {
    plan.moves.push_back(plan_redistribution(
        tensor.layout,
        tensor.sizes == first.sizes ? plan.layout : replicated,
        tensor.sizes,
        tensor.itemsize));
  }
  return plan;
}

}  // namespace torch_mesh
