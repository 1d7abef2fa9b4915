// joined.cpp: by sizes, strides and offsets alone; no op is dispatched.

#include "shard/joined.h"

#include <ATen/ops/cat.h>
#include <c10/core/TensorImpl.h>
#include <c10/util/SmallVector.h>

#include "shard/slice.h"

namespace torch_mesh {

std::optional<at::Tensor> join_shards(const Shards& shards, int64_t dim) {
  const at::Tensor& first = shards[0].local();
  if (dim < 0) {
    return shards.size() == 1 ? std::optional(first) : std::nullopt;
  }
  if (first.numel() == 0) {
    return std::nullopt;
  }
  const c10::TensorImpl* like = first.unsafeGetTensorImpl();
  int64_t length = 0;
  for (const Shard& shard : shards) {
    const c10::TensorImpl* impl = shard.local().unsafeGetTensorImpl();
    if (impl->numel() != 0 &&
        (!impl->storage().is_alias_of(like->storage()) ||
         impl->storage_offset() !=
             like->storage_offset() + length * like->strides()[dim] ||
         impl->strides() != like->strides() ||
         impl->key_set() != like->key_set())) {
      return std::nullopt;
    }
    length += impl->sizes()[dim];
  }
  c10::SmallVector<int64_t, 5> sizes(
      like->sizes().begin(), like->sizes().end());
  sizes[dim] = length;
  return window_at(first, sizes, like->storage_offset());
}

at::Tensor join_or_copy(const Shards& shards, int64_t dim) {
  if (std::optional<at::Tensor> joined = join_shards(shards, dim)) {
    return *std::move(joined);
  }
  std::vector<at::Tensor> locals;
  for (const Shard& shard : shards) {
    locals.push_back(shard.local());
  }
  return at::cat(locals, dim);
}

}  // namespace torch_mesh
