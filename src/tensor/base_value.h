// base_value.h: plain stand-ins for the base of a storage and windows on it.

#pragma once

#include <memory>

#include <torch_mesh/redistribute.h>

#include "shard/shard.h"
#include "tensor/global_tensor.h"

namespace torch_mesh {

// As plan_redistribution, kept for the next call.
std::shared_ptr<const Redistribution> redistribution_of(
    const Layout& from,
    const Layout& to,
    c10::IntArrayRef sizes,
    c10::ScalarType dtype);

// `whole`, a plain tensor, as each lane of `layout` has it. Nothing moves; may
// alias it.
Shards cut_whole(const at::Tensor& whole, const Layout& layout);

// Uninitialised shards of the storage's base under `layout`.
Shards empty_shards(const MeshStorage& storage, const Layout& layout);

// What a storage holds at one moment. Its base is another once a reader has
// formed its sum in another shape.
struct BaseValue {
  Layout layout;
  Shards shards;
  Sizes sizes;
  Sizes strides;
  c10::ScalarType dtype = c10::kFloat;
  uint32_t layout_generation = 0;
  uint32_t memory_generation = 0;
  uint32_t value_generation = 0;

  // Takes the storage's lock. Requires: not unwritten.
  static BaseValue of(MeshStorage& storage);
  // Requires it.
  static BaseValue of_locked(const MeshStorage& storage);
  // Whether the storage still holds the same. Requires its lock.
  bool is_of(const MeshStorage& storage) const;
};

// The whole value, addressed as plain torch would: sizes and strides of the
// base, offset 0 of a plain storage of its own.
at::Tensor full_base(const BaseValue& base);

// The window that `tensor` is, on a plain tensor like full_base's, in elements
// of `dtype`.
at::Tensor window_on(
    const at::Tensor& full,
    const at::Tensor& tensor,
    c10::ScalarType dtype);

// Writes `value` over `window`; elements that a stride of 0 repeats, once. Ops
// that may not write to such a window have said so before.
void copy_once(at::Tensor window, at::Tensor value);

// Whether a tensor is its storage as that was made, not a window on it.
bool is_whole(const at::Tensor& tensor);

}  // namespace torch_mesh
