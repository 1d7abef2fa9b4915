// groups.cpp: members of collectives, and what a ring brings to each.

#include "core/groups.h"

#include <algorithm>

#include <torch_mesh/layout.h>

namespace torch_mesh {
namespace {

// What the i-th of n members receives: its chunk of each other one's part, and
// all other chunks of the sum.
int64_t received_by_member(int64_t numel, int64_t n, int64_t i) {
  const int64_t own = chunk(numel, n, i).length;
  return own * (n - 1) + numel - own;
}

}  // namespace

std::vector<int> parts_of(
    const Mesh& mesh,
    int axis,
    const Lanes& lanes,
    int device) {
  std::vector<int> parts;
  for (int64_t i = 0; i < mesh.axis(axis).size; ++i) {
    const int lane = lanes.lane_of_device[mesh.neighbour(device, axis, i)];
    if (std::find(parts.begin(), parts.end(), lane) == parts.end()) {
      parts.push_back(lane);
    }
  }
  return parts;
}

Member member_of_group(
    const Mesh& mesh,
    int axis,
    const Lanes& lanes,
    int lane) {
  std::vector<int> group =
      parts_of(mesh, axis, lanes, lanes.first_device[lane]);
  const auto place = std::find(group.begin(), group.end(), lane);
  return {group, place - group.begin()};
}

int64_t received_in_ring(int64_t numel, int64_t n) {
  return n < 2 ? 0 : received_by_member(numel, n, 0);
}

std::vector<int64_t> received_in_rings(
    const Mesh& mesh,
    int axis,
    AxisMask cut,
    std::span<const int64_t> numel) {
  const Lanes& lanes = mesh.lanes(cut);
  std::vector<int64_t> received(mesh.size());
  for (int lane = 0; lane < lanes.num; ++lane) {
    const Member member = member_of_group(mesh, axis, lanes, lane);
    received[lanes.first_device[lane]] = received_by_member(
        numel[lane], static_cast<int64_t>(member.group.size()), member.place);
  }
  return received;
}

}  // namespace torch_mesh
