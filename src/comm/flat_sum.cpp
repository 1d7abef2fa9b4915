// flat_sum.cpp: sizes add up, and one call of the communicator sums them all.

#include "comm/flat_sum.h"

#include <utility>

#include "comm/communicator.h"
#include "plan/received_bytes.h"
#include "plan/sums.h"
#include "trace/counters.h"

namespace torch_mesh {

FlatSum::FlatSum(const Layout& layout, AxisMask axes, c10::ScalarType dtype)
    : mesh_(layout.mesh()),
      cut_(layout.sharded_axes()),
      axes_(axes),
      dtype_(dtype) {}

bool FlatSum::is_for(const Layout& layout, AxisMask axes, c10::ScalarType dtype)
    const {
  return mesh_ == layout.mesh() && cut_ == layout.sharded_axes() &&
         axes_ == axes && dtype_ == dtype;
}

bool FlatSum::is_full_for(const Layout& layout, std::span<const int64_t> sizes)
    const {
  return !is_empty() &&
         num_bytes_ + bytes_of_first_lane(layout, sizes) > kBucketBytes;
}

void FlatSum::add(
    const Layout& layout,
    std::span<const int64_t> sizes,
    const Shards& parts) {
  const Lanes& lanes = layout.lanes();
  std::vector<int64_t> elsewhere;  // asked only where other processes hold some
  if (lanes.mine.size() < parts.size()) {
    elsewhere = numel_of_lanes(layout, sizes);
  }
  numel_.resize(parts.size());
  for (size_t lane = 0; lane < parts.size(); ++lane) {
    numel_[lane] += elsewhere.empty() ? parts[lane].numel() : elsewhere[lane];
  }
  num_bytes_ = numel_[0] * static_cast<int64_t>(c10::elementSize(dtype_));
  parts_.push_back(parts);
}

std::vector<Step::Part> FlatSum::count() const {
  std::vector<Step::Part> how = parts_of_sum(
      mesh_,
      axes_,
      cut_,
      numel_,
      static_cast<int64_t>(c10::elementSize(dtype_)));
  for (const Step::Part& part : how) {
    count_collective(
        part.kind, mesh_, part.axis, part.num_bytes, part.received);
  }
  return how;
}

std::vector<Shards> FlatSum::form(std::span<const Step::Part> how) {
  numel_.clear();
  num_bytes_ = 0;
  const std::vector<Shards> parts = std::exchange(parts_, {});
  return mesh_.one_memory()
             ? parts
             : communicator_of(mesh_).all_reduce(mesh_, how, cut_, parts);
}

int64_t FlatSum::bytes_of_first_lane(
    const Layout& layout,
    std::span<const int64_t> sizes) const {
  return numel_of_lanes(layout, sizes)[0] *
         static_cast<int64_t>(c10::elementSize(dtype_));
}

}  // namespace torch_mesh
