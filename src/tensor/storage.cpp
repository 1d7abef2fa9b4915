// storage.cpp: construction of storages with addresses of their own.

#include "tensor/storage.h"

#include <algorithm>
#include <utility>

#include <c10/core/CPUAllocator.h>
#include <c10/util/accumulate.h>

#include "tensor/first_storage.h"

namespace torch_mesh {

std::atomic<void (*)()> on_first_storage{nullptr};

namespace {

// Non-canonical on x86-64 and outside user space elsewhere: a stray read faults
// instead of returning something.
constexpr uint64_t kFirstAddress = 0x8000000000000000ull;
std::atomic<uint64_t> next_address{kFirstAddress};

c10::DataPtr address(size_t num_bytes) {
  return {unique_address(num_bytes),
          c10::Device(c10::DeviceType::PrivateUse1, 0)};
}

size_t bytes_of(
    c10::IntArrayRef sizes,
    c10::IntArrayRef strides,
    c10::ScalarType dtype) {
  size_t last = 0;
  for (size_t d = 0; d < sizes.size(); ++d) {
    if (sizes[d] == 0) {
      return 0;
    }
    last += static_cast<size_t>((sizes[d] - 1) * strides[d]);
  }
  return (last + 1) * c10::elementSize(dtype);
}

}  // namespace

void* unique_address(size_t num_bytes) {
  constexpr size_t kAlignment = 64;
  // No machine has as much; what is larger will never be written, and must not
  // use the addresses up.
  constexpr size_t kMostBytes = size_t{1} << 47;
  const size_t advance =
      (std::min(num_bytes, kMostBytes) + kAlignment) / kAlignment * kAlignment;
  const uint64_t address =
      next_address.fetch_add(advance, std::memory_order_relaxed);
  if (address == kFirstAddress) [[unlikely]] {
    if (void (*hook)() = on_first_storage) {
      hook();
    }
  }
  return reinterpret_cast<void*>(address);
}

MeshStorage::MeshStorage(
    Layout layout,
    c10::IntArrayRef sizes,
    c10::IntArrayRef strides,
    c10::ScalarType dtype)
    : c10::StorageImpl(
          use_byte_size_t(),
          bytes_of(sizes, strides, dtype),
          address(bytes_of(sizes, strides, dtype)),
          /*allocator=*/nullptr,
          /*resizable=*/false),
      layout_(layout),
      base_sizes_(sizes.begin(), sizes.end()),
      base_strides_(strides.begin(), strides.end()),
      dtype_(dtype) {}

MeshStorage::MeshStorage(size_t num_bytes)
    : c10::StorageImpl(
          use_byte_size_t(),
          num_bytes,
          address(num_bytes),
          /*allocator=*/nullptr,
          /*resizable=*/false),
      base_sizes_{static_cast<int64_t>(num_bytes)},
      base_strides_{1},
      dtype_(c10::kByte) {}

// The state comes first: what it refuses changes nothing. Who reads without
// the lock looks at generations alone, and then waits for it.

void MeshStorage::get_memory(const Layout& layout, Shards shards) {
  state_.get_memory();
  layout_ = layout;
  shards_ = std::move(shards);
  count_shards();
}

void MeshStorage::begin_reduction(std::shared_ptr<Reduction> reduction) {
  state_.begin_reduction();
  reduction_ = std::move(reduction);
}

void MeshStorage::end_reduction() {
  state_.end_reduction();
  reduction_ = nullptr;
}

void MeshStorage::form_sums(AxisMask axes, Shards& sums) {
  state_.form_sums();
  layout_ = layout_.with_sums_reduced(axes);
  std::swap(shards_, sums);
  count_shards();
}

void MeshStorage::form_sums(AxisMask axes) {
  state_.form_sums();
  layout_ = layout_.with_sums_reduced(axes);
  count_shards();
}

void MeshStorage::replace_memory(const Layout& layout, Shards& shards) {
  state_.replace_memory();
  layout_ = layout;
  std::swap(shards_, shards);
  count_shards();
}

void MeshStorage::change_layout(
    const Layout& layout,
    c10::IntArrayRef sizes,
    c10::IntArrayRef strides,
    Shards& shards) {
  state_.change_layout();
  layout_ = layout;
  base_sizes_.assign(sizes.begin(), sizes.end());
  base_strides_.assign(strides.begin(), strides.end());
  std::swap(shards_, shards);
  count_shards();
}

void MeshStorage::become_copy(const MeshStorage& other, Shards& shards) {
  if (is_unwritten()) {
    state_.get_memory();
  }
  dtype_ = other.dtype_;
  change_layout(other.layout_, other.base_sizes_, other.base_strides_, shards);
}

void MeshStorage::break_value(std::shared_ptr<const std::string> error) {
  if (!broken_) {
    broken_ = std::move(error);
    state_.break_value();
  }
}

std::shared_ptr<const std::string> MeshStorage::heal() {
  state_.heal();
  return std::exchange(broken_, nullptr);
}

}  // namespace torch_mesh
