// element_plan.cpp: no choice is left once the first tensor is known.

#include "plan/element_plan.h"

namespace torch_mesh {

ElementPlan plan_element(const std::vector<TensorInfo>& tensors) {
  const TensorInfo& first = tensors[0];
  ElementPlan plan{first.layout.with_sums_reduced(), {}};
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
