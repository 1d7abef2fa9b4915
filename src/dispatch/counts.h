// counts.h: histograms, counts and comparisons of whole tensors, which begin
// with something that only values say.

#pragma once

#include "dispatch/rewrites.h"

namespace torch_mesh {

// The program of `histc` and `bincount` (each device counts what it holds, and
// the results are parts of a sum) and of `equal`. nullptr for other ops.
Rewrite rewrite_of_count(const Op& op);

// at::histc, which for tensors of integers counts as torch's kernel for CUDA
// does: torch's for the CPU has none. Programs ask for it on every device but
// "cpu".
void run_histc(const Op& op, Stack& stack);

}  // namespace torch_mesh
