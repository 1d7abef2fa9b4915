// groups.h: who takes part in a collective along a mesh axis.

#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <torch_mesh/mesh.h>

namespace torch_mesh {

// The lanes that hold parts of the sums over `axis` that `device` takes part
// in, in the order of the axis: devices of one memory hold one part together.
std::vector<int> parts_of(
    const Mesh& mesh,
    int axis,
    const Lanes& lanes,
    int device);

// A lane among those that sum along an axis with it.
struct Member {
  std::vector<int> group;  // lanes, as `parts_of` gives them
  int64_t place;           // of the lane in it
};
Member member_of_group(
    const Mesh& mesh,
    int axis,
    const Lanes& lanes,
    int lane);

// Elements that the device which receives most receives when n devices sum
// `numel` elements in a ring: of n chunks it forms the sum of one, and gets the
// others.
int64_t received_in_ring(int64_t numel, int64_t n);

// Elements that each device receives from other memories when an axis is
// summed so.
//
//   cut     axes that make lanes
//   numel   of what each lane holds
//   result  [devices]; of the devices that share a lane the first receives
std::vector<int64_t> received_in_rings(
    const Mesh& mesh,
    int axis,
    AxisMask cut,
    std::span<const int64_t> numel);

}  // namespace torch_mesh
