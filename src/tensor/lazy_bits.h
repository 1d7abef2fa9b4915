// lazy_bits.h: torch's lazy conjugate and negative, on global tensors and
// shards.

#pragma once

#include <ATen/core/Tensor.h>

#include "shard/shard.h"

namespace torch_mesh {

struct LazyBits {
  bool is_conj = false;
  bool is_neg = false;

  static LazyBits of(const at::Tensor& tensor) {
    return {tensor.is_conj(), tensor.is_neg()};
  }
  bool any() const { return is_conj || is_neg; }
  void put_on(const at::Tensor& tensor) const;
};

// Leaves shards as memory lies; gives the bits that they had.
LazyBits take_bits_off(Shards& shards);

// Gives shards that had bits, or were zeros without memory, memory in which
// their values lie.
void resolve_bits(Shards& shards);

}  // namespace torch_mesh
