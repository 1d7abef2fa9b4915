// executor.h: carries out the instructions of a call.

#pragma once

#include "run/call_tensors.h"
#include "run/op.h"

namespace torch_mesh {

// Lowers the plan of a call, for its key. Requires: `windows` of a view op.
void lower_call(const Op& op, const CallTensors& tensors, LoweredPlan& plan);

// Those of this call: of arguments of which some lie in one storage they are
// made `anew`.
const Instructions& instructions_of(
    const Op& op,
    const LoweredPlan& plan,
    const CallTensors& tensors,
    Instructions& anew);

// Runs the op by its instructions; decides nothing. The arguments are the last
// ones of the stack; results replace them.
//
// Throws what the local op throws, with op, layouts and mesh added to the text.
// A destination on which some lanes have written is then marked broken.
void execute(
    const Op& op,
    const LoweredPlan& plan,
    const CallTensors& tensors,
    Stack& stack);

}  // namespace torch_mesh
