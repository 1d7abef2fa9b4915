// sparse.h: plain sparse tensors beside global ones.

#pragma once

#include <string>

#include "dispatch/op.h"

namespace torch_mesh {

// What asks an op for a sparse gradient no longer does; nullptr for other ops.
SpecialKernel sparse_kernel(const std::string& name);

// A plain sparse matrix (COO or CSR) times a global tensor, and gradients that
// plain torch makes sparse, which are dense here. Call once.
void register_sparse();

}  // namespace torch_mesh
