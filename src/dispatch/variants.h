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

}  // namespace torch_mesh
