// planned_list.h: how the elements of an op on lists get to one layout each.

#pragma once

#include <memory>
#include <vector>

#include <c10/util/SmallVector.h>

#include "plan/element_plan.h"
#include "run/list_call.h"
#include "tensor/global_tensor.h"

namespace torch_mesh {

class PlannedList : protected ListCall {
 public:
  // Plans each kind of element, or finds its plan. Throws [mixed-meshes].
  explicit PlannedList(ListCall call) : ListCall(std::move(call)) {
    find_mesh();
    plan();
  }

 protected:
  // One line: each kind of element with its layout.
  void explain() const;

  // Plain tensors, and those of other meshes, count as replicated.
  Layout on_mesh(const at::Tensor& tensor) const {
    return is_here(tensor) ? layout_of(tensor) : Layout::replicated(mesh_);
  }
  bool is_here(const at::Tensor& tensor) const {
    return is_global(tensor) && layout_of(tensor).mesh() == mesh_;
  }
  const Layout& layout_of_element(size_t e) const { return plans_[e]->layout; }
  const Redistribution& moves_of(size_t list, size_t e) const {
    return plans_[e]->moves[list];
  }

  Mesh mesh_;

 private:
  using Key = c10::SmallVector<uint64_t, 64>;

  void find_mesh();
  void plan();
  void add_words(Key& key, const at::Tensor& tensor) const;
  std::shared_ptr<const ElementPlan> plan_of(size_t e, const Key& key) const;

  std::vector<std::shared_ptr<const ElementPlan>> plans_;  // of each element
};

}  // namespace torch_mesh
