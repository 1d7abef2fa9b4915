// select_slice.cpp: the same window on every shard.

#include "dispatch/select_slice.h"

#include <algorithm>
#include <limits>

#include "tensor/global_tensor.h"
#include "tensor/lazy_bits.h"
#include "tensor/window.h"

namespace torch_mesh {
namespace {

// The dim that a call means; -1 if the call is not ours.
int64_t dim_of_call(const at::Tensor& self, int64_t dim) {
  if (!is_global(self)) {
    return -1;
  }
  dim = dim < 0 ? dim + self.dim() : dim;
  return dim < self.dim() ? dim : -1;
}

void give_window(
    const Op& op,
    Stack& stack,
    const at::Tensor& self,
    Held window_of_self,
    c10::IntArrayRef sizes,
    c10::IntArrayRef strides,
    int64_t offset) {
  at::Tensor window = make_view(
      self.storage(),
      window_of_self.layout,
      sizes,
      strides,
      self.storage_offset() + offset,
      self.scalar_type(),
      std::move(window_of_self.shards),
      meta_of(self).is_write_back,
      self.is_inference());
  // A reader on another thread may have reduced the storage since.
  meta_of(window).memory_generation.store(window_of_self.memory_generation);
  stack.resize(stack.size() - op.params.size());
  stack.emplace_back(std::move(window));
}

// A window along a dim that is cut: taken when it is read, of what each device
// lacks. False where only a plan says how (sums, blocks).
bool give_copy(
    const Op& op,
    Stack& stack,
    const at::Tensor& self,
    c10::IntArrayRef sizes,
    c10::IntArrayRef strides,
    int64_t offset) {
  const MeshStorage& storage = *MeshStorage::of(self);
  if (storage.is_unwritten() || storage.broken || !is_taken_by_boxes(self)) {
    return false;
  }
  at::Tensor window = window_of_storage(
      self.storage(),
      sizes,
      strides,
      self.storage_offset() + offset,
      self.scalar_type(),
      self.is_inference());
  LazyBits::of(self).put_on(window);
  stack.resize(stack.size() - op.params.size());
  stack.emplace_back(std::move(window));
  return true;
}

// Placements once `dim`, which none of them shards, is gone.
Layout without_dim(const Layout& layout, int64_t dim) {
  std::vector<Placement> placements = layout.placements();
  for (Placement& placement : placements) {
    placement.dim -= placement.is_shard() && placement.dim > dim;
  }
  return Layout(layout.mesh(), placements);
}

}  // namespace

bool run_select(const Op& op, Stack& stack) {
  const size_t base = stack.size() - op.params.size();
  const at::Tensor self = stack[base].toTensor();
  const int64_t dim = dim_of_call(self, stack[base + 1].toInt());
  int64_t index = stack[base + 2].toInt();
  if (dim < 0 || index < -self.size(dim) || index >= self.size(dim)) {
    return false;
  }
  index = index < 0 ? index + self.size(dim) : index;
  Sizes sizes(self.sizes().begin(), self.sizes().end());
  Sizes strides(self.strides().begin(), self.strides().end());
  const int64_t offset = index * strides[dim];
  sizes.erase(sizes.begin() + dim);
  strides.erase(strides.begin() + dim);
  if (layout_of(self).shards_dim(dim)) {
    return give_copy(op, stack, self, sizes, strides, offset);
  }
  Held now = held(self);
  for (Shard& shard : now.shards) {
    shard = shard.local().select(dim, index);
  }
  if (now.layout.sharded_axes()) {
    now.layout = without_dim(now.layout, dim);
  }
  give_window(op, stack, self, std::move(now), sizes, strides, offset);
  return true;
}

bool run_slice(const Op& op, Stack& stack) {
  const size_t base = stack.size() - op.params.size();
  const at::Tensor self = stack[base].toTensor();
  const int64_t dim = dim_of_call(self, stack[base + 1].toInt());
  const int64_t step = stack[base + 4].toInt();
  if (dim < 0 || step <= 0) {
    return false;
  }
  const int64_t size = self.size(dim);
  auto clamped = [&](const c10::IValue& value, int64_t missing) {
    int64_t place = value.isNone() ? missing : value.toInt();
    place = place < 0 ? place + size : place;
    return std::clamp<int64_t>(place, 0, size);
  };
  const int64_t begin = clamped(stack[base + 2], 0);
  const int64_t end = std::max(begin, clamped(stack[base + 3], size));
  Sizes sizes(self.sizes().begin(), self.sizes().end());
  Sizes strides(self.strides().begin(), self.strides().end());
  const int64_t offset = begin * strides[dim];
  sizes[dim] = (end - begin + step - 1) / step;
  strides[dim] *= step;
  if (layout_of(self).shards_dim(dim)) {
    return sizes[dim] != size &&
           give_copy(op, stack, self, sizes, strides, offset);
  }
  Held now = held(self);
  for (Shard& shard : now.shards) {
    shard = shard.local().slice(dim, begin, end, step);
  }
  give_window(op, stack, self, std::move(now), sizes, strides, offset);
  return true;
}

}  // namespace torch_mesh
