// keep_sum.h: a pending sum that was formed in another layout.

#pragma once

#include <ATen/core/Tensor.h>

#include <torch_mesh/layout.h>

#include "shard/shard.h"

namespace torch_mesh {

// Whether keep_sum() may do something: the tensor is all of its storage, in
// memory of its own.
bool can_keep_sum(const at::Tensor& tensor);

// Lets the storage of a pending sum stand as the sum that a reader has formed,
// for all who hold it. Nothing if !can_keep_sum(), or if the storage has other
// shards by now. In change_layout.cpp.
//
//   memory_generation   of the storage, when its parts were read
//   layout, sum         without pending sums; in memory that nobody else writes
void keep_sum(
    const at::Tensor& tensor,
    uint32_t memory_generation,
    const Layout& layout,
    Shards sum);

}  // namespace torch_mesh
