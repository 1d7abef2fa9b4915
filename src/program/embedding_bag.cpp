// embedding_bag.cpp: sums, means and maxima of bags of rows of a table: each
// device does all bags, for the columns that it holds.
//
// Where a bag begins only values say, so neither bags nor places are cut. What
// the kernel saves beside its result has other sizes on other devices, and with
// other strides of the table: no rule says them.

#include <ATen/core/grad_mode.h>

#include <torch_mesh/error.h>
#include <torch_mesh/tensor.h>

#include "program/programs.h"
#include "run/local_kernel.h"
#include "run/run_lanes.h"
#include "shard/span.h"
#include "shard/strides.h"
#include "tensor/global_tensor.h"
#include "tensor/pending_sums.h"

namespace torch_mesh::programs {
namespace {

using at::Tensor;

// A table, a gradient, or the rows that the maxima are of; the rest are lists.
bool has_columns(const Tensor& t) { return t.dim() == 2; }

Mesh mesh_of(c10::ArrayRef<c10::IValue> args) {
  for (const c10::IValue& value : args) {
    if (value.isTensor() && is_global(value.toTensor())) {
      return layout_of(value.toTensor()).mesh();
    }
  }
  TORCH_MESH_ASSERT(false, "a call without a global tensor");
}

// As the first argument's columns are cut, if every device gets some.
Layout layout_of_columns(const Tensor& first, const Mesh& mesh) {
  Layout layout = Layout::replicated(mesh);
  if (!is_global(first) || !has_columns(first) ||
      layout_of(first).mesh() != mesh) {
    return layout;
  }
  for (int axis = 0; axis < mesh.num_axes(); ++axis) {
    if (layout_of(first)[axis] == Placement::shard(1)) {
      layout = layout.with(axis, Placement::shard(1));
    }
  }
  const std::vector<int64_t> sizes = first.sizes().vec();
  for (int device = 0; device < mesh.size(); ++device) {
    if (shard_range(layout, sizes, 1, device).length == 0) {
      return Layout::replicated(mesh);
    }
  }
  return layout;
}

}  // namespace

bool embedding_bag(const CallArgs& call) {
  const at::NoGradGuard no_grad;
  const Op& op = call.op;
  const c10::ArrayRef<c10::IValue> args = call.all();
  const Tensor first = args[0].toTensor();
  const Mesh mesh = mesh_of(args);
  const Layout whole = Layout::replicated(mesh);
  const Layout columns = layout_of_columns(first, mesh);
  const Lanes& lanes = mesh.lanes(columns.sharded_axes());
  std::vector<Stack> locals(lanes.num, Stack(args.begin(), args.end()));
  for (size_t i = 0; i < args.size(); ++i) {
    if (!args[i].isTensor() || !args[i].toTensor().defined()) {
      continue;
    }
    const Tensor tensor = args[i].toTensor();
    const Layout& layout = has_columns(tensor) ? columns : whole;
    const Shards shards = is_global(tensor) ? shards_in(tensor, layout)
                                            : read(distribute(tensor, layout));
    for (const int lane : lanes.mine) {
      const int device = lanes.first_device[lane];
      locals[lane][i] = shards[layout.lanes().lane_of_device[device]].local();
    }
  }
  run_lanes(
      static_cast<int>(lanes.mine.size()), /*in_parallel=*/true, [&](int i) {
        run_local(op, locals[lanes.mine[i]]);
      });
  call.give();
  for (size_t r = 0; r < locals[lanes.mine[0]].size(); ++r) {
    const Tensor result = locals[lanes.mine[0]][r].toTensor();
    const Layout& layout = has_columns(result) ? columns : whole;
    const Lanes& held = layout.lanes();
    std::vector<int64_t> sizes = result.sizes().vec();
    if (has_columns(result)) {
      sizes[1] = first.size(1);
    }
    // As the kernel makes it: one column does not show that rows lie first.
    const std::vector<int64_t> strides = contiguous_strides(sizes);
    Shards shards(held.num);
    for (const int lane : held.mine) {
      const int device = held.first_device[lane];
      shards[lane] =
          in_order(locals[lanes.lane_of_device[device]][r].toTensor(), strides);
    }
    call.stack.emplace_back(make_global(
        layout, sizes, strides, result.scalar_type(), std::move(shards)));
  }
  return true;
}

}  // namespace torch_mesh::programs
