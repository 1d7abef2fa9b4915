// joined.h: shards that lie side by side in one memory, as one tensor.
//
// Virtual devices share a memory. If the shards of a value are slices of one
// tensor, an op on all of them is one local op on that tensor: one dispatch,
// and one matrix product that packs its operands once.

#pragma once

#include <optional>

#include "shard/shard.h"

namespace torch_mesh {

// The tensor of which `shards` are the slices along `dim`, in order; if `dim`
// is -1 the only shard. nullopt if they lie elsewhere. Aliases their memory.
std::optional<at::Tensor> join_shards(const Shards& shards, int64_t dim);

// The same, by a copy where they lie elsewhere. Requires: one memory, and
// dim >= 0.
at::Tensor join_or_copy(const Shards& shards, int64_t dim);

}  // namespace torch_mesh
