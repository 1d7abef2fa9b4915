// lazy_bits.cpp: puts the bits on, takes them off.

#include "tensor/lazy_bits.h"

#include <ATen/ops/alias.h>

#include "shard/local_ops.h"
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
  for (Shard& shard : shards) {
    const LazyBits own = LazyBits::of(shard.local());
    if (own.any()) [[unlikely]] {
      bits = own;
      shard = at::alias(shard.local());
      LazyBits().put_on(shard.local());
    }
  }
  return bits;
}

void resolve_bits(Shards& shards) {
  for (Shard& shard : shards) {
    const at::Tensor& local = shard.local();
    if (LazyBits::of(local).any() || local._is_zerotensor()) [[unlikely]] {
      shard = local.clone();
    }
  }
}

Shards with_bits_of(const at::Tensor& tensor, Shards shards) {
  const LazyBits bits = LazyBits::of(tensor);
  if (bits.any()) [[unlikely]] {
    const LocalOps local;
    for (Shard& shard : shards) {
      shard = at::alias(shard.local());
      bits.put_on(shard.local());
    }
  }
  return shards;
}

}  // namespace torch_mesh
