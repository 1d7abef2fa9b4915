// tensor_split.h: splits at the places that a tensor names.

#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

namespace torch_mesh {

// aten::tensor_split.tensor_indices_or_sections. torch reads the places from
// host memory and refuses those of another device; on the mesh they may be a
// global tensor.
std::vector<at::Tensor> tensor_split(
    const at::Tensor& self,
    const at::Tensor& indices_or_sections,
    int64_t dim);

}  // namespace torch_mesh
