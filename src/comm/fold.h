// fold.h: parts of a sum that lie in one memory, as one.

#pragma once

#include <torch_mesh/mesh.h>

#include "shard/shard.h"

namespace torch_mesh {

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
