// shard.h: how the tensor of one device lies in memory, and what it is marked
// with.

#pragma once

#include <ATen/core/Tensor.h>

namespace torch_mesh {

// What torch leaves to be done at the next read: a tensor of conj(), or of
// imag of such a one, is a view with a mark. The shards of a window carry the
// marks of the window; those of a storage have none.
struct LazyMarks {
  bool conj = false;
  bool neg = false;

  static LazyMarks of(const at::Tensor& tensor) {
    return {tensor.is_conj(), tensor.is_neg()};
  }
  // Makes these the marks of `tensor`.
  void put_on(const at::Tensor& tensor) const;
  bool operator==(const LazyMarks&) const = default;
};

// The same sizes, strides and marks as `like`, in other memory.
at::Tensor window_of_shard(
    const at::Tensor& like,
    const c10::Storage& storage,
    int64_t offset);

// Whether the dims of a shard lie in the order of those of a whole that has
// these strides.
bool is_in_order(const at::Tensor& shard, c10::IntArrayRef strides);

// The shard, or a dense copy of it, so that it is dense and in that order.
at::Tensor in_order(const at::Tensor& shard, c10::IntArrayRef strides);

}  // namespace torch_mesh
