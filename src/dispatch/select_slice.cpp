// select_slice.cpp: the same window on every shard.

#include "dispatch/select_slice.h"

#include <algorithm>
#include <limits>

#include "tensor/global_tensor.h"

namespace torch_mesh {
namespace {

// The dim that a call means; -1 if the call is not ours.
int64_t whole_dim(const at::Tensor& self, int64_t dim) {
  if (!is_global(self)) {
    return -1;
  }
  dim = dim < 0 ? dim + self.dim() : dim;
  if (dim < 0 || dim >= self.dim()) {
    return -1;
  }
  read(self);
  return layout_of(self).shards_dim(dim) ? -1 : dim;
}

void give_window(
    const Op& op,
    Stack& stack,
    const at::Tensor& self,
    const Layout& layout,
    c10::IntArrayRef sizes,
    c10::IntArrayRef strides,
    int64_t offset,
    Shards shards) {
  at::Tensor window = make_view(
      self.storage(),
      layout,
      sizes,
      strides,
      self.storage_offset() + offset,
      self.scalar_type(),
      std::move(shards),
      meta_of(self).is_write_back,
      LazyMarks::of(self));
  stack.resize(stack.size() - op.params.size());
  stack.emplace_back(std::move(window));
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
  const int64_t dim = whole_dim(self, stack[base + 1].toInt());
  int64_t index = stack[base + 2].toInt();
  if (dim < 0 || index < -self.size(dim) || index >= self.size(dim)) {
    return false;
  }
  index = index < 0 ? index + self.size(dim) : index;
  Shards shards;
  for (const at::Tensor& shard : read(self)) {
    shards.push_back(shard.select(dim, index));
  }
  Sizes sizes(self.sizes().begin(), self.sizes().end());
  Sizes strides(self.strides().begin(), self.strides().end());
  const int64_t offset = index * strides[dim];
  sizes.erase(sizes.begin() + dim);
  strides.erase(strides.begin() + dim);
  const Layout& layout = layout_of(self);
  give_window(
      op,
      stack,
      self,
      layout.sharded_axes() ? without_dim(layout, dim) : layout,
      sizes,
      strides,
      offset,
      std::move(shards));
  return true;
}

bool run_slice(const Op& op, Stack& stack) {
  const size_t base = stack.size() - op.params.size();
  const at::Tensor self = stack[base].toTensor();
  const int64_t dim = whole_dim(self, stack[base + 1].toInt());
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
  Shards shards;
  for (const at::Tensor& shard : read(self)) {
    shards.push_back(shard.slice(dim, begin, end, step));
  }
  Sizes sizes(self.sizes().begin(), self.sizes().end());
  Sizes strides(self.strides().begin(), self.strides().end());
  const int64_t offset = begin * strides[dim];
  sizes[dim] = (end - begin + step - 1) / step;
  strides[dim] *= step;
  const Layout layout = layout_of(self);
  give_window(
      op, stack, self, layout, sizes, strides, offset, std::move(shards));
  return true;
}

}  // namespace torch_mesh
