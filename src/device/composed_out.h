// composed_out.h: version counters under out= ops that torch composes of
// others.

#pragma once

namespace torch_mesh {

// Registers the kernels with which such an op counts the versions of its
// destination as it does on the CPU.
void register_composed_outs();

}  // namespace torch_mesh
