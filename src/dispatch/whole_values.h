// whole_values.h: torch's own op, once, in plain memory.

#pragma once

#include "run/call_tensors.h"

namespace torch_mesh {

// Runs an op that returns what it writes alone, with its checks and its order
// of writes, on plain tensors of `device`: whole values of what it reads, and
// views of whole storages in place of what it writes. The storages take what is
// left there. The arguments are the last ones of the stack; results replace
// them.
void run_on_whole_values(
    const Op& op,
    const CallTensors& tensors,
    c10::Device device,
    Stack& stack);

// Replaces the arguments of a call by the results of another: those that are
// arguments of that one become the same arguments of this one.
void give_back(const Op& op, Stack& stack, const Stack& results);

}  // namespace torch_mesh
