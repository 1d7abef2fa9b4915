// lanes.cpp: which lane reads and yields which shard.

#include <algorithm>

#include "core/shapes.h"
#include "lower/lowered_plan.h"

namespace torch_mesh {
namespace {

// Below this many elements or multiplications a lane is run on the caller's
// thread: waking a team costs more.
constexpr int64_t kMinParallelWork = 32768;

// Up to this many a lane is run together with the others, where shards lie side
// by side. Above it two matrix products of one thread each beat one product of
// two; one thread alone has nothing to share out.
constexpr int64_t kMaxJoinedWork = int64_t{1} << 23;

LoweredPlan::Input prepare_input(
    const Plan& plan,
    const Redistribution& redistribution,
    const Lanes& executed) {
  LoweredPlan::Input input;
  input.moves = !redistribution.steps.empty();
  input.reduces_only =
      input.moves &&
      std::all_of(
          redistribution.steps.begin(),
          redistribution.steps.end(),
          [](const Step& step) { return step.kind == Step::Kind::kAllReduce; });
  const Lanes& held = redistribution.to.lanes();
  const AxisMask counts_once =
      redistribution.to.partial_axes() & plan.executed_on;
  bool is_identity = held.num == executed.num;
  for (int lane = 0; lane < executed.num; ++lane) {
    const int device = executed.first_device[lane];
    const int shard = held.lane_of_device[device];
    is_identity &= shard == lane;
    input.shard_of_lane.push_back(shard);
    // Of the devices that share a part of the sum the first reads it.
    bool zero = false;
    for (int axis = 0; axis < plan.mesh.num_axes(); ++axis) {
      if (counts_once >> axis & 1) {
        const int first = plan.mesh.neighbour(device, axis, 0);
        zero |= first != device && held.lane_of_device[first] == shard;
      }
    }
    input.reads_zero.push_back(zero);
  }
  if (is_identity) {
    input.shard_of_lane.clear();
  }
  if (counts_once == 0) {
    input.reads_zero.clear();
  }
  return input;
}

LoweredPlan::Output prepare_output(
    const Plan& plan,
    const Plan::Output& planned,
    const Lanes& executed) {
  LoweredPlan::Output output;
  const Lanes& held = planned.layout.lanes();
  output.folds = (planned.layout.partial_axes() & plan.executed_on) != 0 &&
                 held.num != executed.num;
  for (int device : held.first_device) {
    output.lane_of_shard.push_back(executed.lane_of_device[device]);
  }
  for (int device : executed.first_device) {
    output.local_sizes.push_back(
        shard_sizes(planned.layout, planned.sizes, device));
    const std::vector<int64_t>& sizes = output.local_sizes.back();
    for (size_t d = 0; d < sizes.size(); ++d) {
      output.hides_order |= sizes[d] == 1 && planned.sizes[d] > 1;
    }
  }
  return output;
}

// Whether a slice of a dense result along `dim` is dense itself.
bool is_outermost(const std::vector<int64_t>& sizes, int64_t dim) {
  for (int64_t d = 0; d < dim; ++d) {
    if (sizes[d] != 1) {
      return false;
    }
  }
  return true;
}

// Works out whether the lanes may join, and along which dims.
bool may_join(LoweredPlan& prepared, const Plan& plan) {
  for (size_t i = 0; i < plan.inputs.size(); ++i) {
    const std::optional<int64_t> dim =
        cut_dim(plan.inputs[i].redistribution.to);
    if (!dim) {
      return false;
    }
    prepared.inputs[i].cut_dim = *dim;
  }
  for (size_t o = 0; o < plan.outputs.size(); ++o) {
    const std::optional<int64_t> dim = cut_dim(plan.outputs[o].layout);
    if (!dim || !is_outermost(plan.outputs[o].sizes, *dim)) {
      return false;
    }
    prepared.outputs[o].cut_dim = *dim;
  }
  return true;
}

}  // namespace

LoweredPlan assign_lanes(Plan plan) {
  LoweredPlan prepared;
  const Lanes& executed = plan.mesh.lanes(plan.executed_on);
  prepared.in_parallel = executed.num > 1 && plan.work >= kMinParallelWork;
  for (const Plan::Input& input : plan.inputs) {
    prepared.inputs.push_back(
        prepare_input(plan, input.redistribution, executed));
    prepared.moves_any |= prepared.inputs.back().moves;
  }
  for (const Plan::Output& output : plan.outputs) {
    prepared.outputs.push_back(prepare_output(plan, output, executed));
  }
  prepared.joins = plan.kind == Plan::Kind::kLocal && executed.num > 1 &&
                   plan.mesh.one_memory() && may_join(prepared, plan);
  prepared.joins_on_teams = plan.work <= kMaxJoinedWork;
  prepared.plan = std::move(plan);
  return prepared;
}

}  // namespace torch_mesh
