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

// A value in new memory of a storage.
Shards in_new_memory(
    const MeshStorage& storage,
    const Layout& layout,
    const at::Tensor& value) {
  Shards shards = empty_shards(storage, layout);
  copy_shards(cut_whole(value, layout), shards);
  return shards;
}

}  // namespace

void overwrite_value(const at::Tensor& tensor, const at::Tensor& value) {
  MeshStorage& storage = *MeshStorage::of(tensor);
  read_storage(storage);
  finish_begun(storage);
  const bool is_simple = storage.dtype() == tensor.scalar_type() &&
                         !LazyBits::of(tensor).any() &&
                         !storage.state().is_broken();
  if (!is_simple ||
      (!storage.layout().has_partial() && !meta_of(tensor).is_write_back)) {
    write_value(tensor, value);
    return;
  }
  const LocalOps local;
  if (!is_whole(tensor)) {
    const Layout replicated = Layout::replicated(storage.layout().mesh());
    own_memory(storage);
    write_window(
        tensor, storage, replicated, on_lanes(replicated.lanes(), value));
    return;
  }
  // A pending sum is dropped.
  Shards shards;
  const auto lock = lock_for_write(storage);
  const Layout layout = storage.layout().with_sums_reduced();
  shards = in_new_memory(storage, layout, value);
  storage.replace_memory(layout, shards);
  storage.write();
}

}  // namespace torch_mesh
