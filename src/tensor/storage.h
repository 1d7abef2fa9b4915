// storage.h: the state of a global tensor, shared by all its views.
//
// A MeshStorage is the c10 storage of a global tensor, so that base, views,
// detach(), .data and saved tensors share it by torch's own means. It holds the
// shards of the *base*: the value for which it was made, with dense sizes and
// strides. Its data pointer is a unique number that is never dereferenced.
//
// Requires: the fields are touched below the dispatcher only.
// Threads: fields are guarded by `mutex` while they change for a reader (first
// read of unwritten memory, reduction of a partial sum, refresh of a view); a
// write that races with another access is the caller's error, as in torch.

#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include <ATen/core/Tensor.h>
#include <c10/core/StorageImpl.h>
#include <c10/util/SmallVector.h>

#include <torch_mesh/layout.h>

#include "comm/held_locks.h"
#include "shard/shard.h"
#include "tensor/held.h"

namespace torch_mesh {

struct Reduction;  // tensor/reduction.h

using Sizes = c10::SmallVector<int64_t, 5>;

struct MeshStorage final : c10::StorageImpl {
  // Storage for a base of these sizes and strides; unwritten.
  MeshStorage(
      Layout layout,
      c10::IntArrayRef sizes,
      c10::IntArrayRef strides,
      c10::ScalarType dtype);
  // Storage of raw bytes, as torch.load and deepcopy make: u8[num_bytes],
  // replicated, zeroed at the first read.
  explicit MeshStorage(size_t num_bytes);

  // The storage of a global tensor.
  static MeshStorage* of(const at::Tensor& tensor) {
    return static_cast<MeshStorage*>(
        tensor.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl());
  }

  Layout layout;  // of the base; for unwritten memory a wish
  Sizes base_sizes;
  Sizes base_strides;
  c10::ScalarType dtype;
  Shards shards;  // of the base, by lane of `layout`; empty while unwritten
  // Counts replacements of `shards`: local views of older ones are stale.
  std::atomic<uint32_t> memory_generation{0};
  // Counts changes of `layout` other than reduced sums: windows taken before
  // cannot be taken again in the same way.
  uint32_t layout_generation = 0;
  // Counts writes: copies of older values are stale.
  std::atomic<uint32_t> value_generation{0};
  // Whether anyone asked for `layout`: `empty_like` does, `empty` does not.
  bool is_placed = true;
  // Unwritten memory that reads as zeros: it takes the layout of the first op
  // that writes to it.
  bool is_blank = false;
  // Whether `shards` lie in memory that another owner may write.
  bool is_borrowed = false;
  // Text of the error that left this storage half written.
  std::shared_ptr<const std::string> broken;
  // By which a pending sum is in the making; see tensor/reduction.h.
  std::shared_ptr<Reduction> reduction;
  CountedMutex mutex;
  HeldShards held;

  bool is_unwritten() const { return shards.empty(); }
  // Call after `shards` were replaced.
  void count_shards() { held.are(layout, shards); }
};

// An address range of `num_bytes` that no other storage has, to be told apart
// by and never to be read.
void* unique_address(size_t num_bytes);

}  // namespace torch_mesh
