// slice.h: a part of a tensor, without a call of the dispatcher.

#pragma once

#include <ATen/core/Tensor.h>

namespace torch_mesh {

// A tensor of these sizes and of the strides of `tensor` that begins at the
// element `offset` of its storage. Aliases its memory.
at::Tensor window_at(
    const at::Tensor& tensor,
    c10::IntArrayRef sizes,
    int64_t offset);

// Indices begin .. begin + length of `dim`, as narrow() gives them. Aliases the
// memory of `whole`.
at::Tensor slice_of(
    const at::Tensor& whole,
    int64_t dim,
    int64_t begin,
    int64_t length);

}  // namespace torch_mesh
