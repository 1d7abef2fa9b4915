// workspace.cpp: a few buffers, the last used last.

#include "comm/workspace.h"

#include <algorithm>
#include <mutex>
#include <vector>

#include <ATen/ops/empty.h>

namespace torch_mesh {
namespace {

// What is smaller comes from the heap, whose pages are there; and sums that
// differ a little share a buffer.
constexpr int64_t kGrain = int64_t{1} << 16;

class Buffers {
 public:
  // One that nobody refers to; undefined if there is none.
  at::Tensor find(int64_t num_bytes) {
    const auto fits = [&](const at::Tensor& buffer) {
      return is_free(buffer) && buffer.numel() >= num_bytes &&
             buffer.numel() / 2 <= num_bytes + kGrain;
    };
    const auto found = std::ranges::find_if(all_, fits);
    if (found == all_.end()) {
      return {};
    }
    const at::Tensor buffer = *found;
    all_.erase(found);
    all_.push_back(buffer);
    return buffer;
  }

  void add(const at::Tensor& buffer) { all_.push_back(buffer); }

  // Lets go of those that were not used for longest, until all have that many
  // bytes, or all are in use.
  void shrink(int64_t most) {
    int64_t num = num_bytes();
    for (auto buffer = all_.begin(); buffer != all_.end() && num > most;) {
      if (is_free(*buffer)) {
        num -= buffer->numel();
        buffer = all_.erase(buffer);
      } else {
        ++buffer;
      }
    }
  }

  int64_t num_bytes() const {
    int64_t num = 0;
    for (const at::Tensor& buffer : all_) {
      num += buffer.numel();
    }
    return num;
  }

  void clear() { all_.clear(); }

  std::mutex mutex;  // guards all others

 private:
  static bool is_free(const at::Tensor& buffer) {
    return buffer.storage().use_count() == 1;
  }

  std::vector<at::Tensor> all_;  // runs of bytes
};

Buffers& buffers() {
  static auto& buffers = *new Buffers;
  return buffers;
}

Buffers& lasting_buffers() {
  static auto& buffers = *new Buffers;
  return buffers;
}

int64_t bytes_of(int64_t numel, c10::ScalarType dtype) {
  return numel * static_cast<int64_t>(c10::elementSize(dtype));
}

at::Tensor new_buffer(int64_t num_bytes) {
  return at::empty({(num_bytes + kGrain - 1) / kGrain * kGrain}, at::kByte);
}

}  // namespace

at::Tensor workspace(int64_t numel, c10::ScalarType dtype) {
  const int64_t num_bytes = bytes_of(numel, dtype);
  if (num_bytes < kGrain) {
    return at::empty({numel}, dtype);
  }
  Buffers& kept = buffers();
  const std::lock_guard lock(kept.mutex);
  at::Tensor buffer = kept.find(num_bytes);
  if (!buffer.defined()) {
    buffer = new_buffer(num_bytes);
    kept.add(buffer);
  }
  kept.shrink(kMostWorkspace);
  return buffer.narrow(0, 0, num_bytes).view(dtype);
}

at::Tensor lasting_workspace(int64_t numel, c10::ScalarType dtype) {
  const int64_t num_bytes = bytes_of(numel, dtype);
  if (num_bytes < kGrain || num_bytes > kMostWorkspace) {
    return at::empty({numel}, dtype);
  }
  Buffers& kept = lasting_buffers();
  const std::lock_guard lock(kept.mutex);
  at::Tensor buffer = kept.find(num_bytes);
  if (!buffer.defined()) {
    kept.shrink(kMostWorkspace - num_bytes - kGrain);
    if (kept.num_bytes() + num_bytes > kMostWorkspace) {
      return at::empty({numel}, dtype);
    }
    buffer = new_buffer(num_bytes);
    kept.add(buffer);
  }
  return buffer.narrow(0, 0, num_bytes).view(dtype);
}

void free_workspaces() {
  for (Buffers* kept : {&buffers(), &lasting_buffers()}) {
    const std::lock_guard lock(kept->mutex);
    kept->clear();
  }
}

}  // namespace torch_mesh
