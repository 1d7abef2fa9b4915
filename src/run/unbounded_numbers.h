// unbounded_numbers.h: numbers that parts of a sum must not meet (law 8).

#pragma once

#include <cstdint>

#include "run/call_tensors.h"

namespace torch_mesh {

// A number of a call is unbounded where it makes infinities of finite elements:
// it is infinite in the dtype of the call's pending sum, or so small that to
// divide by it does. Parts of a sum would become infinite of both signs.
//
// Of a call that has a pending sum. A tensor of one element is a number, too;
// one that the host does not know before the call runs counts as unbounded.
//
//   bit 0       an argument that is no tensor is
//   bit 1 + i   tensor i is; the last bit stands for all that have none
using UnboundedNumbers = uint64_t;

UnboundedNumbers unbounded_numbers(
    const Op& op,
    c10::ArrayRef<c10::IValue> args,
    const CallTensors& tensors);

// Whether tensor i is.
bool is_unbounded(UnboundedNumbers numbers, size_t tensor);

}  // namespace torch_mesh
