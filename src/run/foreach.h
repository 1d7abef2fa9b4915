// foreach.h: ops on lists of tensors, element by element.

#pragma once

#include "run/op.h"

namespace torch_mesh {

// `_foreach_*`, `_fused_adam_` and their like: element i of every list belongs
// together and follows the layout of its first tensor. Elements are run in
// groups that are cut along the same axes, one local op a group and lane; all
// pending sums among the arguments are reduced first, in buckets. Elements that
// may overlap, or of which some may be refused, are run one after the other, as
// plain torch does: no write is lost, and on an error those before it are done.
//
// The arguments are the last ones of the stack; results replace them. Returns
// false, with the stack as it was, if the lists do not fit together.
bool run_foreach(const Op& op, Stack& stack);

// Whether that is how an op runs; by its name with its overload.
bool is_foreach_op(const std::string& name);

}  // namespace torch_mesh
