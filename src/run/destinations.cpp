// destinations.cpp: a buffer for each lane that does not hold the sum.

#include "run/destinations.h"

#include <ATen/ops/empty_strided.h>

#include "shard/replicate_value.h"

namespace torch_mesh {

int shard_of_lane(const LoweredPlan::Input& input, int lane) {
  return input.shard_of_lane.empty() ? lane : input.shard_of_lane[lane];
}

bool reads_zero(const LoweredPlan::Input& input, int lane) {
  return !input.reads_zero.empty() && input.reads_zero[lane];
}

std::vector<at::Tensor> added_destinations(
    const LoweredPlan::Input& input,
    const Shards& shards,
    int num_lanes) {
  std::vector<at::Tensor> added(num_lanes);
  for (int lane = 0; lane < num_lanes; ++lane) {
    const at::Tensor& part = shards[shard_of_lane(input, lane)].local();
    if (reads_zero(input, lane) && part.defined()) {
      added[lane] =
          at::empty_strided(part.sizes(), part.strides(), part.options())
              .fill_(-0.0);
    }
  }
  return added;
}

void sum_destinations(
    const LoweredPlan::Input& input,
    const std::vector<at::Tensor>& added,
    const Shards& shards) {
  for (size_t lane = 0; lane < added.size(); ++lane) {
    if (added[lane].defined()) {
      shards[shard_of_lane(input, static_cast<int>(lane))].local().add_(
          added[lane]);
    }
  }
}

Shards on_each(const Mesh& mesh, const at::Tensor& whole, bool is_written) {
  if (is_written) {
    return replicate_value(whole, mesh, Copies::kAlways);
  }
  if (whole.dim() == 0 && whole.device().is_cpu()) {
    return on_lanes(mesh.lanes(0), whole);
  }
  return replicate_value(whole, mesh, Copies::kElsewhere);
}

}  // namespace torch_mesh
