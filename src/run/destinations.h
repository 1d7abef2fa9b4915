// destinations.h: what lanes write into a destination that is a sum, or that is
// not on their mesh.
//
// Devices in one memory hold a partial sum in one buffer, which the first of
// them reads; the others read -0.0. A write in place (index_put_, addmm_) needs
// a buffer for each of the others, and what they wrote is added at the end.

#pragma once

#include <vector>

#include "lower/lowered_plan.h"
#include "shard/shard.h"

namespace torch_mesh {

// The shard that a lane of the execution reads.
int shard_of_lane(const LoweredPlan::Input& input, int lane);

// Whether it reads -0.0 in its place.
bool reads_zero(const LoweredPlan::Input& input, int lane);

// added[lane]: a buffer of -0.0 for a lane that reads zero, else undefined.
std::vector<at::Tensor> added_destinations(
    const LoweredPlan::Input& input,
    const Shards& shards,
    int num_lanes);

// Adds what is in these buffers to the shards.
void sum_destinations(
    const LoweredPlan::Input& input,
    const std::vector<at::Tensor>& added,
    const Shards& shards);

// A plain tensor as an argument of local ops, for each memory: a copy where it
// is written; a number in CPU memory is one that kernels of any device take.
Shards on_each(const Mesh& mesh, const at::Tensor& whole, bool is_written);

}  // namespace torch_mesh
