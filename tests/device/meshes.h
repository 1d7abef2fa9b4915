// meshes.h: meshes with one memory for all devices and with one for each.

#pragma once

#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/ops/equal.h>

#include <torch_mesh/tensor.h>

namespace torch_mesh {

// data=2 model=3, or what `axes` says; devices share a memory unless
// `separate`.
inline Mesh mesh_of(
    bool separate,
    std::vector<Mesh::Axis> axes = {{"data", 2}, {"model", 3}}) {
  separate_memories_for_testing(separate);
  const Mesh mesh(std::move(axes));
  separate_memories_for_testing(false);
  return mesh;
}

// Whether a global tensor has this value, size for size and bit for bit.
inline bool has_value(const at::Tensor& tensor, const at::Tensor& expected) {
  return at::equal(full(tensor), expected);
}

inline at::Tensor on(
    const Mesh& mesh,
    const at::Tensor& tensor,
    const char* layout) {
  return distribute(tensor, Layout::parse(mesh, layout));
}

}  // namespace torch_mesh
