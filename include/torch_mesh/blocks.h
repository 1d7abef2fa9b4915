// blocks.h: large tensors in pieces, so that none is ever whole on a device.
//
//   auto w = torch_mesh::zeros(layout, {50000, 4096}, at::kFloat);
//   for (int64_t start = 0; start < w.numel(); start += block) {
//     torch_mesh::write_block(w, start, values_from(start));
//   }
//
// Elements are numbered row-major by global index, whatever the layout. Values
// pass from host memory to the shards and back; no device holds more than its
// shards.

#pragma once

#include <cstdint>

#include <ATen/core/TensorBody.h>
#include <c10/util/ArrayRef.h>

#include <torch_mesh/layout.h>

namespace torch_mesh {

// A new global tensor of zeros, made shard by shard.
// Throws [layout-dim], [layout-block] if the layout does not fit the sizes.
at::Tensor zeros(
    const Layout& layout,
    c10::IntArrayRef sizes,
    c10::ScalarType dtype);

// Elements [start, start + count) as a plain CPU tensor [count], in memory of
// its own. Pending sums of `tensor` are reduced first.
// Throws [not-global]; [block-range] if they are not all inside.
at::Tensor read_block(const at::Tensor& tensor, int64_t start, int64_t count);

// Writes elements [start, start + values.numel()) in place; `tensor` keeps its
// layout. Not differentiable.
//   values    plain CPU tensor, row-major; cast to the dtype of `tensor`
// Throws [not-global]; [block-range] if they are not all inside.
void write_block(
    const at::Tensor& tensor,
    int64_t start,
    const at::Tensor& values);

// Copies bytes of a storage, as torch.save writes them. False, with nothing
// done, where bytes and shards do not meet simply: block-cyclic layouts, dims
// out of order, storages of bytes.
//   to      u8[n], plain memory of its own
//   source  u8[n], a window on the storage
// Throws [not-global], [block-range].
bool read_bytes(const at::Tensor& to, const at::Tensor& source);

}  // namespace torch_mesh
