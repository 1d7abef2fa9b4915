// batch_norm.h: running statistics that a schema does not own up to.

#pragma once

#include "dispatch/op.h"

namespace torch_mesh {

// `native_batch_norm` in training writes its running statistics, which its
// schema does not say. `_native_batch_norm_legit` is the same op and says so.
bool run_batch_norm(const Op& op, Stack& stack);

}  // namespace torch_mesh
