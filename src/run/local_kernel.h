// local_kernel.h: local ops whose kernel for the CPU is several times faster on
// arguments that lie otherwise.

#pragma once

#include "run/op.h"

namespace torch_mesh {

// Runs a local op on copies of arguments, where they pay for themselves. The
// results have the sizes and strides that the op gives without, and its values;
// where it takes exponentials the last bits are those of vectorized loops.
LocalKernel local_kernel(const std::string& name);

// at::histc, which for tensors of integers counts as torch's kernel for CUDA
// does: torch's for the CPU has none.
at::Tensor histogram(
    const at::Tensor& self,
    int64_t bins,
    const c10::Scalar& min,
    const c10::Scalar& max);

// Runs the op on the tensors of one lane: by its local kernel, if it has one.
inline void run_local(const Op& op, Stack& stack) {
  if (op.local_kernel) {
    op.local_kernel(op, stack);
  } else {
    op.handle.callBoxed(stack);
  }
}

}  // namespace torch_mesh
