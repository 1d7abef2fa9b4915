// common_mesh.cpp: an op is planned on one mesh.

#include <torch_mesh/error.h>

#include "plan/plan.h"

namespace torch_mesh {

Mesh common_mesh(const std::string& op, const Mesh& one, const Mesh& other) {
  TORCH_MESH_CHECK_VALUE(
      one.num_axes() == 0 || other.num_axes() == 0 || one == other,
      "mixed-meshes",
      op,
      ": the tensors live on two meshes.\n  mesh  ",
      one.str(),
      "\n  mesh  ",
      other.str(),
      "\nHint: bring one of them over with x.cpu() and "
      "torch_mesh.distribute(x, mesh, placements).");
  return one.num_axes() == 0 ? other : one;
}

}  // namespace torch_mesh
