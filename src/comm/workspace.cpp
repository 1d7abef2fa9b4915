// workspace.cpp: a few buffers, the last used last.

#include "comm/workspace.h"

#include <algorithm>
#include <mutex>
#include <vector>

#include <ATen/ops/empty.h>

namespace torch_mesh {
namespace {

struct Buffers {
  std::mutex mutex;
  std::vector<at::Tensor> all;  // runs of bytes
};

Buffers& buffers() {
  static auto& buffers = *new Buffers;
  return buffers;
}

bool is_free(const at::Tensor& buffer) {
  return buffer.storage().use_count() == 1;
}

// Lets go of those that were not used for longest.
void shrink(std::vector<at::Tensor>& all) {
  int64_t num_bytes = 0;
  for (const at::Tensor& buffer : all) {
    num_bytes += buffer.numel();
  }
  for (auto buffer = all.begin();
       buffer != all.end() && num_bytes > kMostWorkspace;) {
    if (is_free(*buffer)) {
      num_bytes -= buffer->numel();
      buffer = all.erase(buffer);
    } else {
      ++buffer;
    }
  }
}

}  // namespace

at::Tensor workspace(int64_t numel, c10::ScalarType dtype) {
  // Whole pages, so that sums that differ a little share one. What is smaller
  // comes from the heap, whose pages are there.
  constexpr int64_t kGrain = int64_t{1} << 16;
  const int64_t num_bytes =
      numel * static_cast<int64_t>(c10::elementSize(dtype));
  if (num_bytes < kGrain) {
    return at::empty({numel}, dtype);
  }
  Buffers& kept = buffers();
  const std::lock_guard lock(kept.mutex);
  const auto fits = [&](const at::Tensor& buffer) {
    return is_free(buffer) && buffer.numel() >= num_bytes &&
           buffer.numel() / 2 <= num_bytes + kGrain;
  };
  const auto found = std::ranges::find_if(kept.all, fits);
  at::Tensor buffer;
  if (found != kept.all.end()) {
    buffer = *found;
    kept.all.erase(found);
  } else {
    buffer = at::empty({(num_bytes + kGrain - 1) / kGrain * kGrain}, at::kByte);
  }
  kept.all.push_back(buffer);
  shrink(kept.all);
  return buffer.narrow(0, 0, num_bytes).view(dtype);
}

void free_workspaces() {
  Buffers& kept = buffers();
  const std::lock_guard lock(kept.mutex);
  kept.all.clear();
}

}  // namespace torch_mesh
