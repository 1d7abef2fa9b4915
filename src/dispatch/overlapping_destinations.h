// overlapping_destinations.h: writes to tensors that lie over themselves.

#pragma once

#include "run/call_tensors.h"

namespace torch_mesh {

// Whether the op writes in place to a global tensor of which two elements may
// be one place in memory (`expand`, `as_strided`), and in which order matters.
// Ops that refuse such a destination have done so before.
bool writes_over_itself(const Op& op, const CallTensors& tensors);

// Runs such an op once, in plain memory: each destination is a view of its
// whole storage there, and the storage takes the values that are left. The
// arguments are the last ones of the stack; results replace them.
void run_over_itself(const Op& op, const CallTensors& tensors, Stack& stack);

}  // namespace torch_mesh
