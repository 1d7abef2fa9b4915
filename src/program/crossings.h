// crossings.h: gradients of values that left the mesh.

#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

#include <torch_mesh/layout.h>

namespace torch_mesh {

// Called where the value of `tensor` leaves the mesh and autograd records: its
// gradient is to come back in its layout, sums reduced, whatever mesh is in
// force then. Threads: safe.
void remember_layout(const at::Tensor& tensor);

// In which layout the plain tensor that is being brought to the mesh shall
// stand: that of the value whose gradient it is; nullopt if it is none, or if
// no layout was remembered.
std::optional<Layout> layout_of_returning_gradient();

}  // namespace torch_mesh
