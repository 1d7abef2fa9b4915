// write_back.h: writes to write-back windows, and how they reach the storage.

#pragma once

#include <ATen/core/Tensor.h>

#include "tensor/storage.h"

namespace torch_mesh {

// As begin_write, where all of the tensor is about to be overwritten: a
// write-back window that is out of date is not taken again for it. In
// global_tensor.cpp.
Shards begin_overwrite(const at::Tensor& tensor);

// Writes the window's shards into those of its storage: its elements alone,
// where they lie, so that a write to other elements of the base is not lost.
// Where a window is no chain of slices and selects, the base is gathered and
// written whole.
//
// Requires: a LocalOps guard on this thread, and the storage's lock.
void write_back(const at::Tensor& window, MeshStorage& storage);

}  // namespace torch_mesh
