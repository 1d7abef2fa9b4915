// buckets.h: pending sums of several tensors, reduced together.

#pragma once

#include <ATen/core/Tensor.h>

#include <torch_mesh/mesh.h>

namespace torch_mesh {

// Bytes of pending sums that one collective reduces at most.
inline constexpr int64_t kBucketBytes = 25 << 20;

// Reduces pending sums of these tensors' storages on the partial axes which
// `axes` names for each, and counts one collective for each axis and bucket.
void reduce_in_buckets(
    c10::ArrayRef<const at::Tensor*> tensors,
    c10::ArrayRef<AxisMask> axes);

}  // namespace torch_mesh
