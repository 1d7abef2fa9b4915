// change_layout.cpp: new shards for a storage; its windows retake theirs later.

#include <torch_mesh/tensor.h>

#include "shard/local_ops.h"
#include "tensor/global_tensor.h"
#include "tensor/reduction.h"

namespace torch_mesh {

bool change_layout(const at::Tensor& tensor, const Layout& layout) {
  MeshStorage& storage = *MeshStorage::of(tensor);
  const bool is_all = tensor.storage_offset() == 0 &&
                      tensor.numel() * tensor.itemsize() == storage.nbytes() &&
                      tensor.is_non_overlapping_and_dense();
  if (!is_all || tensor.scalar_type() != storage.dtype || tensor.is_conj() ||
      tensor.is_neg()) {
    return false;
  }
  GlobalMeta& meta = meta_of(tensor);
  const LocalOps local;
  Layout there = layout;
  Shards shards;
  if (!is_unwritten(tensor)) {
    const at::Tensor moved = redistribute(tensor, layout);
    there = layout_of(moved);
    shards = read(moved);
  }
  const auto lock = lock_for_write(storage);
  storage.layout = there;
  storage.shards = std::move(shards);
  storage.base_sizes.assign(tensor.sizes().begin(), tensor.sizes().end());
  storage.base_strides.assign(tensor.strides().begin(), tensor.strides().end());
  storage.is_placed = true;
  storage.is_borrowed = false;
  ++storage.layout_generation;
  ++storage.memory_generation;
  ++storage.value_generation;
  storage.count_shards();
  meta.layout = there;
  meta.is_write_back = false;
  return true;
}

}  // namespace torch_mesh
