// pieces.h: what the members of a group give each other.

#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include <torch_mesh/placement.h>

namespace torch_mesh {

// What the i-th of n devices keeps of a tensor that `placement` cuts. Aliases
// its memory, but for blocks.
at::Tensor cut(
    const at::Tensor& whole,
    const Placement& placement,
    int64_t n,
    int64_t i);

// Undoes `cut`: the pieces of all n devices, in order. Their whole has the
// order of dims in memory that they have.
at::Tensor join(std::vector<at::Tensor> pieces, const Placement& placement);

}  // namespace torch_mesh
