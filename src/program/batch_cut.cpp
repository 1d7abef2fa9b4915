// batch_cut.cpp: lanes in the order of the batch, joined and cut again.

#include "program/batch_cut.h"

#include <algorithm>
#include <map>
#include <utility>

#include <ATen/ops/cat.h>
#include <ATen/ops/empty_strided.h>

#include <torch_mesh/redistribute.h>

#include "run/packing.h"
#include "shard/joined.h"
#include "shard/local_ops.h"
#include "shard/slice.h"
#include "shard/span.h"
#include "tensor/global_tensor.h"
#include "tensor/pending_sums.h"

namespace torch_mesh {
namespace {

using at::Tensor;
using Tensors = LocalProgram::Tensors;

std::vector<Part> parts_of(const Mesh& mesh, AxisMask axes, int64_t batch) {
  Layout rows = Layout::replicated(mesh);
  for (int axis = 0; axis < mesh.num_axes(); ++axis) {
    if ((axes >> axis) & 1) {
      rows = rows.with(axis, Placement::shard(0));
    }
  }
  const Lanes& lanes = mesh.lanes(axes);
  const int64_t sizes[] = {batch};
  std::map<int, std::vector<std::pair<Range, int>>> of_memory;
  for (const int lane : lanes.mine) {
    const int device = lanes.first_device[lane];
    of_memory[mesh.memory(device)].emplace_back(
        shard_range(rows, sizes, 0, device), lane);
  }
  std::vector<Part> parts;
  for (auto& [memory, held] : of_memory) {
    std::sort(held.begin(), held.end(), [](const auto& a, const auto& b) {
      return std::pair(a.first.begin, a.second) <
             std::pair(b.first.begin, b.second);
    });
    Part part;
    part.first_device = lanes.first_device[held[0].second];
    part.place = torch_device(mesh.devices()[part.first_device]);
    for (const auto& [range, lane] : held) {
      part.lanes.push_back(lane);
      part.ranges.push_back(range);
    }
    parts.push_back(std::move(part));
  }
  return parts;
}

// What a part holds of a tensor: along the batch, or whole.
Tensor local_of(
    const Cut& cut,
    const Part& part,
    const Shards& shards,
    int64_t batch_dim) {
  if (batch_dim < 0) {
    const Lanes& lanes = cut.mesh.lanes(0);
    return shards[lanes.lane_of_device[part.first_device]].local();
  }
  Shards held;
  for (int lane : part.lanes) {
    held.push_back(shards[lane]);
  }
  return join_or_copy(held, batch_dim);
}

// The strides of a dense tensor whose dims lie in this order.
std::vector<int64_t> strides_of(
    c10::IntArrayRef sizes,
    const std::vector<int64_t>& order) {
  std::vector<int64_t> strides(sizes.size());
  int64_t step = 1;
  for (size_t k = order.size(); k-- > 0;) {
    strides[order[k]] = step;
    step *= std::max<int64_t>(sizes[order[k]], 1);
  }
  return strides;
}

// A local tensor in memory of its own, dense and in this order of dims.
Tensor own(const Tensor& local, const std::vector<int64_t>& strides) {
  return at::empty_strided(
             local.sizes(),
             strides_in_order_of(as_span(local.sizes()), strides),
             local.options())
      .copy_(local);
}

// Whether each process finds the same order of dims in its own parts: of a
// batch of which some have one row, or none, these do not show where rows lie.
bool shows_order(const Cut& cut, int64_t batch_dim) {
  if (batch_dim < 0 || cut.mesh.is_all_mine()) {
    return true;
  }
  const Layout rows = cut.layout(0);
  const int64_t sizes[] = {cut.batch};
  return std::ranges::all_of(
      cut.mesh.lanes(cut.axes).first_device, [&](int device) {
        return shard_range(rows, sizes, 0, device).length > 1;
      });
}

// Whether nothing else can see a tensor's memory, which is dense and its alone.
bool is_free(const Tensor& local, const std::vector<int64_t>& strides) {
  return local.use_count() == 1 && local.storage().use_count() == 1 &&
         local.is_non_overlapping_and_dense() && local.storage_offset() == 0 &&
         local.strides() == c10::IntArrayRef(strides_in_order_of(
                                as_span(local.sizes()), strides)) &&
         static_cast<size_t>(local.numel()) * local.itemsize() ==
             local.storage().nbytes() &&
         local.is_inference() == c10::InferenceMode::is_enabled();
}

}  // namespace

std::optional<Cut> cut_of(const LocalProgram& program, const Tensors& inputs) {
  Cut cut{layout_of(inputs[0]).mesh(), 0, -1, {}};
  int64_t rows_copied = 0;   // elements of inputs with a batch that are cut
  int64_t whole_copied = 0;  // elsewhere, and of those without
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Layout layout = layout_of(inputs[i]);
    const int64_t batch_dim = program.batch_dims[i];
    if (layout.mesh() != cut.mesh) {
      return std::nullopt;
    }
    bool is_copied = false;
    for (int axis = 0; axis < cut.mesh.num_axes(); ++axis) {
      const Placement& placement = layout[axis];
      if (!placement.is_shard() || batch_dim == LocalProgram::kGathered) {
        continue;
      }
      if (placement.block == 0 && placement.dim == batch_dim) {
        cut.axes |= 1u << axis;
      } else {
        is_copied = true;
      }
    }
    if (is_copied) {
      (batch_dim < 0 ? whole_copied : rows_copied) += inputs[i].numel();
    }
    if (batch_dim >= 0) {
      if (batch_dim >= inputs[i].dim() ||
          (cut.batch >= 0 && inputs[i].size(batch_dim) != cut.batch)) {
        return std::nullopt;
      }
      cut.batch = inputs[i].size(batch_dim);
    }
  }
  if (rows_copied + whole_copied * cut.mesh.lanes(cut.axes).num >
      program.kept) {
    return std::nullopt;
  }
  for (const Device& device : cut.mesh.devices()) {
    if (device.kind == DeviceKind::kTpu) {
      return std::nullopt;
    }
  }
  cut.parts = parts_of(cut.mesh, cut.axes, std::max<int64_t>(cut.batch, 0));
  return cut;
}

std::vector<Tensors> locals_of(
    const Cut& cut,
    const Tensors& tensors,
    const std::vector<int64_t>& batch_dims) {
  std::vector<Tensors> locals(cut.parts.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (!tensors[i].defined()) {
      for (Tensors& local : locals) {
        local.emplace_back();
      }
      continue;
    }
    const Layout layout = cut.layout(batch_dims[i]);
    const Shards* settled = settled_shards(tensors[i]);
    Shards moved;
    if (!settled || layout_of(tensors[i]) != layout) {
      moved = shards_in(tensors[i], layout);
      settled = &moved;
    }
    const Shards& shards = *settled;
    for (size_t p = 0; p < cut.parts.size(); ++p) {
      locals[p].push_back(local_of(cut, cut.parts[p], shards, batch_dims[i]));
    }
  }
  return locals;
}

Tensor pack_parts(
    const Cut& cut,
    Tensors locals,
    int64_t batch_dim,
    const Layout& layout,
    const std::vector<int64_t>& order) {
  std::vector<int64_t> sizes = locals[0].sizes().vec();
  if (batch_dim >= 0) {
    sizes[batch_dim] = cut.batch;
  }
  const std::vector<int64_t> strides =
      !order.empty() ? strides_of(sizes, order)
      : locals[0].is_contiguous() || !shows_order(cut, batch_dim)
          ? contiguous_strides(sizes)
          : strides_in_order_of(sizes, as_span(locals[0].strides()));
  const c10::ScalarType dtype = locals[0].scalar_type();
  Shards shards(layout.lanes().num);
  for (size_t p = 0; p < cut.parts.size(); ++p) {
    const Part& part = cut.parts[p];
    const Tensor whole =
        is_free(locals[p], strides) ? locals[p] : own(locals[p], strides);
    if (batch_dim < 0 || part.lanes.size() == 1) {
      shards[layout.lanes().lane_of_device[part.first_device]] = whole;
      continue;
    }
    // Side by side, so that who needs them joined copies nothing.
    int64_t begin = 0;
    for (size_t l = 0; l < part.lanes.size(); ++l) {
      const int64_t length = part.ranges[l].length;
      shards[part.lanes[l]] = slice_of(whole, batch_dim, begin, length);
      begin += length;
    }
  }
  return make_global(layout, sizes, strides, dtype, std::move(shards));
}

}  // namespace torch_mesh
