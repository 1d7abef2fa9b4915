// sums.cpp: the choice between one axis after the other and scattered sums.

#include "plan/sums.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <utility>

#include "core/groups.h"

namespace torch_mesh {
namespace {

using Parts = std::vector<Step::Part>;

// Chooses for these axes; elements stand for bytes.
Parts cheapest(const Mesh& mesh, std::span<const int> axes, int64_t numel) {
  const int axis = axes[0];
  const int64_t n = mesh.axis(axis).size;
  Parts whole(1, {Step::Kind::kAllReduce, axis, received_in_ring(numel, n)});
  if (axes.size() == 1) {
    return whole;
  }
  auto append = [](Parts& parts, Parts more) {
    std::ranges::move(more, std::back_inserter(parts));
  };
  append(whole, cheapest(mesh, axes.subspan(1), numel));
  const int64_t piece = chunk(numel, n, 0).length;
  Parts cut = {{Step::Kind::kReduceScatter, axis, (n - 1) * piece}};
  append(cut, cheapest(mesh, axes.subspan(1), piece));
  cut.push_back(
      {Step::Kind::kAllGather, axis, numel - chunk(numel, n, n - 1).length});
  auto cost = [](const Parts& parts) {
    int64_t sum = 0;
    for (const Step::Part& part : parts) {
      sum += part.num_bytes;
    }
    return std::pair(sum, parts.size());
  };
  return cost(cut) < cost(whole) ? cut : whole;
}

// What each lane holds while the parts run, and what that brings to its first
// device.
class Holders {
 public:
  Holders(const Mesh& mesh, AxisMask cut, std::span<const int64_t> numel)
      : mesh_(mesh),
        cut_(cut),
        lanes_(mesh.lanes(cut)),
        numel_(numel.begin(), numel.end()) {}

  // Elements received by each device.
  std::vector<int64_t> run(const Step::Part& part) {
    if (part.kind == Step::Kind::kAllReduce) {
      return received_in_rings(mesh_, part.axis, cut_, numel_);
    }
    std::vector<int64_t> received(mesh_.size());
    if (part.kind == Step::Kind::kAllGather) {
      for (int lane = 0; lane < lanes_.num; ++lane) {
        received[lanes_.first_device[lane]] =
            before_.back()[lane] - numel_[lane];
      }
      numel_ = std::move(before_.back());
      before_.pop_back();
      return received;
    }
    before_.push_back(numel_);
    for (int lane = 0; lane < lanes_.num; ++lane) {
      const Member member = member_of_group(mesh_, part.axis, lanes_, lane);
      const auto n = static_cast<int64_t>(member.group.size());
      numel_[lane] = chunk(numel_[lane], n, member.place).length;
      received[lanes_.first_device[lane]] = numel_[lane] * (n - 1);
    }
    return received;
  }

 private:
  const Mesh& mesh_;
  const AxisMask cut_;
  const Lanes& lanes_;
  std::vector<int64_t> numel_;                // [lanes]
  std::vector<std::vector<int64_t>> before_;  // of each open scatter
};

}  // namespace

std::vector<Step::Part> parts_of_sum(
    const Mesh& mesh,
    AxisMask axes,
    int64_t numel,
    int64_t itemsize) {
  std::array<int, kMaxAxes> in_order;
  size_t num_axes = 0;
  for (int axis = 0; axis < mesh.num_axes(); ++axis) {
    if (axes >> axis & 1) {
      in_order[num_axes++] = axis;
    }
  }
  if (mesh.sums_last_axis_first()) {
    std::reverse(in_order.begin(), in_order.begin() + num_axes);
  }
  Parts parts = cheapest(mesh, std::span(in_order.data(), num_axes), numel);
  for (Step::Part& part : parts) {
    part.num_bytes *= itemsize;
  }
  return parts;
}

std::vector<Step::Part> parts_of_sum(
    const Mesh& mesh,
    AxisMask axes,
    AxisMask cut,
    std::span<const int64_t> numel,
    int64_t itemsize) {
  Parts parts =
      parts_of_sum(mesh, axes, *std::ranges::max_element(numel), itemsize);
  if (!mesh.one_memory()) {
    Holders holders(mesh, cut, numel);
    for (Step::Part& part : parts) {
      part.received = holders.run(part);
      for (int64_t& number : part.received) {
        number *= itemsize;
      }
    }
  }
  return parts;
}

}  // namespace torch_mesh
