// select_slice.h: select and slice of dims that no axis shards.

#pragma once

#include "dispatch/op.h"

namespace torch_mesh {

// `select.int`, `slice.Tensor`: on a whole dim every shard is selected or
// sliced alike, so the offset is a matter of the run and no plan is made for it
// (law 9). Other calls, and those that torch has to complain about, are
// planned.
bool run_select(const Op& op, Stack& stack);
bool run_slice(const Op& op, Stack& stack);

}  // namespace torch_mesh
