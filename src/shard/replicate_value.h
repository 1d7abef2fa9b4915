// replicate_value.h: a plain value as the replicas of a mesh.

#pragma once

#include <torch_mesh/mesh.h>

#include "shard/shard.h"

namespace torch_mesh {

enum class Copies {
  kElsewhere,  // where the value is already there, it is the replica itself
  kAlways,     // each replica is memory of its own
};

// The value on each lane of this process, without a copy.
Shards on_lanes(const Lanes& lanes, const at::Tensor& value);

// The whole value for each memory of the mesh: one for each lane of
// Layout::replicated(mesh).
Shards replicate_value(
    const at::Tensor& value,
    const Mesh& mesh,
    Copies copies);

}  // namespace torch_mesh
