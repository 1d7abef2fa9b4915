// communicator_steps.cpp: the collectives of the devices of one process, as
// torch ops on their shards.

#include "comm/communicator_steps.h"

#include <algorithm>
#include <numeric>

#include <ATen/ops/add.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full_like.h>

#include <torch_mesh/error.h>

#include "shard/local_ops.h"
#include "shard/slice.h"
#include "trace/counters.h"

namespace torch_mesh {
namespace {

// A dim as rows of blocks: [.., m, ..] -> [.., m / block, block, ..].
at::Tensor unfold_blocks(const at::Tensor& t, int64_t dim, int64_t block) {
  std::vector<int64_t> sizes = t.sizes().vec();
  const int64_t blocks = sizes[dim] / block;
  sizes[dim] = blocks;
  sizes.insert(sizes.begin() + dim + 1, block);
  return t.reshape(sizes);
}

at::Tensor fold_blocks(const at::Tensor& t, int64_t dim) {
  return t.flatten(dim, dim + 1);
}

// What the i-th of n devices keeps of a tensor that `placement` cuts.
at::Tensor cut(
    const at::Tensor& whole,
    const Placement& placement,
    int64_t n,
    int64_t i) {
  const int64_t dim = placement.dim;
  if (placement.block == 0) {
    const Range range = chunk(whole.size(dim), n, i);
    return slice_of(whole, dim, range.begin, range.length);
  }
  const int64_t part = placement.block / n;
  return fold_blocks(
      unfold_blocks(whole, dim, placement.block)
          .narrow(dim + 1, i * part, part),
      dim);
}

// The pieces one after the other along `dim`. The whole has the pieces' order
// of dims in memory, which cat would make row-major.
at::Tensor join_in_order(std::vector<at::Tensor> pieces, int64_t dim) {
  const at::Tensor first = pieces[0];
  if (first.is_contiguous()) {
    return at::cat(pieces, dim);
  }
  std::vector<int64_t> outer_first(first.dim());
  std::iota(outer_first.begin(), outer_first.end(), 0);
  std::stable_sort(
      outer_first.begin(), outer_first.end(), [&](int64_t a, int64_t b) {
        return first.stride(a) > first.stride(b);
      });
  std::vector<int64_t> places(outer_first.size());
  for (size_t i = 0; i < outer_first.size(); ++i) {
    places[outer_first[i]] = static_cast<int64_t>(i);
  }
  for (at::Tensor& piece : pieces) {
    piece = piece.permute(outer_first);
  }
  return at::cat(pieces, places[dim]).permute(places);
}

// Undoes `cut`: the pieces of all n devices, in order.
at::Tensor join(std::vector<at::Tensor> pieces, const Placement& placement) {
  const int64_t dim = placement.dim;
  if (placement.block == 0) {
    return join_in_order(std::move(pieces), dim);
  }
  const int64_t part = placement.block / static_cast<int64_t>(pieces.size());
  for (at::Tensor& piece : pieces) {
    piece = unfold_blocks(piece, dim, part);
  }
  return fold_blocks(at::cat(pieces, dim + 1), dim);
}

// One step on all lanes.
class StepRunner {
 public:
  StepRunner(const Layout& before, const Step& step, const Shards& shards)
      : mesh_(before.mesh()),
        before_(before.lanes()),
        after_(step.after.lanes()),
        step_(step),
        shards_(shards),
        n_(mesh_.axis(step.axis).size) {}

  Shards run() const {
    using Kind = Step::Kind;
    if (mesh_.one_memory() &&
        (step_.kind == Kind::kAllReduce || step_.kind == Kind::kToPartial)) {
      return shards_;
    }
    Shards result;
    result.reserve(after_.num);
    for (int lane = 0; lane < after_.num; ++lane) {
      result.push_back(on_device(after_.first_device[lane]));
    }
    return result;
  }

 private:
  at::Tensor on_device(int device) const {
    const int64_t i = mesh_.coordinate(device, step_.axis);
    switch (step_.kind) {
      case Step::Kind::kSlice:
        return cut(shard(device, device), step_.to, n_, i);
      case Step::Kind::kAllGather:
        return join(members(device), step_.from);
      case Step::Kind::kAllReduce:
        return reduced(device);
      case Step::Kind::kReduceScatter:
        return cut(reduced(device), step_.to, n_, i);
      case Step::Kind::kAllToAll: {
        std::vector<at::Tensor> pieces = members(device);
        for (at::Tensor& piece : pieces) {
          piece = cut(piece, step_.to, n_, i);
        }
        return join(std::move(pieces), step_.from);
      }
      case Step::Kind::kToPartial:
        return keeps_value(device) ? shard(device, device)
                                   : at::full_like(shard(device, device), -0.0);
    }
    TORCH_MESH_ASSERT(false, "a step of no kind");
  }

  // The shard that `device` holds, brought to `reader`.
  at::Tensor shard(int device, int reader) const {
    const at::Tensor& shard = shards_[before_.lane_of_device[device]].local();
    return mesh_.memory(device) == mesh_.memory(reader)
               ? shard
               : shard.to(torch_device(mesh_.devices()[reader]));
  }

  std::vector<at::Tensor> members(int device) const {
    std::vector<at::Tensor> members;
    for (int64_t i = 0; i < n_; ++i) {
      members.push_back(shard(mesh_.neighbour(device, step_.axis, i), device));
    }
    return members;
  }

  // The sum over the axis; devices in one memory hold one folded part.
  at::Tensor reduced(int device) const {
    std::vector<at::Tensor> parts;
    std::vector<int> seen;
    for (int64_t i = 0; i < n_; ++i) {
      const int member = mesh_.neighbour(device, step_.axis, i);
      const int lane = before_.lane_of_device[member];
      if (std::find(seen.begin(), seen.end(), lane) == seen.end()) {
        seen.push_back(lane);
        parts.push_back(shard(member, device));
      }
    }
    if (parts.size() == 1) {
      return parts[0];
    }
    parts[0] = parts[0].clone();
    return sum_of(parts);
  }

  // Whether the first device of the axis shares the lane of `device`.
  bool keeps_value(int device) const {
    return before_.lane_of_device[mesh_.neighbour(device, step_.axis, 0)] ==
           before_.lane_of_device[device];
  }

  const Mesh& mesh_;
  const Lanes& before_;
  const Lanes& after_;
  const Step& step_;
  const Shards& shards_;
  const int64_t n_;
};

}  // namespace

Shards run_steps_uncounted(
    const Redistribution& redistribution,
    const Shards& shards) {
  Shards current = shards;
  Layout layout = redistribution.from;
  for (const Step& step : redistribution.steps) {
    current = StepRunner(layout, step, current).run();
    layout = step.after;
  }
  return current;
}

Shards run_redistribution(
    const Redistribution& redistribution,
    const Shards& shards) {
  for (const Step& step : redistribution.steps) {
    const Mesh::Axis& axis = redistribution.from.mesh().axis(step.axis);
    if (axis.size > 1) {
      count_collective(step.kind, axis.name, step.num_bytes);
    }
  }
  return run_steps_uncounted(redistribution, shards);
}

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
  for (int lane = 0; lane < from.num; ++lane) {
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
  Shards sums;
  for (const std::vector<at::Tensor>& group : groups) {
    sums.push_back(sum_of(group));
  }
  return sums;
}

}  // namespace torch_mesh
