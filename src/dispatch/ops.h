// ops.h: the operators that torch has, described once each.

#pragma once

#include "run/op.h"

namespace torch_mesh {

// The Op of an operator; made at the first call. Valid for ever; if the
// operator's library goes (a cell of a notebook that is run again) and another
// of that name comes, the new one has an Op of its own.
// Threads: safe.
const Op& op_of(const c10::OperatorHandle& handle);

// How many operators have gone: what was found by name before may be stale.
uint64_t num_ops_gone();

// The Op of "aten::add", "Tensor".
const Op& op_named(const char* name, const char* overload);

// Runs any op on global tensors. The boxed kernel of the mesh device.
void run_op(const Op& op, Stack& stack);

// Empties all plan caches.
void clear_plans();

}  // namespace torch_mesh
