// plain_arguments.h: plain tensors that count as replicated (law 13), for
// kernels above the mesh's own.

#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

#include <torch_mesh/mesh.h>

namespace torch_mesh {

// The mesh of the first global tensor among these, if there is one.
std::optional<Mesh> mesh_among(c10::ArrayRef<at::Tensor> tensors);

// `tensor` on `mesh`, replicated and with its gradient, if it is a plain one of
// the CPU; else itself.
at::Tensor brought_over(const at::Tensor& tensor, const Mesh& mesh);

}  // namespace torch_mesh
