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
  separate_cpu_memories(separate);
  const Mesh mesh(std::move(axes));
  separate_cpu_memories(false);
  return mesh;
}

// The same axes, where the devices that differ on the last axis alone share a
// memory.
inline Mesh mesh_of_boxes(
    std::vector<Mesh::Axis> axes = {{"data", 2}, {"model", 3}}) {
  int num_devices = 1;
  for (const Mesh::Axis& axis : axes) {
    num_devices *= static_cast<int>(axis.size);
  }
  std::vector<int> memories;
  for (int device = 0; device < num_devices; ++device) {
    memories.push_back(device / static_cast<int>(axes.back().size));
  }
  set_memories_for_testing(memories);
  const Mesh mesh(std::move(axes));
  set_memories_for_testing({});
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
