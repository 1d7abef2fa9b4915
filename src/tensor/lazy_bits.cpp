// lazy_bits.cpp: puts the bits on, takes them off.

#include "tensor/lazy_bits.h"

#include <ATen/ops/alias.h>

#include "tensor/global_tensor.h"

namespace torch_mesh {

void LazyBits::put_on(const at::Tensor& tensor) const {
  if (is_conj != tensor.is_conj()) {
    tensor._set_conj(is_conj);
  }
  if (is_neg != tensor.is_neg()) {
    tensor._set_neg(is_neg);
  }
}

LazyBits take_bits_off(Shards& shards) {
  LazyBits bits;
  for (at::Tensor& shard : shards) {
    const LazyBits own = LazyBits::of(shard);
    if (own.any()) [[unlikely]] {
      bits = own;
      shard = at::alias(shard);
      LazyBits().put_on(shard);
    }
  }
  return bits;
}

void resolve_bits(Shards& shards) {
  for (at::Tensor& shard : shards) {
    if (LazyBits::of(shard).any() || shard._is_zerotensor()) [[unlikely]] {
      shard = shard.clone();
    }
  }
}

Shards with_bits_of(const at::Tensor& tensor, Shards shards) {
  const LazyBits bits = LazyBits::of(tensor);
  if (bits.any()) [[unlikely]] {
    const LocalOps local;
    for (at::Tensor& shard : shards) {
      shard = at::alias(shard);
      bits.put_on(shard);
    }
  }
  return shards;
}

}  // namespace torch_mesh
