// variants.h: out= and metadata-changing in-place variants, by way of their
// functional op.

#pragma once

#include "dispatch/op.h"

namespace torch_mesh {

// Runs the functional op, then copies into `out`, which keeps its identity and
// its layout; a result of another shape resizes it as plain torch does.
void run_out(const Op& op, Stack& stack);

// t_, squeeze_, ...: runs the view op, and the tensor becomes the view.
void run_inplace_view(const Op& op, Stack& stack);

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
