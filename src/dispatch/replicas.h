// replicas.h: ops all of whose tensors are replicated, in one memory.

#pragma once

#include "dispatch/call_key.h"
#include "dispatch/op.h"

namespace torch_mesh {

// Whether an op on replicas is no more than the local op: it has no kernel of
// ours, makes no view, draws no random numbers and runs no Python.
bool may_run_on_replicas(const Op& op);

// Runs such an op if all tensors of the call are replicated, and the devices
// share the one replica: the local op on it gives the replicas of the results.
// There is nothing to choose, so no plan is made or looked up. False if the
// tensors are not so, or somebody listens for plans.
//
// Throws what the local op throws, with op, layouts and mesh added to the text.
bool run_on_replicas(const Op& op, const CallTensors& tensors, Stack& stack);

}  // namespace torch_mesh
