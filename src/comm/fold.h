// fold.h: parts of a sum that lie in one memory, as one.

#pragma once

#include <cstdint>
#include <span>

#include <torch_mesh/mesh.h>

#include "shard/shard.h"

namespace torch_mesh {

// Parts are added up two by two: places that differ in their lowest bit first,
// sums of these next, and so on. So a sum is the same, to the bit, whether the
// devices of an aligned run of places share a memory, and add up first, or not.
// Half-precision sums are formed in float32 and rounded once.
//
//   places   of the parts; rising
//   are_new  nobody else has their memory: it may be used up
struct Parts {
  std::span<const at::Tensor> parts;
  std::span<const int64_t> places;
  bool are_new = false;
};
// May be one of the parts, if there is but one.
at::Tensor sum_of(Parts parts);
// Writes it into `sum`, of the same sizes and dtype, which may be one of them.
void sum_into(const at::Tensor& sum, Parts parts);

// Place of a device along some axes as `Parts` has it: the last axis is added
// up first.
int64_t place_along(const Mesh& mesh, AxisMask axes, int device);

// Sums lanes of a finer layout into those of a coarser one, as a contraction
// over sharded axes leaves them.
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

}  // namespace torch_mesh
