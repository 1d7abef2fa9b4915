// replicas.h: ops all of whose tensors are replicated, in one memory.

#pragma once

#include "run/call_tensors.h"

namespace torch_mesh {

// Runs an op that runs_on_replicas if all tensors of the call are replicated,
// and the devices share the one replica: the local op on it gives the replicas
// of the results. There is nothing to choose, so no plan is made or looked up.
// False if the tensors are not so, or somebody listens for plans.
//
// Throws what the local op throws, with op, layouts and mesh added to the text.
bool run_on_replicas(const Op& op, const CallTensors& tensors, Stack& stack);

}  // namespace torch_mesh
