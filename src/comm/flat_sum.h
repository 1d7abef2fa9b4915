// flat_sum.h: pending sums of many values, formed at once.

#pragma once

#include <span>
#include <vector>

#include <c10/core/ScalarType.h>
#include <c10/util/SmallVector.h>

#include <torch_mesh/layout.h>
#include <torch_mesh/redistribute.h>

#include "shard/shard.h"

namespace torch_mesh {

// Most bytes of a collective of more than one value: of what a device sums,
// else of what it receives.
inline constexpr int64_t kBucketBytes = 25 << 20;

// Sums over the same axes, of one dtype, whose parts make one flat buffer on
// each device.
class FlatSum {
 public:
  // For sums like that of parts in `layout` over these axes.
  FlatSum(const Layout& layout, AxisMask axes, c10::ScalarType dtype);

  bool is_for(const Layout& layout, AxisMask axes, c10::ScalarType dtype) const;
  bool is_empty() const { return numel_.empty(); }
  // Whether a value of these sizes goes into the next one. An empty one takes
  // any.
  bool is_full_for(const Layout& layout, std::span<const int64_t> sizes) const;

  // sizes   of the whole value
  // parts   one for each lane; kept until the sum is formed
  void add(
      const Layout& layout,
      std::span<const int64_t> sizes,
      const Shards& parts);

  // Plans and counts the collectives that form the sums.
  std::vector<Step::Part> count() const;
  // Forms the sums as count() has it, one for each value that was added: of
  // parts in one memory it is there, and they are given back. Then it is empty
  // again. May be called on another thread.
  // Requires: a LocalOps guard on this thread; no lock of a storage is held.
  std::vector<Shards> form(std::span<const Step::Part> how);
  std::vector<Shards> form() { return form(count()); }

 private:
  int64_t bytes_of_first_lane(
      const Layout& layout,
      std::span<const int64_t> sizes) const;

  const Mesh mesh_;
  const AxisMask cut_;  // axes that make lanes
  const AxisMask axes_;
  const c10::ScalarType dtype_;
  int64_t num_bytes_ = 0;               // of the first lane
  c10::SmallVector<int64_t, 8> numel_;  // [lanes]; empty while nothing is added
  std::vector<Shards> parts_;           // [values]
};

}  // namespace torch_mesh
