// change_layout.cpp: new shards for a storage; its windows retake theirs later.

#include <torch_mesh/tensor.h>

#include "shard/local_ops.h"
#include "shard/strides.h"
#include "tensor/global_tensor.h"
#include "tensor/keep_sum.h"
#include "tensor/reduction.h"

namespace torch_mesh {

namespace {

bool is_all_of_its_storage(const at::Tensor& tensor) {
  const MeshStorage& storage = *MeshStorage::of(tensor);
  return tensor.storage_offset() == 0 &&
         tensor.numel() * tensor.itemsize() == storage.nbytes() &&
         tensor.is_non_overlapping_and_dense() &&
         tensor.scalar_type() == storage.dtype() && !tensor.is_conj() &&
         !tensor.is_neg();
}

}  // namespace

bool change_layout(const at::Tensor& tensor, const Layout& layout) {
  MeshStorage& storage = *MeshStorage::of(tensor);
  if (!is_all_of_its_storage(tensor)) {
    return false;
  }
  GlobalMeta& meta = meta_of(tensor);
  const LocalOps local;
  Layout there = layout;
  Shards shards;
  // Memory without a value has no sum either.
  if (!is_unwritten(tensor) || layout.has_partial()) {
    const at::Tensor moved = redistribute(tensor, layout);
    there = layout_of(moved);
    shards = read(moved);
  }
  const auto lock = lock_for_write(storage);
  storage.change_layout(there, tensor.sizes(), tensor.strides(), shards);
  storage.write();
  meta.layout = there;
  meta.is_write_back = false;
  return true;
}

bool can_keep_sum(const at::Tensor& tensor) {
  return is_all_of_its_storage(tensor) &&
         !MeshStorage::of(tensor)->state().is_borrowed();
}

void keep_sum(
    const at::Tensor& tensor,
    uint32_t memory_generation,
    const Layout& layout,
    Shards sum) {
  MeshStorage& storage = *MeshStorage::of(tensor);
  if (!can_keep_sum(tensor)) {
    return;
  }
  // Slices of one sum become what a storage holds: dense, in the base's order.
  for (Shard& shard : sum) {
    shard = in_order(shard.local(), tensor.strides());
  }
  {
    const std::lock_guard lock(storage.mutex);
    if (storage.state().memory_generation() != memory_generation ||
        !storage.layout().has_partial() || storage.reduction()) {
      return;
    }
    storage.change_layout(layout, tensor.sizes(), tensor.strides(), sum);
  }
  // The tensor itself lets go of its parts, too.
  held_memory(tensor);
}

}  // namespace torch_mesh
