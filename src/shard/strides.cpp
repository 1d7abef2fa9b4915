// shard.cpp: memory order of one device's tensor.

#include "shard/strides.h"

#include <algorithm>
#include <numeric>

#include <ATen/ops/empty_strided.h>

#include <torch_mesh/layout.h>

#include "shard/span.h"

namespace torch_mesh {
namespace {

std::vector<int64_t> ordered(c10::IntArrayRef sizes, c10::IntArrayRef strides) {
  return strides_in_order_of(as_span(sizes), as_span(strides));
}

// Equal, where a dim has more than one element.
bool same_strides(
    c10::IntArrayRef sizes,
    c10::IntArrayRef a,
    c10::IntArrayRef b) {
  for (size_t d = 0; d < sizes.size(); ++d) {
    if (sizes[d] > 1 && a[d] != b[d]) {
      return false;
    }
  }
  return true;
}

}  // namespace

bool is_in_order(const at::Tensor& shard, c10::IntArrayRef strides) {
  return same_strides(
      shard.sizes(),
      ordered(shard.sizes(), shard.strides()),
      ordered(shard.sizes(), strides));
}

at::Tensor in_order(const at::Tensor& shard, c10::IntArrayRef strides) {
  return with_strides(shard, ordered(shard.sizes(), strides));
}

at::Tensor with_strides(const at::Tensor& shard, c10::IntArrayRef strides) {
  if (shard.strides() == strides || shard.numel() == 0) {
    return shard;
  }
  if (same_strides(shard.sizes(), shard.strides(), strides)) {
    return shard.as_strided(shard.sizes(), strides, shard.storage_offset());
  }
  return at::empty_strided(shard.sizes(), strides, shard.options())
      .copy_(shard);
}

at::Tensor showing_order(const at::Tensor& shard, c10::IntArrayRef strides) {
  std::vector<int64_t> inner_first(strides.size());
  std::iota(inner_first.rbegin(), inner_first.rend(), 0);
  std::stable_sort(
      inner_first.begin(), inner_first.end(), [&](int64_t a, int64_t b) {
        return strides[a] < strides[b];
      });
  std::vector<int64_t> local = shard.strides().vec();
  int64_t end = 1;  // of what lies within one element of the next dim
  for (const int64_t d : inner_first) {
    if (shard.size(d) == 1) {
      local[d] = strides[d] == 0 ? 0 : end;
    }
    end = std::max(end, local[d] * shard.size(d));
  }
  return shard.as_strided(shard.sizes(), local, shard.storage_offset());
}

}  // namespace torch_mesh
