// element_plan.h: how one element of an op on lists gets to one layout.

#pragma once

#include <vector>

#include <torch_mesh/redistribute.h>

#include "rules/op_call.h"

namespace torch_mesh {

struct ElementPlan {
  Layout layout;                      // in which the element is computed
  std::vector<Redistribution> moves;  // of its tensor in each list
  bool operator==(const ElementPlan&) const = default;
};

// An element is computed in the layout of its first tensor, which is the first
// that it writes, without pending sums. Tensors of other sizes (a number for
// each element) are replicated.
//
//   tensors   of the element, one for each list; all on one mesh. At least one.
ElementPlan plan_element(const std::vector<TensorInfo>& tensors);

}  // namespace torch_mesh
