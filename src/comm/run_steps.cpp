// run_steps.cpp: step by step; what a device does alone needs no communicator.

#include "comm/run_steps.h"

#include <algorithm>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <ATen/ops/full_like.h>
#include <c10/util/SmallVector.h>

#include "comm/communicator.h"
#include "comm/flat_sum.h"
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
    result[lane] = lane_of[first] == lane_of[device] ? shard
                   : shard.dim() == 0
                       ? Shard(no_part(shard.local()))
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

// A step of one value, while others wait for theirs.
struct Move {
  const Step& step;
  const Layout& before;
  std::span<const int64_t> sizes;  // of the whole value
  Shards& shards;                  // become those after the step

  const Mesh& mesh() const { return before.mesh(); }
  c10::ScalarType dtype() const { return shards.any().scalar_type(); }
  // As kBucketBytes measures it.
  int64_t num_bytes() const {
    return step.kind == Step::Kind::kAllReduce ? shards.any().num_bytes()
                                               : step.num_bytes;
  }
  Communicator::Moved moved() const { return {step, before, sizes, shards}; }
};

// What a device does with what it has.
void run_alone(const Move& move) {
  const auto& [step, before, sizes, shards] = move;
  if (step.kind == Step::Kind::kSlice) {
    move.shards = sliced(step, before, shards);
  } else if (!move.mesh().one_memory()) {
    move.shards = as_parts(step, before, shards);
  }
}

// A sum by itself, as it was planned.
void form_sum(const Move& move) {
  const Step& step = move.step;
  count_step(step);
  if (move.mesh().one_memory()) {
    return;
  }
  const Step::Part alone = {step.kind, step.axis};
  const std::span<const Step::Part> how =
      step.parts.empty() ? std::span(&alone, 1) : std::span(step.parts);
  move.shards =
      communicator_of(move.mesh())
          .all_reduce(
              move.mesh(), how, move.before.sharded_axes(), {move.shards})[0];
}

using Moves = c10::SmallVector<const Move*, 4>;

void form_sums(const Moves& moves) {
  if (moves.size() == 1) {
    return form_sum(*moves[0]);
  }
  FlatSum flat(moves[0]->before, moves[0]->step.axes(), moves[0]->dtype());
  for (const Move* move : moves) {
    flat.add(move->before, move->sizes, move->shards);
  }
  std::vector<Shards> sums = flat.form();
  for (size_t i = 0; i < moves.size(); ++i) {
    moves[i]->shards = std::move(sums[i]);
  }
}

std::vector<Shards> communicate(
    Communicator& communicator,
    Communicator::Bucket bucket) {
  switch (bucket[0].step.kind) {
    case Step::Kind::kReduceScatter:
      return communicator.reduce_scatter(bucket);
    case Step::Kind::kAllGather:
      return communicator.all_gather(bucket);
    default:
      return communicator.all_to_all(bucket);
  }
}

// Everything but sums: those that one memory does not join travel.
void run_together(const Moves& moves) {
  Moves travelling;
  std::vector<Communicator::Moved> bucket;
  for (const Move* move : moves) {
    std::optional<Shards> there;
    if (move->step.kind != Step::Kind::kReduceScatter) {
      there = joined(move->step, move->before, move->shards);
    }
    if (there) {
      move->shards = *std::move(there);
    } else {
      travelling.push_back(move);
      bucket.push_back(move->moved());
    }
  }
  if (bucket.empty()) {
    return;
  }
  std::vector<Shards> there =
      communicate(communicator_of(moves[0]->mesh()), bucket);
  for (size_t i = 0; i < travelling.size(); ++i) {
    travelling[i]->shards = std::move(there[i]);
  }
}

// One collective of many values.
class Bucket {
 public:
  explicit Bucket(const Move& first) { add(first); }

  bool takes(const Move& move) const {
    const Move& first = *moves_[0];
    const bool is_like = move.step.kind == first.step.kind &&
                         move.step.axes() == first.step.axes() &&
                         move.step.axis == first.step.axis &&
                         move.mesh() == first.mesh() &&
                         move.dtype() == first.dtype() &&
                         bytes_of_bucket_ + move.num_bytes() <= kBucketBytes;
    return is_like && (!is_of_sums() || move.before.sharded_axes() ==
                                            first.before.sharded_axes());
  }

  void add(const Move& move) {
    moves_.push_back(&move);
    bytes_of_bucket_ += move.num_bytes();
    num_bytes_ += move.step.num_bytes;
    received_.resize(move.step.received.size());
    for (size_t device = 0; device < received_.size(); ++device) {
      received_[device] += move.step.received[device];
    }
  }

  void run() const {
    if (is_of_sums()) {
      return form_sums(moves_);
    }
    const Step& first = moves_[0]->step;
    count_collective(
        first.kind, moves_[0]->mesh(), first.axis, num_bytes_, received_);
    run_together(moves_);
  }

 private:
  bool is_of_sums() const {
    return moves_[0]->step.kind == Step::Kind::kAllReduce;
  }

  Moves moves_;
  int64_t bytes_of_bucket_ = 0;
  int64_t num_bytes_ = 0;  // received, as `received_`
  std::vector<int64_t> received_;
};

// All steps that come first, second, ... in their redistributions.
void run_stage(const std::vector<Move>& moves) {
  c10::SmallVector<Bucket, 1> buckets;
  for (const Move& move : moves) {
    if (!move.step.communicates()) {
      run_alone(move);
      continue;
    }
    const auto bucket = std::ranges::find_if(
        buckets, [&](const Bucket& open) { return open.takes(move); });
    if (bucket == buckets.end()) {
      buckets.emplace_back(move);
    } else {
      bucket->add(move);
    }
  }
  for (const Bucket& bucket : buckets) {
    bucket.run();
  }
}

}  // namespace

void run_redistributions(
    c10::ArrayRef<const Redistribution*> redistributions,
    std::vector<Shards>& shards) {
  std::vector<Move> moves;
  for (size_t stage = 0; stage == 0 || !moves.empty(); ++stage) {
    moves.clear();
    for (size_t i = 0; i < redistributions.size(); ++i) {
      const Redistribution& all = *redistributions[i];
      if (stage < all.steps.size()) {
        moves.push_back(
            {all.steps[stage],
             stage == 0 ? all.from : all.steps[stage - 1].after,
             all.sizes,
             shards[i]});
      }
    }
    run_stage(moves);
  }
}

Shards run_redistribution(
    const Redistribution& redistribution,
    const Shards& shards) {
  std::vector<Shards> all{shards};
  const Redistribution* one = &redistribution;
  run_redistributions(one, all);
  return std::move(all[0]);
}

}  // namespace torch_mesh
