// foreach.h: ops on lists of tensors, element by element.

#pragma once

#include "dispatch/op.h"

namespace torch_mesh {

// `_foreach_*`, `_fused_adam_` and their like: element i of every list belongs
// together and follows the layout of its first tensor. Elements are run in
// groups that are cut along the same axes, one local op a group and lane; all
// pending sums among the arguments are reduced first, in buckets.
bool run_foreach(const Op& op, Stack& stack);

}  // namespace torch_mesh
