// overwrite.cpp: writes that need nothing of what they write over.

#include "shard/local_ops.h"
#include "shard/replicate_value.h"
#include "tensor/base_value.h"
#include "tensor/global_tensor.h"
#include "tensor/lazy_bits.h"
#include "tensor/reduction.h"
#include "tensor/window_value.h"

namespace torch_mesh {
namespace {

// The storage is this value; a pending sum is dropped.
void replace(MeshStorage& storage, const at::Tensor& value) {
  storage.layout = with_sums_reduced(storage.layout);
  const Shards parts = cut_whole(value, storage.layout);
  storage.shards = empty_shards(storage, storage.layout);
  copy_shards(parts, storage.shards);
  storage.is_borrowed = false;
  storage.count_shards();
  ++storage.memory_generation;
}

}  // namespace

void overwrite_value(const at::Tensor& tensor, const at::Tensor& value) {
  MeshStorage& storage = *MeshStorage::of(tensor);
  read_storage(storage);
  const bool is_simple = storage.dtype == tensor.scalar_type() &&
                         !LazyBits::of(tensor).any() && !storage.broken;
  if (!is_simple ||
      (!storage.layout.has_partial() && !meta_of(tensor).is_write_back)) {
    write_value(tensor, value);
    return;
  }
  const LocalOps local;
  if (!is_whole(tensor)) {
    const Layout replicated = Layout::replicated(storage.layout.mesh());
    own_memory(storage);
    write_window(
        tensor, storage, replicated, on_lanes(replicated.lanes(), value));
    return;
  }
  // Freed behind the lock: memory of NumPy needs Python's lock for that.
  Shards before;
  const auto lock = lock_for_write(storage);
  before = storage.shards;
  replace(storage, value);
  ++storage.value_generation;
}

}  // namespace torch_mesh
