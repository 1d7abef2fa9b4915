// pending_sums.h: sums that their readers reduce, for all who hold them.

#pragma once

#include <ATen/core/Tensor.h>

#include <torch_mesh/layout.h>

#include "shard/shard.h"

namespace torch_mesh {

// Reduces pending sums of these tensors' storages on the partial axes which
// `axes` names for each: once, for all who share them. Sums of one mesh, one
// dtype and the same lanes that are pending on the same axes travel in buckets,
// one all-reduce for each, which is counted. What is not pending (any more) or
// broken is left alone.
//
// Threads: may be called from any, with any storages. A sum that another thread
// has in the making is waited for, without a lock; it throws if that fails.
void reduce_pending(
    c10::ArrayRef<const at::Tensor*> tensors,
    c10::ArrayRef<AxisMask> axes);

// All pending sums of those of the tensors that are global.
void reduce_pending(c10::ArrayRef<const at::Tensor*> tensors);

// Those of one global tensor.
void reduce_pending(const at::Tensor& tensor, AxisMask axes);

// Begins to form the sums of these tensors, in one bucket for each kind, and
// returns: another thread goes on with them. Who needs one waits for it.
// Where all devices are of this process nothing is gained, and nothing done.
// Threads: as a collective, it has its place in the program's order.
void begin_reductions(
    c10::ArrayRef<at::Tensor> tensors,
    c10::ArrayRef<AxisMask> axes);

// The shards of a global tensor in another layout, of its mesh or another, for
// reading; may alias its own. Pending sums that are reduced before anything
// else stay reduced for all who hold them.
Shards shards_in(const at::Tensor& tensor, const Layout& to);

}  // namespace torch_mesh
