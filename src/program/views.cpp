// views.cpp: ops that are a view op by another name, or a write to one.

#include <ATen/MemoryOverlap.h>

#include "program/programs.h"
#include "shard/local_ops.h"
#include "tensor/global_tensor.h"
#include "tensor/lazy_bits.h"
#include "tensor/window.h"
#include "tensor/window_value.h"

namespace torch_mesh::programs {
namespace {

// slice_scatter, select_scatter and the like of a window: torch copies all of
// its storage, so that the result has the window's strides and offset. `view`:
// the op whose window of the copy `src` is written to.
bool scatter(const Op& view, const CallArgs& args) {
  const at::Tensor self = args.tensor("self");
  const at::Tensor src = args.tensor("src");
  if (!is_global(self) || LazyBits::of(self).any() ||
      at::has_internal_overlap(self) == at::MemOverlap::Yes) {
    return false;
  }
  MeshStorage& storage = *MeshStorage::of(self);
  if (self.storage_offset() == 0 && self.is_non_overlapping_and_dense() &&
      self.numel() * static_cast<int64_t>(self.itemsize()) ==
          static_cast<int64_t>(storage.nbytes())) {
    return false;
  }
  const auto [sizes, strides] = [&storage] {
    const std::lock_guard lock(storage.mutex);
    return std::pair(storage.base_sizes(), storage.base_strides());
  }();
  const at::Tensor base = window_of_storage(
      self.storage(), sizes, strides, /*offset=*/0, storage.dtype());
  const at::Tensor copy =
      base.new_empty_strided(base.sizes(), base.strides()).copy_(base);
  const at::Tensor result = window_of_storage(
      copy.storage(),
      self.sizes(),
      self.strides(),
      self.storage_offset(),
      self.scalar_type());
  Stack of_view = args.copy();
  of_view.erase(of_view.begin() + 1);
  of_view[0] = result;
  run_op(view, of_view);
  const at::Tensor part = of_view[0].toTensor();
  if (part.sizes() != src.sizes()) {
    return false;  // the op's own error
  }
  part.copy_(src);
  return args.give(result);
}

}  // namespace

// The strides that come with it are those that view() finds itself.
bool reshape_alias(const CallArgs& args) {
  static const Op& view = op_named("aten::view", "");
  args.stack.pop_back();
  run_op(view, args.stack);
  return true;
}

// Parts that autograd takes for tensors of their own lie in the argument's
// memory all the same.
bool unsafe_split(const CallArgs& args) {
  static const Op& split = op_named("aten::split", "Tensor");
  run_op(split, args.stack);
  return true;
}

bool unsafe_split_with_sizes(const CallArgs& args) {
  static const Op& split = op_named("aten::split_with_sizes", "");
  run_op(split, args.stack);
  return true;
}

bool as_strided_scatter(const CallArgs& args) {
  return scatter(op_named("aten::as_strided", ""), args);
}

bool diagonal_scatter(const CallArgs& args) {
  return scatter(op_named("aten::diagonal", ""), args);
}

bool select_scatter(const CallArgs& args) {
  return scatter(op_named("aten::select", "int"), args);
}

bool slice_scatter(const CallArgs& args) {
  return scatter(op_named("aten::slice", "Tensor"), args);
}

// Along a cut dim, of which each device gets what it lacks: two windows change
// places. The shift is no matter of a plan.
bool roll(const CallArgs& args) {
  const at::Tensor self = args.tensor("self");
  const auto shifts = args["shifts"].toIntVector();
  const auto dims = args["dims"].toIntVector();
  if (!is_global(self) || shifts.size() != 1 || dims.size() != 1 ||
      dims[0] < -self.dim() || dims[0] >= self.dim() || self.numel() == 0 ||
      !self.is_contiguous() || LazyBits::of(self).any() || is_unwritten(self) ||
      MeshStorage::of(self)->state().is_broken()) {
    return false;
  }
  const int64_t dim = dims[0] < 0 ? dims[0] + self.dim() : dims[0];
  const Layout layout = layout_of(self);
  if (!layout.shards_dim(dim) || !is_taken_by_boxes(self)) {
    return false;
  }
  const at::Tensor rolled =
      make_unwritten(layout, self.sizes(), self.strides(), self.scalar_type());
  adopt_layout(rolled, layout);
  auto part_of = [&](const at::Tensor& tensor, int64_t begin, int64_t length) {
    std::vector<int64_t> sizes = self.sizes().vec();
    sizes[dim] = length;
    return window_of_storage(
        tensor.storage(),
        sizes,
        self.strides(),
        tensor.storage_offset() + begin * self.stride(dim),
        self.scalar_type());
  };
  const int64_t size = self.size(dim);
  const int64_t shift = (shifts[0] % size + size) % size;
  const LocalOps local;
  copy_window(
      part_of(self, 0, size - shift), part_of(rolled, shift, size - shift));
  if (shift != 0) {
    copy_window(part_of(self, size - shift, shift), part_of(rolled, 0, shift));
  }
  return args.give(rolled);
}

}  // namespace torch_mesh::programs
