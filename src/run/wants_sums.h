// wants_sums.h: numbers that parts of a sum must not meet (law 8).

#pragma once

#include "run/call_tensors.h"

namespace torch_mesh {

// Whether a pending sum of the call is to be formed before the op sees it: an
// argument is a number that is not finite, or 0 where the op divides by it.
// Parts would be infinite of both signs where their sum is of one. Tensors
// without dims are numbers too, where the host need not wait for them.
bool wants_sums(
    const Op& op,
    c10::ArrayRef<c10::IValue> args,
    const CallTensors& tensors);

}  // namespace torch_mesh
