// plain_destinations.h: ops that write what they compute of global tensors into
// plain ones.

#pragma once

#include "run/call_tensors.h"

namespace torch_mesh {

// Whether the op writes in place to a plain tensor of the call. Lists and
// `out=` see to theirs themselves.
bool writes_plain(const Op& op, const CallTensors& tensors);

// Runs such an op once, on whole values. One that returns its destinations
// alone is torch's own op on the plain ones, with its checks and its order of
// writes; one that makes new tensors (batch norm) stays on the mesh, and its
// plain destinations get what was written to global stand-ins.
//
// The arguments are the last ones of the stack; results replace them.
void run_on_plain(const Op& op, const CallTensors& tensors, Stack& stack);

}  // namespace torch_mesh
