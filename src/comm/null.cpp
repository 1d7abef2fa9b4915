// null.cpp: zeros in place of what others have.

#include "comm/null.h"

#include <ATen/ops/zeros.h>

#include "shard/local_ops.h"
#include "trace/counters.h"

namespace torch_mesh {
namespace {

// What a device of ours holds after a step.
Shards zeros_of(const Communicator::Moved& moved) {
  const Lanes& lanes = moved.step.after.lanes();
  Shards result(lanes.num);
  for (const int lane : lanes.mine) {
    const int device = lanes.first_device[lane];
    result[lane] = at::zeros(
        shard_sizes(moved.step.after, moved.sizes, device),
        moved.shards.any().local().options());
  }
  return result;
}

std::vector<Shards> zeros_after(Communicator::Bucket bucket) {
  count_call(bucket[0].step);
  std::vector<Shards> results;
  for (const Communicator::Moved& moved : bucket) {
    results.push_back(zeros_of(moved));
  }
  return results;
}

class Null final : public Communicator {
 public:
  std::vector<Shards> all_reduce(
      const Mesh& mesh,
      std::span<const Step::Part> how,
      AxisMask,
      const std::vector<Shards>& operands) override {
    for (const Step::Part& part : how) {
      count_call(part.kind, mesh, part.axis);
    }
    std::vector<Shards> sums = operands;
    for (Shards& sum : sums) {
      for (Shard& shard : sum) {
        shard = shard.local().clone();
      }
    }
    return sums;
  }
  std::vector<Shards> reduce_scatter(Bucket parts) override {
    return zeros_after(parts);
  }
  std::vector<Shards> all_gather(Bucket shards) override {
    return zeros_after(shards);
  }
  std::vector<Shards> all_to_all(Bucket shards) override {
    return zeros_after(shards);
  }
  void copy(const Mesh& mesh, int axis, const std::vector<Copy>& copies)
      override {
    if (axis >= 0) {
      count_call(Step::Kind::kAllToAll, mesh, axis);
    }
    for (const Copy& copy : copies) {
      if (!copy.target.defined()) {
        continue;
      }
      if (copy.source.defined()) {
        copy.target.local().copy_(copy.source.local());
      } else {
        copy.target.local().zero_();
      }
    }
  }
};

}  // namespace

Communicator& null_communicator() {
  static auto& null = *new Null;
  return null;
}

}  // namespace torch_mesh
