// base_value.cpp: the base gathered, and windows on it.

#include "tensor/base_value.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>

#include "comm/run_steps.h"
#include "plan/plan_cache.h"
#include "shard/local_ops.h"
#include "shard/replicate_value.h"
#include "shard/span.h"

namespace torch_mesh {

std::shared_ptr<const Redistribution> redistribution_of(
    const Layout& from,
    const Layout& to,
    c10::IntArrayRef sizes,
    c10::ScalarType dtype) {
  static auto& cache = *new PlanCache<Redistribution>;
  const size_t itemsize = c10::elementSize(dtype);
  c10::SmallVector<uint64_t, 10> key{
      static_cast<uint64_t>(from.id()) << 32 | to.id(), itemsize};
  for (const int64_t size : sizes) {
    key.push_back(static_cast<uint64_t>(size));
  }
  const KeyWords words(key.data(), key.size());
  const uint64_t hash = hash_of(words);
  if (auto found = cache.find(words, hash)) {
    return found;
  }
  auto made = std::make_shared<const Redistribution>(plan_redistribution(
      from, to, as_span(sizes), static_cast<int64_t>(itemsize)));
  cache.insert(words, hash, made);
  return made;
}

Shards cut_whole(const at::Tensor& whole, const Layout& layout) {
  const Layout replicated = Layout::replicated(layout.mesh());
  return run_redistribution(
      *redistribution_of(
          replicated, layout, whole.sizes(), whole.scalar_type()),
      on_lanes(replicated.lanes(), whole));
}

Shards empty_shards(const MeshStorage& storage, const Layout& layout) {
  const Lanes& lanes = layout.lanes();
  Shards shards(lanes.num);
  for (const int lane : lanes.mine) {
    const int device = lanes.first_device[lane];
    const std::vector<int64_t> sizes =
        shard_sizes(layout, storage.base_sizes(), device);
    const auto options =
        at::TensorOptions(storage.dtype())
            .device(torch_device(layout.mesh().devices()[device]));
    const bool whole = c10::IntArrayRef(sizes) == storage.base_sizes();
    shards[lane] = at::empty_strided(
        sizes,
        whole
            ? std::vector<int64_t>(
                  storage.base_strides().begin(), storage.base_strides().end())
            : strides_in_order_of(sizes, storage.base_strides()),
        options);
  }
  return shards;
}

BaseValue BaseValue::of(MeshStorage& storage) {
  const std::lock_guard lock(storage.mutex);
  return of_locked(storage);
}

BaseValue BaseValue::of_locked(const MeshStorage& storage) {
  return {storage.layout(),
          storage.shards(),
          storage.base_sizes(),
          storage.base_strides(),
          storage.dtype(),
          storage.state().layout_generation(),
          storage.state().memory_generation(),
          storage.state().value_generation()};
}

bool BaseValue::is_of(const MeshStorage& storage) const {
  return memory_generation == storage.state().memory_generation() &&
         value_generation == storage.state().value_generation();
}

at::Tensor full_base(const BaseValue& base) {
  const Layout replicated = Layout::replicated(base.layout.mesh());
  const at::Tensor value =
      run_redistribution(
          *redistribution_of(base.layout, replicated, base.sizes, base.dtype),
          base.shards)
          .any()
          .local();
  at::Tensor full = at::empty_strided(
      base.sizes,
      base.strides,
      at::TensorOptions(base.dtype).device(value.device()));
  full.copy_(value);
  return full;
}

at::Tensor window_on(
    const at::Tensor& full,
    const at::Tensor& tensor,
    c10::ScalarType dtype) {
  return at::empty({0}, at::TensorOptions(dtype).device(full.device()))
      .set_(
          full.storage(),
          tensor.storage_offset(),
          tensor.sizes(),
          tensor.strides());
}

void copy_once(at::Tensor window, at::Tensor value) {
  for (int64_t d = 0; d < window.dim(); ++d) {
    if (window.stride(d) == 0 && window.size(d) > 1) {
      window = window.narrow(d, 0, 1);
      value = value.narrow(d, 0, 1);
    }
  }
  window.copy_(value);
}

bool is_whole(const at::Tensor& tensor) {
  const MeshStorage& storage = *MeshStorage::of(tensor);
  return !meta_of(tensor).is_write_back && tensor.storage_offset() == 0 &&
         tensor.sizes() == c10::IntArrayRef(storage.base_sizes()) &&
         tensor.strides() == c10::IntArrayRef(storage.base_strides()) &&
         tensor.scalar_type() == storage.dtype();
}

}  // namespace torch_mesh
