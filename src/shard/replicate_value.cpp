// replicate_value.cpp: one replica for each memory.

#include "shard/replicate_value.h"

#include "shard/local_ops.h"

namespace torch_mesh {

Shards replicate_value(
    const at::Tensor& value,
    const Mesh& mesh,
    Copies copies) {
  Shards replicas;
  for (int device : mesh.lanes(0).first_device) {
    replicas.push_back(value.to(
        torch_device(mesh.devices()[device]),
        value.scalar_type(),
        /*non_blocking=*/false,
        /*copy=*/copies == Copies::kAlways));
  }
  return replicas;
}

}  // namespace torch_mesh
