// window.h: any part of a storage, addressed as plain torch would (law 7).

#pragma once

#include <ATen/core/Tensor.h>

#include "tensor/global_tensor.h"

namespace torch_mesh {

// The tensor of these sizes and strides at `offset` elements of `dtype` into
// a mesh storage. An alias where the geometry is a chain of slice, select and
// permute of the storage's base that takes sharded dims whole; otherwise a
// write-back window.
at::Tensor window_of_storage(
    const c10::Storage& storage,
    c10::IntArrayRef sizes,
    c10::IntArrayRef strides,
    int64_t offset,
    c10::ScalarType dtype,
    bool is_inference = c10::InferenceMode::is_enabled());

// Whether slices and selects of the tensor, if they are no aliases, are taken
// from its storage element by element: it is a chain itself, and the base has
// neither pending sums nor blocks.
bool is_taken_by_boxes(const at::Tensor& tensor);

// If both tensors are all the bytes of their storages and that of `to` is raw,
// gives it what that of `from` holds, layout and all, and returns true. This is
// how torch copies storages in deepcopy.
bool copy_storage(const at::Tensor& to, const at::Tensor& from);

// Where `to` is plain CPU memory and `from` a run of bytes of a storage: copies
// shard by shard, with no copy beside `to`, as storage.cpu() and torch.save
// need. False, with nothing done, where bytes and shards do not meet so simply.
// In blocks.cpp.
bool copy_bytes_to_host(const at::Tensor& to, const at::Tensor& from);

// Copies large plain memory into a tensor of the same sizes: block by block,
// with no copy beside the shards, and no block stays in memory if it is a
// file's. False, with nothing done, where that is not so simple. In blocks.cpp.
bool copy_from_host(const at::Tensor& to, const at::Tensor& from);

// Throws if other tensors share the storage of one that is to get more memory
// than there is.
void check_can_grow(const at::Tensor& tensor);

// Resizes as Tensor::resize_ does: what is in the storage stays, new elements
// are undefined. Throws if the storage must grow while others share it.
void resize_window(const at::Tensor& tensor, c10::IntArrayRef sizes);

}  // namespace torch_mesh
