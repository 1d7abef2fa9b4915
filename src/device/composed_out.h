// composed_out.h: version counters under out= ops that torch composes of
// others.

#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

namespace torch_mesh {

// Registers the kernel with which such an op counts the versions of its
// destination as it does on the CPU; nothing for all other ops.
void register_if_composed_out(const c10::OperatorHandle& op);

// Registers resize_ under autograd, which such ops call.
void register_resize();

}  // namespace torch_mesh
