// batch_cut.h: where a batch is cut, and what each memory holds of it.

#pragma once

#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

#include <torch_mesh/layout.h>

#include "program/local_program.h"
#include "shard/shard.h"

namespace torch_mesh {

// The lanes of the batch that stand in one memory, in the order of the batch.
struct Part {
  c10::Device place = c10::kCPU;
  int first_device = 0;
  std::vector<int> lanes;
  std::vector<Range> ranges;  // of the batch, one for each lane
};

// Where the batch is cut, and who holds what of it.
struct Cut {
  Mesh mesh;
  AxisMask axes;
  int64_t batch;  // its size
  std::vector<Part> parts;

  Layout layout(int64_t batch_dim) const {
    return with_axes(
        batch_dim < 0 ? Placement::replicate() : Placement::shard(batch_dim));
  }
  c10::DeviceType kind() const { return parts[0].place.type(); }
  // Of the gradient of what all share.
  Layout sums() const { return with_axes(Placement::partial()); }

 private:
  Layout with_axes(Placement placement) const {
    std::vector<Placement> placements;
    for (int axis = 0; axis < mesh.num_axes(); ++axis) {
      placements.push_back(
          (axes >> axis) & 1 ? placement : Placement::replicate());
    }
    return Layout(mesh, placements);
  }
};

// How the inputs of a program lie together; nullopt if more than the batch is
// cut, and too much for copies. Requires: global tensors, at least one.
std::optional<Cut> cut_of(
    const LocalProgram& program,
    const std::vector<at::Tensor>& inputs);

// [parts][tensors]  What each part holds of global tensors, along the batch or
// whole; undefined where the tensor is.
std::vector<std::vector<at::Tensor>> locals_of(
    const Cut& cut,
    const std::vector<at::Tensor>& tensors,
    const std::vector<int64_t>& batch_dims);

// The global tensor of which each part has one local tensor, in memory that
// nobody else sees. `order`: how the dims lie in memory, the outermost first;
// empty: as they do in the local tensors, where those of all processes show it.
at::Tensor pack_parts(
    const Cut& cut,
    std::vector<at::Tensor> locals,
    int64_t batch_dim,
    const Layout& layout,
    const std::vector<int64_t>& order);

}  // namespace torch_mesh
