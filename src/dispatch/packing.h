// packing.h: global tensors of local results, where these say too little.

#pragma once

#include <vector>

#include "comm/local_ops.h"
#include "tensor/storage.h"

namespace torch_mesh {

// The strides of a result of these sizes, of which `first` is a shard. A shard
// shows the order of the dims of which it has more than one element; `known`,
// what torch said of the whole (may be empty), must not contradict.
std::vector<int64_t> strides_of_whole(
    const std::vector<int64_t>& sizes,
    const Sizes& known,
    const at::Tensor& first);

// Whether a result that is not dense has gaps in its memory, as LAPACK leaves
// them.
bool has_gaps(const at::Tensor& result);

// A replicated result with gaps: as in plain torch, a window on all of its
// memory.
at::Tensor make_with_gaps(const Layout& layout, Shards shards);

// Gives a destination the size to which the local op has resized its replicas,
// as addbmm_ does.
void take_size(
    const at::Tensor& destination,
    const Shards& written,
    const Mesh& mesh);

}  // namespace torch_mesh
