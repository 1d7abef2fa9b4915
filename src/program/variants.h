// variants.h: destinations of out= variants.

#pragma once

#include <ATen/core/Tensor.h>

namespace torch_mesh {

// Refuses a destination whose dtype the result cannot be cast to.
void check_can_hold(const at::Tensor& out, const at::Tensor& result);

// Copies into a destination, which is resized as plain torch does.
// `keeps_order`: whether the op orders the dims of a destination that it
// resizes as those of its result; else it makes it contiguous.
void give_result(
    const at::Tensor& result,
    const at::Tensor& out,
    bool keeps_order);

}  // namespace torch_mesh
