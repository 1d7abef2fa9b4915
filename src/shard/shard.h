// shard.h: what one device holds of a global tensor.

#pragma once

#include <utility>

#include <ATen/core/Tensor.h>
#include <c10/util/SmallVector.h>

namespace torch_mesh {

// A shard is no tensor of torch's: nothing takes it for one by accident, and
// whoever runs an op on it says so with local(). tools/check_layers.py keeps
// account of the folders that do.
//
// Copies are handles on the same memory, as those of at::Tensor.
class Shard {
 public:
  Shard() = default;
  // Any local tensor may become one.
  Shard(at::Tensor local) : local_(std::move(local)) {}

  const at::Tensor& local() const& { return local_; }
  at::Tensor& local() & { return local_; }
  at::Tensor local() && { return std::move(local_); }

  // What it is like: facts that no op has to be run for.
  bool defined() const { return local_.defined(); }
  c10::IntArrayRef sizes() const { return local_.sizes(); }
  c10::IntArrayRef strides() const { return local_.strides(); }
  int64_t size(int64_t dim) const { return local_.size(dim); }
  int64_t stride(int64_t dim) const { return local_.stride(dim); }
  int64_t dim() const { return local_.dim(); }
  int64_t numel() const { return local_.numel(); }
  int64_t storage_offset() const { return local_.storage_offset(); }
  int64_t itemsize() const { return static_cast<int64_t>(local_.itemsize()); }
  int64_t num_bytes() const { return numel() * itemsize(); }
  c10::ScalarType scalar_type() const { return local_.scalar_type(); }
  c10::Device device() const { return local_.device(); }
  bool is_contiguous() const { return local_.is_contiguous(); }
  bool is_dense() const { return local_.is_non_overlapping_and_dense(); }

  bool is_all_of_its_memory() const {
    return static_cast<size_t>(num_bytes()) == local_.storage().nbytes();
  }
  // Whether both lie in one allocation.
  bool shares_memory_with(const Shard& other) const {
    return local_.storage().is_alias_of(other.local_.storage());
  }

 private:
  at::Tensor local_;
};

// One for each lane of a layout.
using Shards = c10::SmallVector<Shard, 2>;

}  // namespace torch_mesh
