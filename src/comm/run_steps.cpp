// run_steps.cpp: step by step; what a device does alone needs no communicator.

#include "comm/run_steps.h"

#include <algorithm>
#include <optional>
#include <span>

#include <ATen/ops/full_like.h>

#include <torch_mesh/error.h>

#include "comm/communicator.h"
#include "comm/pieces.h"
#include "core/shapes.h"
#include "shard/joined.h"
#include "trace/counters.h"

namespace torch_mesh {
namespace {

// R -> S: each device keeps its chunk of what it has.
Shards sliced(const Step& step, const Layout& before, const Shards& shards) {
  const Mesh& mesh = before.mesh();
  const std::vector<int>& lane_of = before.lanes().lane_of_device;
  const int64_t n = mesh.axis(step.axis).size;
  const Lanes& lanes = step.after.lanes();
  Shards result(lanes.num);
  for (const int lane : lanes.mine) {
    const int device = lanes.first_device[lane];
    const int64_t place = mesh.coordinate(device, step.axis);
    result[lane] = cut(shards[lane_of[device]].local(), step.to, n, place);
  }
  return result;
}

// R -> P+: the first device of the axis, and who shares its lane, keeps the
// value.
Shards as_parts(const Step& step, const Layout& before, const Shards& shards) {
  const Mesh& mesh = before.mesh();
  const std::vector<int>& lane_of = before.lanes().lane_of_device;
  const Lanes& lanes = step.after.lanes();
  Shards result(lanes.num);
  for (const int lane : lanes.mine) {
    const int device = lanes.first_device[lane];
    const Shard& shard = shards[lane_of[device]];
    const int first = mesh.neighbour(device, step.axis, 0);
    result[lane] = lane_of[first] == lane_of[device]
                       ? shard
                       : Shard(at::full_like(shard.local(), -0.0));
  }
  return result;
}

// S -> R or S of another dim, where all devices share a memory: the whole is
// put together once, or is there already, if the shards are slices of one
// tensor. Nothing where more than one axis cuts.
std::optional<Shards> joined(
    const Step& step,
    const Layout& before,
    const Shards& shards) {
  const Mesh& mesh = before.mesh();
  if (!mesh.one_memory() || before.sharded_axes() != AxisMask{1} << step.axis ||
      cut_dim(before) != step.from.dim) {
    return std::nullopt;
  }
  std::optional<at::Tensor> whole = join_shards(shards, step.from.dim);
  if (!whole) {
    std::vector<at::Tensor> pieces;
    for (const Shard& shard : shards) {
      pieces.push_back(shard.local());
    }
    whole = join(std::move(pieces), step.from);
  }
  if (step.to.is_replicate()) {
    return Shards{*whole};
  }
  const int64_t n = mesh.axis(step.axis).size;
  Shards result;
  for (const int device : step.after.lanes().first_device) {
    result.push_back(
        cut(*whole, step.to, n, mesh.coordinate(device, step.axis)));
  }
  return result;
}

// P+ -> R, along all axes of the step.
Shards reduced(const Step& step, const Layout& before, const Shards& shards) {
  const Step::Part alone = {step.kind, step.axis};
  const std::span<const Step::Part> how =
      step.parts.empty() ? std::span(&alone, 1) : std::span(step.parts);
  const Mesh& mesh = before.mesh();
  return communicator_of(mesh).all_reduce(
      mesh, how, before.sharded_axes(), {shards})[0];
}

Shards run_step(
    const Step& step,
    const Layout& before,
    std::span<const int64_t> sizes,
    const Shards& shards) {
  const Mesh& mesh = before.mesh();
  switch (step.kind) {
    case Step::Kind::kSlice:
      return sliced(step, before, shards);
    case Step::Kind::kToPartial:
      return mesh.one_memory() ? shards : as_parts(step, before, shards);
    case Step::Kind::kAllReduce:
      return mesh.one_memory() ? shards : reduced(step, before, shards);
    case Step::Kind::kReduceScatter:
      return communicator_of(mesh).reduce_scatter(
          {step, before, sizes, shards});
    case Step::Kind::kAllGather:
      if (auto result = joined(step, before, shards)) {
        return *std::move(result);
      }
      return communicator_of(mesh).all_gather({step, before, sizes, shards});
    case Step::Kind::kAllToAll:
      if (auto result = joined(step, before, shards)) {
        return *std::move(result);
      }
      return communicator_of(mesh).all_to_all({step, before, sizes, shards});
  }
  TORCH_MESH_ASSERT(false, "a step of no kind");
}

// One collective of many values.
struct Bucket {
  const Step* first;
  int64_t num_bytes = 0;
  std::vector<int64_t> received = {};

  bool takes(const Step& step) const {
    return step.kind == first->kind && step.axis == first->axis &&
           step.after.mesh() == first->after.mesh() &&
           num_bytes + step.num_bytes <= kBucketBytes;
  }
  void add(const Step& step) {
    num_bytes += step.num_bytes;
    received.resize(step.received.size());
    for (size_t device = 0; device < received.size(); ++device) {
      received[device] += step.received[device];
    }
  }
  void count() const {
    count_collective(
        first->kind, first->after.mesh(), first->axis, num_bytes, received);
  }
};

}  // namespace

void run_redistributions(
    c10::ArrayRef<const Redistribution*> moves,
    std::vector<Shards>& shards) {
  bool any = true;
  for (size_t stage = 0; any; ++stage) {
    any = false;
    std::vector<Bucket> buckets;
    for (size_t i = 0; i < moves.size(); ++i) {
      const std::vector<Step>& steps = moves[i]->steps;
      if (stage >= steps.size()) {
        continue;
      }
      any = true;
      const Step& step = steps[stage];
      if (!step.parts.empty()) {
        count_step(step);
      } else if (step.communicates()) {
        auto bucket = std::ranges::find_if(
            buckets, [&](const Bucket& open) { return open.takes(step); });
        if (bucket == buckets.end()) {
          bucket = buckets.insert(bucket, Bucket{&step});
        }
        bucket->add(step);
      }
      shards[i] = run_step(
          step,
          stage == 0 ? moves[i]->from : steps[stage - 1].after,
          moves[i]->sizes,
          shards[i]);
    }
    for (const Bucket& bucket : buckets) {
      bucket.count();
    }
  }
}

Shards run_redistribution(
    const Redistribution& redistribution,
    const Shards& shards) {
  Shards current = shards;
  Layout layout = redistribution.from;
  for (const Step& step : redistribution.steps) {
    count_step(step);
    current = run_step(step, layout, redistribution.sizes, current);
    layout = step.after;
  }
  return current;
}

}  // namespace torch_mesh
