// batch_norm.h: running statistics that a schema does not own up to, and the
// format of the result.

#pragma once

#include <vector>

#include "dispatch/op.h"

namespace torch_mesh {

// `native_batch_norm` in training writes its running statistics, which its
// schema does not say. `_native_batch_norm_legit` is the same op and says so.
bool run_batch_norm(const Op& op, Stack& stack);

// Batch norm in training, or its gradient, by torch's own kernel on the whole
// batch, for each part of the channels, where one memory has all. Counts the
// sums that devices would form. False, with the stack as it was, if several
// memories have it, or other arguments are cut.
bool run_on_whole_batch(const Op& op, Stack& stack);

// The memory format of batch norm's result, or of the input's gradient, as the
// CPU's kernels choose it. `gradient`: of the result; undefined in the forward
// pass.
at::MemoryFormat format_of_batch_norm(
    const at::Tensor& input,
    const at::Tensor& gradient);

// The strides of a dense tensor in a format.
std::vector<int64_t> strides_in(
    at::MemoryFormat format,
    c10::IntArrayRef sizes);

}  // namespace torch_mesh
