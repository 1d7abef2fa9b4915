// lowered_plan.h: a plan with the instructions that carry it out, and all that
// can be worked out before they run.

#pragma once

#include <cstdint>
#include <vector>

#include "lower/instruction.h"
#include "plan/plan.h"

namespace torch_mesh {

struct LoweredPlan {
  // A tensor argument as the lanes of the execution read it.
  struct Input {
    bool moves = false;         // the redistribution has steps
    bool reduces_only = false;  // all of its steps are all-reduces
    // Shard that lane i of the execution reads; empty: shard i.
    std::vector<int> shard_of_lane;
    // Lanes that read -0.0 instead (sums that count once); empty: none.
    std::vector<bool> reads_zero;
    int64_t cut_dim = -1;  // where the plan joins
  };

  // A returned tensor.
  struct Output {
    bool folds = false;  // lanes are summed
    // Lane of the execution that yields shard i; used where !folds.
    std::vector<int> lane_of_shard;
    std::vector<std::vector<int64_t>> local_sizes;  // expected, for each lane
    int64_t cut_dim = -1;                           // where the plan joins
    // Whether a device has one element of a dim of more.
    bool hides_order = false;
    // Of the whole, where local strides say too little: of a dim of which they
    // show one element. Else empty.
    std::vector<int64_t> strides;
    // What follows for each shard.
    std::vector<std::vector<int64_t>> shard_strides;
    bool is_certain = false;  // no kernel lays the whole out in another way
  };

  // Where a view lies in its storage, by the rules of plain torch.
  struct Window {
    std::vector<int64_t> sizes;
    std::vector<int64_t> strides;
    int64_t offset;  // relative to that of the argument, in elements
  };

  Plan plan;
  bool in_parallel = false;
  // Whether one local op on the whole tensors does it, if the shards of each
  // argument lie side by side (shard/joined.h).
  bool joins = false;
  // Whether that pays where the lanes could be shared out among threads.
  bool joins_on_teams = false;
  std::vector<Input> inputs;
  bool moves_any = false;  // of the inputs
  std::vector<Output> outputs;
  std::vector<Window> windows;  // of a view op, one for each returned tensor
  // Lanes compute in float32, their parts are summed so, and results rounded to
  // float16: a part of such a sum may overflow where the sum does not.
  bool widens = false;
  bool lacks_rule = false;  // to be counted as computed on replicas

  // Of a call whose arguments lie in storages of their own.
  Instructions instructions;
};

// Works out the lanes: which shard each reads and yields, and whether they may
// join. Instructions and `windows` stay empty.
LoweredPlan assign_lanes(Plan plan);

}  // namespace torch_mesh
