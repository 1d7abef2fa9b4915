// windows.cpp: other tensors on the same storage.

#include <algorithm>

#include <torch_mesh/error.h>

#include "program/storage_ops.h"
#include "shard/span.h"
#include "tensor/global_tensor.h"
#include "tensor/lazy_bits.h"
#include "tensor/window.h"

namespace torch_mesh::storage_ops {
namespace {

// The dim that a call means; -1 if the call is not ours.
int64_t dim_of_call(const at::Tensor& self, int64_t dim) {
  if (!is_global(self)) {
    return -1;
  }
  dim = dim < 0 ? dim + self.dim() : dim;
  return dim < self.dim() ? dim : -1;
}

bool give_window(
    const CallArgs& args,
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
      window_of_self.origin,
      meta_of(self).is_write_back,
      self.is_inference());
  return args.give(std::move(window));
}

// A window along a dim that is cut: taken when it is read, of what each device
// lacks. False where only a plan says how (sums, blocks).
bool give_copy(
    const CallArgs& args,
    const at::Tensor& self,
    c10::IntArrayRef sizes,
    c10::IntArrayRef strides,
    int64_t offset) {
  const MeshStorage& storage = *MeshStorage::of(self);
  if (storage.is_unwritten() || storage.state().is_broken() ||
      !is_taken_by_boxes(self)) {
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
  return args.give(std::move(window));
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

// Another tensor object for the same window: nothing to plan.
bool alias(const CallArgs& args) {
  return args.give(make_alias(args.tensor("self")));
}

// A tensor made from a literal is fresh already.
bool lift_fresh(const CallArgs& args) { return args.give(args["self"]); }

// Addresses the storage as plain torch would (law 7).
bool as_strided(const CallArgs& args) {
  const at::Tensor self = args.tensor("self");
  const auto sizes = args["size"].toDimVector();
  const auto strides = args["stride"].toDimVector();
  const auto offset = args["storage_offset"].toOptional<int64_t>();
  at::Tensor window = window_of_storage(
      self.storage(),
      sizes,
      strides,
      offset.value_or(self.storage_offset()),
      self.scalar_type(),
      self.is_inference());
  LazyBits::of(self).put_on(window);
  return args.give(std::move(window));
}

// select.int, slice.Tensor: on a whole dim every shard is selected or sliced
// alike, so the offset is a matter of the run and no plan is made for it
// (law 9). Other calls, and those that torch has to complain about, are
// planned.
bool select(const CallArgs& args) {
  const at::Tensor self = args.tensor("self");
  const int64_t dim = dim_of_call(self, args["dim"].toInt());
  int64_t index = args["index"].toInt();
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
    return give_copy(args, self, sizes, strides, offset);
  }
  Held now = held(self);
  for (Shard& shard : now.shards) {
    shard = shard.local().select(dim, index);
  }
  if (now.layout.sharded_axes()) {
    now.layout = without_dim(now.layout, dim);
  }
  return give_window(args, self, std::move(now), sizes, strides, offset);
}

bool slice(const CallArgs& args) {
  const at::Tensor self = args.tensor("self");
  const int64_t dim = dim_of_call(self, args["dim"].toInt());
  const int64_t step = args["step"].toInt();
  if (dim < 0 || step <= 0) {
    return false;
  }
  const int64_t size = self.size(dim);
  auto clamped = [&](const c10::IValue& value, int64_t missing) {
    int64_t place = value.isNone() ? missing : value.toInt();
    place = place < 0 ? place + size : place;
    return std::clamp<int64_t>(place, 0, size);
  };
  const int64_t begin = clamped(args["start"], 0);
  const int64_t end = std::max(begin, clamped(args["end"], size));
  Sizes sizes(self.sizes().begin(), self.sizes().end());
  Sizes strides(self.strides().begin(), self.strides().end());
  const int64_t offset = begin * strides[dim];
  sizes[dim] = (end - begin + step - 1) / step;
  strides[dim] *= step;
  if (layout_of(self).shards_dim(dim)) {
    return sizes[dim] != size && give_copy(args, self, sizes, strides, offset);
  }
  Held now = held(self);
  for (Shard& shard : now.shards) {
    shard = shard.local().slice(dim, begin, end, step);
  }
  return give_window(args, self, std::move(now), sizes, strides, offset);
}

bool set_source_tensor(const CallArgs& args) {
  const at::Tensor self = args.tensor("self");
  const at::Tensor source = args.tensor("source");
  TORCH_CHECK(
      is_global(self) && is_global(source),
      "set_: both tensors must be on the mesh.\nHint: bring the source over "
      "with .to(\"mesh\"). [set-device]");
  become(self, source);
  return args.give(self);
}

bool set_source_storage(const CallArgs& args) {
  const at::Tensor self = args.tensor("self");
  const c10::Storage source = args["source"].toStorage();
  const c10::ScalarType dtype = self.scalar_type();
  std::vector<int64_t> sizes;
  std::vector<int64_t> strides;
  int64_t offset = 0;
  if (args.has("size")) {
    sizes = args["size"].toIntVector();
    strides = args["stride"].toIntVector();
    offset = args["storage_offset"].toInt();
  } else {
    sizes = {static_cast<int64_t>(source.nbytes() / self.itemsize())};
  }
  if (strides.empty() && !sizes.empty()) {
    strides = contiguous_strides(sizes);
  }
  become(self, window_of_storage(source, sizes, strides, offset, dtype));
  return args.give(self);
}

// Whether two tensors are one window on one storage; shards do not tell.
bool is_set_to(const CallArgs& args) {
  const at::Tensor self = args.tensor("self");
  const at::Tensor other = args.tensor("tensor");
  const bool is_one = is_global(self) && is_global(other) &&
                      self.storage().is_alias_of(other.storage()) &&
                      self.storage_offset() == other.storage_offset() &&
                      self.sizes() == other.sizes() &&
                      self.strides() == other.strides();
  return args.give(is_one);
}

}  // namespace torch_mesh::storage_ops
