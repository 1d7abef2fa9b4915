// read_only.h: plain tensors that refuse writes.

#pragma once

#include <ATen/core/Tensor.h>

namespace torch_mesh {

// The same memory as `tensor`'s, plain: ops that write to the result or to
// views of it throw [shards-read-only], all others run as before. Their results
// are ordinary tensors. What bypasses torch's operators is not noticed: memory
// that NumPy or DLPack shares, data_ptr().
at::Tensor read_only(const at::Tensor& tensor);

}  // namespace torch_mesh
