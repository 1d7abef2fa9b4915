// communicator_steps.h: runs the steps of a redistribution on shards.

#pragma once

#include <torch_mesh/redistribute.h>

#include "shard/local_ops.h"
#include "shard/shard.h"

namespace torch_mesh {

// Runs the steps that a planner chose; chooses nothing, and counts each.
//
//   shards     one tensor for each lane of redistribution.from
//   result[i]  one for each lane of redistribution.to; may alias `shards`
//              (a slice, a lane that stays)
//
// Requires: a LocalOps guard on this thread.
Shards run_redistribution(
    const Redistribution& redistribution,
    const Shards& shards);

// The same without counting, for steps that the caller counts.
Shards run_steps_uncounted(
    const Redistribution& redistribution,
    const Shards& shards);

// Sums lanes of a finer layout into those of a coarser one, as a contraction
// over sharded axes leaves them. Half-precision sums are formed in float32 and
// rounded once.
//
//   parts      one tensor for each lane of mesh.lanes(fine); used up
//   result     one for each lane of mesh.lanes(coarse); coarse is within fine
//   summed     the axes along which parts are added; along others of `fine`
//              that `coarse` lacks all parts are equal, and one is taken
Shards fold_lanes(
    const Mesh& mesh,
    AxisMask fine,
    AxisMask coarse,
    AxisMask summed,
    Shards parts);

// The sum of `parts`, in order; the first is used up.
at::Tensor sum_of(c10::ArrayRef<at::Tensor> parts);

}  // namespace torch_mesh
