// batch_norm.h: batch norm by torch's own kernel, and the format of its result.

#pragma once

#include <vector>

#include "dispatch/program.h"

namespace torch_mesh::programs {

// Batch norm in training, or its gradient, by torch's own kernel on the whole
// batch, for each part of the channels, where one memory has all. Counts the
// sums that devices would form. False, with the stack as it was, if several
// memories have it, or other arguments are cut.
bool run_on_whole_batch(const CallArgs& args);

// The strides of a dense tensor in a format.
std::vector<int64_t> strides_in(
    at::MemoryFormat format,
    c10::IntArrayRef sizes);

}  // namespace torch_mesh::programs
