// plain_arguments.cpp: as distribute does.

#include "program/plain_arguments.h"

#include <torch_mesh/tensor.h>

namespace torch_mesh {

std::optional<Mesh> mesh_among(c10::ArrayRef<at::Tensor> tensors) {
  for (const at::Tensor& tensor : tensors) {
    if (tensor.defined() && is_global(tensor) &&
        layout_of(tensor).mesh().num_axes() > 0) {
      return layout_of(tensor).mesh();
    }
  }
  return std::nullopt;
}

at::Tensor brought_over(const at::Tensor& tensor, const Mesh& mesh) {
  const bool is_plain =
      tensor.defined() && tensor.is_cpu() && tensor.layout() == c10::kStrided;
  return is_plain ? distribute(tensor, Layout::replicated(mesh)) : tensor;
}

}  // namespace torch_mesh
