// tensor.h: global tensors on torch::Device("mesh").
//
//   torch_mesh::register_device();
//   torch_mesh::Mesh mesh({{"data", 2}, {"model", 2}});
//   auto x = torch_mesh::distribute(
//       torch::randn({8, 16}), torch_mesh::Layout::parse(mesh, "(S0, R)"));
//
// A global tensor is an at::Tensor: every aten op works on it, below autograd.
// Threads: as with plain tensors.

#pragma once

#include <span>
#include <vector>

#include <ATen/core/TensorBody.h>

#include <torch_mesh/layout.h>

namespace torch_mesh {

// Makes `mesh` torch's name for this device and registers its kernels. Once per
// process; later calls return at once. Throws [device-owned] if another library
// owns torch's PrivateUse1 device.
void register_device();

// The device of all global tensors, index 0.
c10::Device mesh_device();

// The mesh of new tensors (torch::empty(..., "mesh"), x.to("mesh")): process
// wide. Without one, new tensors stand on the mesh without axes and take the
// mesh of the first tensor they meet in an op.
Mesh current_mesh();
void set_current_mesh(const Mesh& mesh);

bool is_global(const at::Tensor& tensor);

// The layout in which a global tensor stands. Throws [not-global] if `tensor`
// is undefined or plain.
Layout layout_of(const at::Tensor& tensor);

// The value of `tensor` (plain, anywhere, or global) as a new global tensor.
// Differentiable. Memory is never shared with `tensor`.
// Throws [layout-dim], [layout-block] if the layout does not fit the sizes.
at::Tensor distribute(const at::Tensor& tensor, const Layout& layout);

// The same value in another layout, in memory of its own. Differentiable: the
// gradient comes back in the layout of `tensor`, sums reduced.
at::Tensor redistribute(const at::Tensor& tensor, const Layout& layout);

// The whole value as a plain tensor on the first device, in memory of its own.
at::Tensor full(const at::Tensor& tensor);

// A global tensor whose shards are windows on the plain CPU tensor `tensor`,
// without a copy as long as nobody writes. The caller must not write to
// `tensor` while the result is in use. For batches handed over once.
at::Tensor borrow(const at::Tensor& tensor, const Layout& layout);

// shards[i]  what device i (row-major) holds; for partial sums in one memory
// the first device holds the sum and the others -0.0. Read-only: with lanes, a
// write to one device's replica would be a write to all. Undefined for devices
// of other processes.
std::vector<at::Tensor> shards(const at::Tensor& tensor);

// The global tensor of which device i holds shards[i]. Replicas must be equal
// (the first is taken); partial shards are summed. Copies.
// Throws [shard-sizes] if the sizes are not those of one tensor so cut.
at::Tensor from_shards(
    std::span<const at::Tensor> shards,
    const Layout& layout);

// Reduces pending partial sums of all these tensors in place: one all-reduce
// for each set of axes and bucket of 25 MiB. Plain tensors are passed over.
void reduce_partials(std::span<const at::Tensor> tensors);

}  // namespace torch_mesh
