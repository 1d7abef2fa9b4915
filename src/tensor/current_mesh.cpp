// current_mesh.cpp: the mesh of new tensors.

#include <atomic>

#include <torch_mesh/tensor.h>

namespace torch_mesh {
namespace {

std::atomic<Mesh> mesh_of_new_tensors{Mesh()};

}  // namespace

Mesh current_mesh() {
  return mesh_of_new_tensors.load(std::memory_order_acquire);
}

void set_current_mesh(const Mesh& mesh) {
  mesh_of_new_tensors.store(mesh, std::memory_order_release);
}

}  // namespace torch_mesh
