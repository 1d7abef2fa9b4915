// tensor_split.cpp: torch's own composition, with the places on the host.

#include "dispatch/tensor_split.h"

#include <ATen/ops/tensor_split_compositeimplicitautograd_dispatch.h>

namespace torch_mesh {

std::vector<at::Tensor> tensor_split(
    const at::Tensor& self,
    const at::Tensor& indices_or_sections,
    int64_t dim) {
  return at::compositeimplicitautograd::tensor_split(
      self, indices_or_sections.cpu(), dim);
}

}  // namespace torch_mesh
