// overwrite.cpp: writes that need nothing of what they write over.

#include <ATen/ops/empty_strided.h>
#include <ATen/ops/where.h>

#include "comm/run_steps.h"
#include "shard/local_ops.h"
#include "tensor/base_value.h"
#include "tensor/global_tensor.h"
#include "tensor/lazy_bits.h"
#include "tensor/reduction.h"

namespace torch_mesh {
namespace {

// `whole`, a plain tensor of the base's sizes, as each lane of `layout` has it.
Shards cut(
    const at::Tensor& whole,
    const MeshStorage& storage,
    const Layout& layout) {
  const Layout replicated = Layout::replicated(layout.mesh());
  return run_redistribution(
      redistribution_of(
          replicated, layout, storage.base_sizes, whole.scalar_type()),
      Shards(replicated.lanes().num, whole));
}

// The storage is this value; a pending sum is dropped.
void replace(MeshStorage& storage, const at::Tensor& value) {
  storage.layout = with_sums_reduced(storage.layout);
  const Shards parts = cut(value, storage, storage.layout);
  storage.shards = empty_shards(storage, storage.layout);
  for (size_t lane = 0; lane < parts.size(); ++lane) {
    storage.shards[lane].local().copy_(parts[lane].local());
  }
  storage.is_borrowed = false;
  storage.count_shards();
  ++storage.memory_generation;
}

// Each lane writes its part of the window. Of a sum the first device has the
// value, the others nothing.
void write_part(
    MeshStorage& storage,
    const at::Tensor& tensor,
    const at::Tensor& value) {
  auto like_base = [&](c10::ScalarType dtype) {
    return at::empty_strided(
        storage.base_sizes,
        storage.base_strides,
        at::TensorOptions(dtype).device(value.device()));
  };
  const at::Tensor full = like_base(storage.dtype);
  copy_once(window_on(full, tensor, storage.dtype), value);
  const at::Tensor mask = like_base(at::kBool).zero_();
  window_on(mask, tensor, at::kBool).fill_(true);
  const Shards parts = cut(full, storage, storage.layout);
  const Shards masks = cut(mask, storage, with_sums_reduced(storage.layout));
  for (size_t lane = 0; lane < parts.size(); ++lane) {
    at::Tensor& shard = storage.shards[lane].local();
    const at::Tensor written = at::where(
        masks[lane].local().to(shard.device()),
        parts[lane].local().to(shard.device()),
        shard);
    if (storage.is_borrowed) {
      shard =
          at::empty_strided(shard.sizes(), shard.strides(), shard.options());
    }
    shard.copy_(written);
  }
  if (storage.is_borrowed) {
    storage.is_borrowed = false;
    ++storage.memory_generation;
  }
}

}  // namespace

void overwrite_value(const at::Tensor& tensor, const at::Tensor& value) {
  MeshStorage& storage = *MeshStorage::of(tensor);
  read_storage(storage);
  // Freed behind the lock: memory of NumPy needs Python's lock for that.
  Shards before;
  {
    const LocalOps local;
    const auto lock = lock_for_write(storage);
    const bool is_simple = storage.dtype == tensor.scalar_type() &&
                           !LazyBits::of(tensor).any() && !storage.broken;
    if (is_simple &&
        (storage.layout.has_partial() || meta_of(tensor).is_write_back)) {
      before = storage.shards;
      is_whole(tensor) ? replace(storage, value)
                       : write_part(storage, tensor, value);
      ++storage.value_generation;
      return;
    }
  }
  write_value(tensor, value);
}

}  // namespace torch_mesh
