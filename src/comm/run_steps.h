// run_steps.h: runs the steps of a redistribution on shards.

#pragma once

#include <torch_mesh/redistribute.h>

#include "shard/shard.h"

namespace torch_mesh {

// Runs the steps that a planner chose, and counts each; chooses nothing.
//
//   shards     one for each lane of redistribution.from
//   result[i]  one for each lane of redistribution.to; may alias `shards`
//              (a slice, a lane that stays)
//
// Requires: a LocalOps guard on this thread.
Shards run_redistribution(
    const Redistribution& redistribution,
    const Shards& shards);

// Many at once, step by step: equal steps of several values (of one kind, along
// one axis of one mesh, of one dtype) are one collective of at most
// kBucketBytes (flat_sum.h), and one call of the communicator.
//
//   moves    of each value
//   shards   of each value; become those of its moves.to
void run_redistributions(
    c10::ArrayRef<const Redistribution*> moves,
    std::vector<Shards>& shards);

}  // namespace torch_mesh
