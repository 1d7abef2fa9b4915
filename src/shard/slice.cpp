// slice.cpp: by sizes, strides and offsets alone.

#include "shard/slice.h"

#include <c10/core/TensorImpl.h>
#include <c10/util/SmallVector.h>

namespace torch_mesh {

at::Tensor window_at(
    const at::Tensor& tensor,
    c10::IntArrayRef sizes,
    int64_t offset) {
  const c10::TensorImpl* impl = tensor.unsafeGetTensorImpl();
  at::Tensor result = at::detail::make_tensor<c10::TensorImpl>(
      c10::TensorImpl::VIEW,
      c10::Storage(impl->storage()),
      impl->key_set(),
      impl->dtype());
  result.unsafeGetTensorImpl()->set_sizes_and_strides(
      sizes, impl->strides(), offset);
  return result;
}

at::Tensor slice_of(
    const at::Tensor& whole,
    int64_t dim,
    int64_t begin,
    int64_t length) {
  c10::SmallVector<int64_t, 5> sizes(
      whole.sizes().begin(), whole.sizes().end());
  sizes[dim] = length;
  return window_at(
      whole, sizes, whole.storage_offset() + begin * whole.stride(dim));
}

}  // namespace torch_mesh
