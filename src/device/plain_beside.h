// plain_beside.h: plain tensors beside global ones, in ops that torch composes.

#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

namespace torch_mesh {

// A plain tensor counts as replicated (law 13). Compositions that compare the
// devices of their arguments would raise before the mesh sees these: for such
// an op this registers a kernel that brings plain tensors over first; nothing
// for all other ops.
void register_if_compares_devices(const c10::OperatorHandle& op);

}  // namespace torch_mesh
