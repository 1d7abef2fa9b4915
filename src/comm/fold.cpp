// fold.cpp: sums of the lanes of one memory.

#include "comm/fold.h"

#include <ATen/ops/add.h>

namespace torch_mesh {

at::Tensor sum_of(c10::ArrayRef<at::Tensor> parts) {
  const c10::ScalarType dtype = parts[0].scalar_type();
  if (dtype == at::kHalf || dtype == at::kBFloat16) {
    at::Tensor sum = parts[0].to(at::kFloat);
    for (size_t i = 1; i < parts.size(); ++i) {
      sum.add_(parts[i]);
    }
    return sum.to(dtype);
  }
  at::Tensor sum = parts[0];
  for (size_t i = 1; i < parts.size(); ++i) {
    sum.add_(parts[i]);
  }
  return sum;
}

Shards fold_lanes(
    const Mesh& mesh,
    AxisMask fine,
    AxisMask coarse,
    AxisMask summed,
    Shards parts) {
  const Lanes& from = mesh.lanes(fine);
  const Lanes& to = mesh.lanes(coarse);
  if (from.num == to.num) {
    return parts;
  }
  // Place along the axes whose parts are equal, as one number.
  auto place_among_equals = [&](int device) {
    int64_t place = 0;
    for (int axis = 0; axis < mesh.num_axes(); ++axis) {
      if ((fine & ~coarse & ~summed) >> axis & 1) {
        place = place * mesh.axis(axis).size + mesh.coordinate(device, axis);
      }
    }
    return place;
  };
  std::vector<std::vector<at::Tensor>> groups(to.num);
  std::vector<int64_t> places(to.num, -1);
  for (const int lane : from.mine) {
    const int device = from.first_device[lane];
    const int group = to.lane_of_device[device];
    const int64_t place = place_among_equals(device);
    if (groups[group].empty()) {
      places[group] = place;
    }
    if (places[group] == place) {
      groups[group].push_back(std::move(parts[lane]).local());
    }
  }
  Shards sums(to.num);
  for (const int lane : to.mine) {
    sums[lane] = sum_of(groups[lane]);
  }
  return sums;
}

}  // namespace torch_mesh
