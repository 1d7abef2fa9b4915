// simulation.h: carries redistributions out on numbers, device by device.
//
// Written without what it tests: `chunk`, `cut_length` and `shard_sizes`.

#pragma once

#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include <torch_mesh/redistribute.h>

namespace torch_mesh::simulated {

using Sizes = std::vector<int64_t>;

// A dense tensor of integers; sums wrap around.
struct Numbers {
  Sizes sizes;
  std::vector<uint64_t> values;  // row-major

  int64_t numel() const;
  static Numbers zeros(Sizes sizes);
  // The elements at `indices` of `dim`.
  Numbers picked(int64_t dim, const Sizes& indices) const;
  // Writes `piece` to `indices` of `dim`.
  void put(int64_t dim, const Sizes& indices, const Numbers& piece);
};

// What each device holds.
class Simulation {
 public:
  // `whole` in `layout`, partial axes with random parts.
  Simulation(
      const Numbers& whole,
      const Layout& layout,
      std::mt19937_64& random);
  // Of which device i holds shards[i].
  Simulation(const Layout& layout, std::vector<Numbers> shards)
      : layout_(layout), shards_(std::move(shards)) {}

  const Layout& layout() const { return layout_; }
  const std::vector<Numbers>& shards() const { return shards_; }

  // Elements received by the device that receives most, for steps that gather.
  int64_t run(const Step& step);

  // The sum over the partial axes, as `device` would form it.
  std::vector<uint64_t> summed(int device) const;

  // Whether every device holds what it holds in `wanted`, sums formed.
  bool agrees_with(const Simulation& wanted) const;

 private:
  const Mesh& mesh() const { return layout_.mesh(); }
  void run_sums(AxisMask axes);
  void split_sum(int axis, std::mt19937_64& random);
  Numbers cut(
      const Numbers& numbers,
      const Placement& placement,
      int device,
      int axis) const;
  Numbers result_on(int device, const Step& step, int64_t& received) const;
  Numbers reduced(int device, int axis) const;
  Numbers gathered(int device, const Step& step, int64_t& received) const;
  bool differs_on_partial_axes_only(int device, int other) const;

  Layout layout_;
  std::vector<Numbers> shards_;  // [device]
};

}  // namespace torch_mesh::simulated
