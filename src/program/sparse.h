// sparse.h: plain sparse tensors beside global ones.

#pragma once

namespace torch_mesh::programs {

// A plain sparse matrix (COO or CSR) times a global tensor: torch chooses these
// kernels by the kinds of all arguments, so they stand in no table. Call once.
void register_sparse_products();

}  // namespace torch_mesh::programs
