// shard.h: how the tensor of one device lies in memory.

#pragma once

#include <ATen/core/Tensor.h>

namespace torch_mesh {

// Whether the dims of a shard lie in the order of those of a whole that has
// these strides.
bool is_in_order(const at::Tensor& shard, c10::IntArrayRef strides);

// The shard, or a dense copy of it, so that it is dense and in that order.
at::Tensor in_order(const at::Tensor& shard, c10::IntArrayRef strides);

}  // namespace torch_mesh
