// sums.h: an all-reduce along a set of axes, as collectives along one each.
//
// Along a first axis of n devices a sum is scattered, so that an n-th of it is
// left to reduce along the others, and then gathered. The pieces are chunks of
// a flat run of elements: they are even to one element whatever the sizes are.

#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <torch_mesh/redistribute.h>

namespace torch_mesh {

// The collectives: fewest bytes received by the device that receives most, then
// fewest collectives; axes in the order of the mesh. So a single number, which
// cannot be scattered, is reduced along one axis after the other. Where the
// mesh sums its last axis first (Mesh::sums_last_axis_first) they come in that
// order.
//
//   axes     at least one
//   numel    elements that the device which holds most has
std::vector<Step::Part> parts_of_sum(
    const Mesh& mesh,
    AxisMask axes,
    int64_t numel,
    int64_t itemsize);

// The same of lanes that hold `numel` elements each, with what each device
// receives from other memories.
//
//   cut      axes that make lanes
std::vector<Step::Part> parts_of_sum(
    const Mesh& mesh,
    AxisMask axes,
    AxisMask cut,
    std::span<const int64_t> numel,
    int64_t itemsize);

}  // namespace torch_mesh
