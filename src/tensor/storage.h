// storage.h: the state of a global tensor, shared by all its views.
//
// A MeshStorage is the c10 storage of a global tensor, so that base, views,
// detach(), .data and saved tensors share it by torch's own means. It holds the
// shards of the *base*: the value for which it was made, with dense sizes and
// strides. Its data pointer is a unique number that is never dereferenced.
//
// Requires: it is used below the dispatcher only.
// Threads: `mutex` guards what changes for a reader (first read of unwritten
// memory, reduction of a partial sum, refresh of a view); a write that races
// with another access is the caller's error, as in torch.

#pragma once

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
#include "tensor/state.h"

namespace torch_mesh {

struct Reduction;  // tensor/reduction.h

using Sizes = c10::SmallVector<int64_t, 5>;

class MeshStorage final : public c10::StorageImpl {
 public:
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

  // Of the base; for unwritten memory a wish.
  const Layout& layout() const { return layout_; }
  const Sizes& base_sizes() const { return base_sizes_; }
  const Sizes& base_strides() const { return base_strides_; }
  c10::ScalarType dtype() const { return dtype_; }
  // Of the base, by lane of `layout`; empty while unwritten.
  const Shards& shards() const { return shards_; }
  const StorageState& state() const { return state_; }
  bool is_unwritten() const { return state_.is_unwritten(); }
  // Text of the error that left this storage half written; nullptr without.
  const std::shared_ptr<const std::string>& broken() const { return broken_; }
  // By which a pending sum is in the making; see tensor/reduction.h.
  const std::shared_ptr<Reduction>& reduction() const { return reduction_; }

  // --- changes: see tensor/state.h. Under the lock, once others can see the
  // storage; but `write` needs none. What takes a reference leaves the shards
  // of before in it, to be freed behind the lock: memory of NumPy needs
  // Python's lock for that.

  void place(bool is_wish) { state_.place(is_wish); }
  void borrow() { state_.borrow(); }
  void leave_blank() { state_.leave_blank(); }
  void get_memory(const Layout& layout, Shards shards);
  void begin_reduction(std::shared_ptr<Reduction> reduction);
  void end_reduction();
  // The sums over `axes` are formed: in `sums`, or, where one memory holds all,
  // where they lie.
  void form_sums(AxisMask axes, Shards& sums);
  void form_sums(AxisMask axes);
  // The value anew, in memory of its own; a layout that differs from the old
  // one in its sums alone.
  void replace_memory(const Layout& layout, Shards& shards);
  void change_layout(
      const Layout& layout,
      c10::IntArrayRef sizes,
      c10::IntArrayRef strides,
      Shards& shards);
  // Raw bytes become what another storage is. `shards`: copies of its.
  void become_copy(const MeshStorage& other, Shards& shards);
  void write() { state_.write(); }
  // Keeps the first error.
  void break_value(std::shared_ptr<const std::string> error);
  // Forgets it, and gives it.
  std::shared_ptr<const std::string> heal();

  // Tells the byte counters what it holds.
  void count_shards() { held_.are(layout_, shards_); }

  CountedMutex mutex;

 private:
  Layout layout_;
  Sizes base_sizes_;
  Sizes base_strides_;
  c10::ScalarType dtype_;
  Shards shards_;
  StorageState state_;
  std::shared_ptr<const std::string> broken_;
  std::shared_ptr<Reduction> reduction_;
  HeldShards held_;
};

// An address range of `num_bytes` that no other storage has, to be told apart
// by and never to be read.
void* unique_address(size_t num_bytes);

}  // namespace torch_mesh
