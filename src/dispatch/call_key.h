// call_key.h: the key under which the plan of a call is found (law 9), and the
// call as plain data for the planner.

#pragma once

#include <c10/util/SmallVector.h>

#include "run/call_tensors.h"
#include "run/unbounded_numbers.h"

namespace torch_mesh {

using CallKey = c10::SmallVector<uint64_t, 64>;

// `args`: the arguments of the call, one for each parameter.
// `unbounded`: of this call, asked once for both.
CallKey key_of(
    const Op& op,
    c10::ArrayRef<c10::IValue> args,
    const CallTensors& tensors,
    UnboundedNumbers unbounded);

OpCall call_of(
    const Op& op,
    c10::ArrayRef<c10::IValue> args,
    const CallTensors& tensors,
    UnboundedNumbers unbounded);

}  // namespace torch_mesh
