// shard.cpp: memory order of one device's tensor.

#include "tensor/shard.h"

#include <ATen/ops/empty_strided.h>

#include <torch_mesh/layout.h>

namespace torch_mesh {
namespace {

std::vector<int64_t> ordered(c10::IntArrayRef sizes, c10::IntArrayRef strides) {
  return strides_in_order_of(
      {sizes.data(), sizes.size()}, {strides.data(), strides.size()});
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
  const std::vector<int64_t> wanted = ordered(shard.sizes(), strides);
  if (same_strides(shard.sizes(), shard.strides(), wanted)) {
    return shard;
  }
  return at::empty_strided(shard.sizes(), wanted, shard.options()).copy_(shard);
}

}  // namespace torch_mesh
