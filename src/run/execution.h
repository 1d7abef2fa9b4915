// execution.h: one planned op, from global arguments to global results.

#pragma once

#include "run/call_tensors.h"

namespace torch_mesh {

// Runs the op by a plan; decides nothing. The arguments are the last ones of
// the stack; results replace them.
//
// Throws what the local op throws, with op, layouts and mesh added to the text.
// A destination on which some lanes have written is then marked broken.
void execute(
    const Op& op,
    const PreparedPlan& prepared,
    const CallTensors& tensors,
    Stack& stack);

}  // namespace torch_mesh
