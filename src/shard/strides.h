// shard.h: how the tensor of one device lies in memory.

#pragma once

#include <ATen/core/Tensor.h>

namespace torch_mesh {

// Whether the dims of a shard lie in the order of those of a whole that has
// these strides.
bool is_in_order(const at::Tensor& shard, c10::IntArrayRef strides);

// The shard, or a dense copy of it, so that it is dense and in that order. A
// dim of one element has its place in the order too: kernels find a memory
// format by all strides.
at::Tensor in_order(const at::Tensor& shard, c10::IntArrayRef strides);

// The same for strides of the shard itself.
at::Tensor with_strides(const at::Tensor& shard, c10::IntArrayRef strides);

// The same memory: of a view, whose gaps stay. Dims of which this shard has one
// element get strides that show where they lie in a whole of these strides.
at::Tensor showing_order(const at::Tensor& shard, c10::IntArrayRef strides);

}  // namespace torch_mesh
