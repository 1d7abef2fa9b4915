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

// aten::kron.out. torch composes it of a write through `_unsafe_view`, which on
// the mesh may be a copy.
at::Tensor& kron_out(
    const at::Tensor& self,
    const at::Tensor& other,
    at::Tensor& out);

}  // namespace torch_mesh
