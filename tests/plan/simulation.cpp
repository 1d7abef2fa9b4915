// simulation.cpp: steps on numbers, each written as its definition says.

#include "plan/simulation.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>

namespace torch_mesh::simulated {
namespace {

// The indices, among 0 .. length, that the i-th of n devices keeps.
Sizes kept(int64_t length, const Placement& placement, int64_t n, int64_t i) {
  const int64_t block = placement.block == 0 ? length : placement.block;
  const int64_t piece = (block + n - 1) / n;
  Sizes result;
  for (int64_t index = 0; index < length; ++index) {
    if (index % block / piece == i) {
      result.push_back(index);
    }
  }
  return result;
}

// Calls f(position in `part`, position in the whole) for each element of
// `part`, which has the elements of `dim` at `indices` of `length` only.
template <typename F>
void match(
    const Numbers& part,
    int64_t dim,
    const Sizes& indices,
    int64_t length,
    F f) {
  int64_t inner = 1;
  for (size_t d = dim + 1; d < part.sizes.size(); ++d) {
    inner *= part.sizes[d];
  }
  for (int64_t here = 0; here < part.numel(); ++here) {
    const int64_t index = here / inner % part.sizes[dim];
    const int64_t outer = here / inner / part.sizes[dim];
    f(here, (outer * length + indices[index]) * inner + here % inner);
  }
}

}  // namespace

// --- numbers -----------------------------------------------------------------

int64_t Numbers::numel() const {
  return std::accumulate(
      sizes.begin(), sizes.end(), int64_t{1}, std::multiplies<>());
}

Numbers Numbers::zeros(Sizes sizes) {
  Numbers result = {std::move(sizes), {}};
  result.values.resize(result.numel());
  return result;
}

Numbers Numbers::picked(int64_t dim, const Sizes& indices) const {
  Sizes fewer = sizes;
  fewer[dim] = static_cast<int64_t>(indices.size());
  Numbers result = zeros(fewer);
  match(result, dim, indices, sizes[dim], [&](int64_t here, int64_t there) {
    result.values[here] = values[there];
  });
  return result;
}

void Numbers::put(int64_t dim, const Sizes& indices, const Numbers& piece) {
  match(piece, dim, indices, sizes[dim], [&](int64_t here, int64_t there) {
    values[there] = piece.values[here];
  });
}

// --- devices -----------------------------------------------------------------

Simulation::Simulation(
    const Numbers& whole,
    const Layout& layout,
    std::mt19937_64& random)
    : layout_(layout), shards_(mesh().size(), whole) {
  for (int axis = 0; axis < mesh().num_axes(); ++axis) {
    if (layout[axis].is_partial()) {
      split_sum(axis, random);
    }
  }
  for (int device = 0; device < mesh().size(); ++device) {
    Numbers& shard = shards_[device];
    for (int axis = 0; axis < mesh().num_axes(); ++axis) {
      if (layout[axis].is_shard()) {
        shard = cut(shard, layout[axis], device, axis);
      }
    }
  }
}

int64_t Simulation::run(const Step& step) {
  if (!step.parts.empty()) {
    run_sums(step.axes());
    return 0;
  }
  std::vector<Numbers> after;
  int64_t most = 0;
  for (int device = 0; device < mesh().size(); ++device) {
    int64_t received = 0;
    after.push_back(result_on(device, step, received));
    most = std::max(most, received);
  }
  shards_ = std::move(after);
  layout_ = layout_.with(step.axis, step.to);
  return most;
}

// One after the other: in whole numbers the order does not matter.
void Simulation::run_sums(AxisMask axes) {
  for (int axis = 0; axis < mesh().num_axes(); ++axis) {
    if (axes >> axis & 1) {
      std::vector<Numbers> sums;
      for (int device = 0; device < mesh().size(); ++device) {
        sums.push_back(reduced(device, axis));
      }
      shards_ = std::move(sums);
      layout_ = layout_.with(axis, Placement::replicate());
    }
  }
}

std::vector<uint64_t> Simulation::summed(int device) const {
  std::vector<uint64_t> sum(shards_[device].values.size());
  for (int other = 0; other < mesh().size(); ++other) {
    if (differs_on_partial_axes_only(device, other)) {
      for (size_t i = 0; i < sum.size(); ++i) {
        sum[i] += shards_[other].values.at(i);
      }
    }
  }
  return sum;
}

bool Simulation::agrees_with(const Simulation& wanted) const {
  if (layout_ != wanted.layout_) {
    return false;
  }
  for (int device = 0; device < mesh().size(); ++device) {
    if (shards_[device].sizes != wanted.shards_[device].sizes ||
        summed(device) != wanted.summed(device)) {
      return false;
    }
  }
  return true;
}

// Takes random numbers off the first device of the axis, and gives each other
// device its share of these.
void Simulation::split_sum(int axis, std::mt19937_64& random) {
  const std::vector<Numbers> before = shards_;
  const uint64_t salt = random();
  for (int device = 0; device < mesh().size(); ++device) {
    const int64_t i = mesh().coordinate(device, axis);
    for (size_t e = 0; e < shards_[device].values.size(); ++e) {
      uint64_t& value = shards_[device].values[e];
      const uint64_t old = before[device].values[e];
      auto part = [&](int64_t of) {
        return (old ^ salt) * (2 * static_cast<uint64_t>(of) + 1);
      };
      value = i == 0 ? old : part(i);
      for (int64_t of = 1; i == 0 && of < mesh().axis(axis).size; ++of) {
        value -= part(of);
      }
    }
  }
}

Numbers Simulation::cut(
    const Numbers& numbers,
    const Placement& placement,
    int device,
    int axis) const {
  return numbers.picked(
      placement.dim,
      kept(
          numbers.sizes[placement.dim],
          placement,
          mesh().axis(axis).size,
          mesh().coordinate(device, axis)));
}

Numbers Simulation::result_on(int device, const Step& step, int64_t& received)
    const {
  switch (step.kind) {
    case Step::Kind::kSlice:
      return cut(shards_[device], step.to, device, step.axis);
    case Step::Kind::kAllGather:
    case Step::Kind::kAllToAll:
      return gathered(device, step, received);
    case Step::Kind::kAllReduce:
      return reduced(device, step.axis);
    case Step::Kind::kReduceScatter:
      return cut(reduced(device, step.axis), step.to, device, step.axis);
    case Step::Kind::kToPartial:
      return mesh().coordinate(device, step.axis) == 0
                 ? shards_[device]
                 : Numbers::zeros(shards_[device].sizes);
  }
  return {};
}

Numbers Simulation::reduced(int device, int axis) const {
  Numbers sum = Numbers::zeros(shards_[device].sizes);
  for (int64_t i = 0; i < mesh().axis(axis).size; ++i) {
    const Numbers& part = shards_[mesh().neighbour(device, axis, i)];
    for (size_t e = 0; e < sum.values.size(); ++e) {
      sum.values[e] += part.values.at(e);
    }
  }
  return sum;
}

Numbers Simulation::gathered(int device, const Step& step, int64_t& received)
    const {
  const int64_t n = mesh().axis(step.axis).size;
  std::vector<Numbers> pieces;
  int64_t length = 0;
  for (int64_t i = 0; i < n; ++i) {
    const int member = mesh().neighbour(device, step.axis, i);
    Numbers piece = shards_[member];
    if (step.kind == Step::Kind::kAllToAll) {
      piece = cut(piece, step.to, device, step.axis);
    }
    length += piece.sizes[step.from.dim];
    received += member == device ? 0 : piece.numel();
    pieces.push_back(std::move(piece));
  }
  Sizes sizes = pieces[0].sizes;
  sizes[step.from.dim] = length;
  Numbers whole = Numbers::zeros(sizes);
  for (int64_t i = 0; i < n; ++i) {
    whole.put(step.from.dim, kept(length, step.from, n, i), pieces[i]);
  }
  return whole;
}

bool Simulation::differs_on_partial_axes_only(int device, int other) const {
  for (int axis = 0; axis < mesh().num_axes(); ++axis) {
    if (!layout_[axis].is_partial() &&
        mesh().coordinate(device, axis) != mesh().coordinate(other, axis)) {
      return false;
    }
  }
  return true;
}

}  // namespace torch_mesh::simulated
