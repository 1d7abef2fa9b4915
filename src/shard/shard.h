// shard.h: what one device holds of a global tensor.

#pragma once

#include <cstddef>
#include <initializer_list>
#include <iterator>
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
  // Names its allocation.
  const void* memory() const { return local_.storage().unsafeGetStorageImpl(); }
  // Whether both lie in one allocation.
  bool shares_memory_with(const Shard& other) const {
    return local_.storage().is_alias_of(other.local_.storage());
  }

 private:
  at::Tensor local_;
};

// One for each lane of a layout: those that this process holds, and places for
// those that others hold. Loops see the former alone; a lane is named by its
// number among all.
class Shards {
 public:
  Shards() = default;
  Shards(std::initializer_list<Shard> shards) : lanes_(shards) {}
  // Places for that many lanes.
  explicit Shards(size_t num_lanes) : lanes_(num_lanes) {}

  template <typename T>
  class Iterator {
   public:
    using iterator_category = std::forward_iterator_tag;
    using value_type = Shard;
    using difference_type = std::ptrdiff_t;
    using pointer = T*;
    using reference = T&;

    Iterator(T* at, T* end) : at_(at), end_(end) { skip(); }
    T& operator*() const { return *at_; }
    T* operator->() const { return at_; }
    Iterator& operator++() {
      ++at_;
      skip();
      return *this;
    }
    bool operator==(const Iterator& other) const { return at_ == other.at_; }

   private:
    void skip() {
      while (at_ != end_ && !at_->defined()) {
        ++at_;
      }
    }
    T* at_;
    T* end_;
  };
  auto begin() { return Iterator<Shard>(lanes_.begin(), lanes_.end()); }
  auto end() { return Iterator<Shard>(lanes_.end(), lanes_.end()); }
  auto begin() const {
    return Iterator<const Shard>(lanes_.begin(), lanes_.end());
  }
  auto end() const { return Iterator<const Shard>(lanes_.end(), lanes_.end()); }

  // Of all lanes.
  size_t size() const { return lanes_.size(); }
  bool empty() const { return lanes_.empty(); }
  void clear() { lanes_.clear(); }
  void push_back(Shard shard) { lanes_.push_back(std::move(shard)); }
  Shard& operator[](size_t lane) { return lanes_[lane]; }
  const Shard& operator[](size_t lane) const { return lanes_[lane]; }

  // One that is here: the whole value, of replicas; else what all shards have
  // in common. Requires: this process holds one.
  const Shard& any() const { return *begin(); }

 private:
  c10::SmallVector<Shard, 2> lanes_;
};

// Makes each a copy that nothing else refers to.
void own(Shards& shards);

// Copies with the very strides of these, holes between the elements included:
// views of the ones hold for the others.
Shards copies_of(const Shards& shards);

void fill_with_zeros(const Shards& shards);

// What a device has of a sum that counts once, on another one: -0.0 everywhere.
// A number stays one, whose dtype decides nothing.
at::Tensor no_part(const at::Tensor& like);

// Writes shards over those of the same lanes.
void copy_shards(const Shards& from, const Shards& to);

}  // namespace torch_mesh
