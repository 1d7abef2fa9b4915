// workspace.h: memory for collectives, and for the sums that they leave.
//
// New memory of a large tensor is given by the system page by page, when it is
// first touched: for 1 MB that costs as much as to send it. So buffers that
// collectives of several processes need at each step are kept.

#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace torch_mesh {

// A run of elements in host memory, of any content, for what lives no longer
// than one collective. The memory serves another one once nobody refers to it.
// Threads: may be called from any.
at::Tensor workspace(int64_t numel, c10::ScalarType dtype);
// The same for what lives on: a gradient until the next step. What the program
// holds counts, too: memory beyond kMostWorkspace is the system's, and goes
// back to it.
at::Tensor lasting_workspace(int64_t numel, c10::ScalarType dtype);

// Bytes that are kept of each kind, at most kMostWorkspace, of the first beside
// what is in use.
inline constexpr int64_t kMostWorkspace = int64_t{100} << 20;
void free_workspaces();

}  // namespace torch_mesh
