// window_value.h: write-back windows: taken from their base, and written into
// it.
//
// Where a window is a chain of slices and selects, devices copy the elements
// that they lack and no others. Any other (a diagonal, a flat run over rows,
// another dtype) is read from the gathered base, and written by a mask.
//
// Requires: a LocalOps guard on this thread; no lock of a storage is held.

#pragma once

#include <ATen/core/Tensor.h>

#include "tensor/base_value.h"

namespace torch_mesh {

// As begin_write, where all of the tensor is about to be overwritten: a
// write-back window that is out of date is not taken again for it. In
// global_tensor.cpp.
Shards begin_overwrite(const at::Tensor& tensor);

// The window's value in `layout`, one shard for each lane, in memory of its
// own.
Shards take_window(
    const at::Tensor& window,
    const BaseValue& base,
    const Layout& layout);

// Shards of the window's sizes in `layout`, not initialised.
Shards empty_window(const at::Tensor& window, const Layout& layout);

// Gives a storage that borrows its memory memory of its own; windows retake
// theirs later. In global_tensor.cpp.
void own_memory(MeshStorage& storage);

// Writes a value of the window over its elements in the storage. Of a sum the
// first device gets the value, the others nothing. Writes of other threads to
// other elements are not lost. Gives what the storage holds after it.
//   layout, value   of the window's sizes and dtype
BaseValue write_window(
    const at::Tensor& window,
    MeshStorage& storage,
    const Layout& layout,
    const Shards& value);

// Copies one window into another, of the same sizes and dtype on the same mesh:
// each device reads the elements that it holds of `to` and lacks of `from`.
// Neither becomes a value of its own on the way. Requires: both are taken by
// boxes (is_taken_by_boxes), and lie in two storages.
void copy_window(const at::Tensor& from, const at::Tensor& to);

}  // namespace torch_mesh
