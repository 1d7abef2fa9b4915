// window_value.cpp: element by element where the geometry says which.

#include "tensor/window_value.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>

#include "comm/communicator.h"
#include "comm/run_steps.h"
#include "plan/boxes.h"
#include "shard/local_ops.h"
#include "shard/span.h"
#include "shard/strides.h"
#include "tensor/base_value.h"
#include "tensor/global_tensor.h"
#include "tensor/reduction.h"
#include "trace/counters.h"

namespace torch_mesh {
namespace {

// How the window lies on a base of which each device holds a range of every
// dim; nullopt if it lies in another way.
std::optional<Chain> chain_on(const at::Tensor& window, const BaseValue& base) {
  return has_ranges(base.layout) && window.scalar_type() == base.dtype
             ? chain_of(
                   as_span(base.sizes),
                   as_span(base.strides),
                   as_span(window.sizes()),
                   as_span(window.strides()),
                   window.storage_offset())
             : std::nullopt;
}

// A box of the window in the shard of the base on a device that holds it; of
// another process's device nothing.
Shard in_base(
    const Box& box,
    const at::Tensor& window,
    const BaseValue& base,
    const Chain& taken,
    int device) {
  const at::Tensor& shard =
      base.shards[base.layout.lanes().lane_of_device[device]].local();
  if (!shard.defined()) {
    return {};
  }
  std::vector<int64_t> sizes(window.dim(), 1);
  std::vector<int64_t> strides(window.dim(), 1);
  int64_t offset = shard.storage_offset();
  for (size_t d = 0; d < taken.size(); ++d) {
    const auto dim = static_cast<int64_t>(d);
    const int64_t begin =
        shard_range(base.layout, as_span(base.sizes), dim, device).begin;
    int64_t first = taken[d].start;
    if (const int w = taken[d].window_dim; w >= 0) {
      first += box[w].begin * taken[d].step;
      sizes[w] = box[w].length;
      strides[w] = taken[d].step * shard.stride(dim);
    }
    offset += (first - begin) * shard.stride(dim);
  }
  return shard.as_strided(sizes, strides, offset);
}

// The same in the shard of a tensor of the window's sizes.
Shard in_value(
    const Box& box,
    const Shards& value,
    const Holding& holding,
    int device) {
  const Lanes& lanes = holding.mesh.lanes(holding.cut);
  at::Tensor part = value[lanes.lane_of_device[device]].local();
  if (!part.defined()) {
    return {};
  }
  for (int64_t d = 0; d < part.dim(); ++d) {
    part = part.narrow(
        d, box[d].begin - holding.boxes[device][d].begin, box[d].length);
  }
  return part;
}

// Copies so that each device has what it holds in `to`. `source` and `target`
// give a box where a device has it.
template <typename Source, typename Target>
void run_copies(
    const Holding& from,
    const Holding& to,
    const at::Tensor& window,
    const Source& source,
    const Target& target) {
  const BoxCopies plan = plan_copies(from, to, window.itemsize());
  if (plan.axis >= 0) {
    count_collective(
        Step::Kind::kAllToAll,
        from.mesh,
        plan.axis,
        plan.num_bytes,
        plan.received);
  }
  std::vector<Communicator::Copy> copies;
  for (const BoxCopy& copy : plan.copies) {
    copies.push_back(
        {copy.from,
         copy.to,
         source(copy.box, copy.from),
         target(copy.box, copy.to)});
  }
  communicator_of(from.mesh).copy(from.mesh, plan.axis, copies);
}

Shards take_from_whole(
    const at::Tensor& window,
    const BaseValue& base,
    const Layout& layout) {
  const at::Tensor value =
      window_on(full_base(base), window, window.scalar_type());
  Shards shards = empty_window(window, layout);
  copy_shards(cut_whole(value, layout), shards);
  return shards;
}

// Whether a device's part of a sum is the value, or nothing.
bool has_value(const Layout& layout, int device) {
  const Mesh& mesh = layout.mesh();
  for (int axis = 0; axis < mesh.num_axes(); ++axis) {
    if (layout[axis].is_partial() && mesh.coordinate(device, axis) != 0) {
      return false;
    }
  }
  return true;
}

void write_boxes(
    const at::Tensor& window,
    const BaseValue& base,
    const Chain& taken,
    const Layout& layout,
    const Shards& value) {
  const Holding from = holding_of(layout, as_span(window.sizes()));
  Holding to = holding_of_window(
      base.layout,
      as_span(base.sizes),
      taken,
      static_cast<size_t>(window.dim()));
  const Mesh& mesh = layout.mesh();
  for (int device = 0; device < mesh.size(); ++device) {
    Box& box = to.boxes[device];
    if (has_value(base.layout, device) || is_empty(box)) {
      continue;
    }
    const Lanes& lanes = base.layout.lanes();
    const int lane = lanes.lane_of_device[device];
    if (lanes.first_device[lane] == device && lanes.is_mine(lane)) {
      in_base(box, window, base, taken, device).local().fill_(-0.0);
    }
    box[0].length = 0;
  }
  run_copies(
      from,
      to,
      window,
      [&](const Box& box, int device) {
        return in_value(box, value, from, device);
      },
      [&](const Box& box, int device) {
        return in_base(box, window, base, taken, device);
      });
}

// The same memory as bytes, those of an element along a last dim.
at::Tensor as_bytes(const at::Tensor& tensor) {
  const auto itemsize = static_cast<int64_t>(tensor.itemsize());
  std::vector<int64_t> sizes = tensor.sizes().vec();
  std::vector<int64_t> strides = tensor.strides().vec();
  for (int64_t& stride : strides) {
    stride *= itemsize;
  }
  sizes.push_back(itemsize);
  strides.push_back(1);
  return at::empty({0}, tensor.options().dtype(at::kByte))
      .set_(
          tensor.storage(), tensor.storage_offset() * itemsize, sizes, strides);
}

// By a mask: nothing of the base moves, and no element outside of the window is
// written. Of another dtype than the base's, byte by byte.
void write_masked(
    const at::Tensor& window,
    const BaseValue& base,
    const at::Tensor& value) {
  auto like_base = [&] {
    return at::empty_strided(
        base.sizes,
        base.strides,
        at::TensorOptions(base.dtype).device(value.device()));
  };
  const bool by_bytes = window.scalar_type() != base.dtype;
  auto units = [&](const at::Tensor& tensor) {
    return by_bytes ? as_bytes(tensor) : tensor;
  };
  at::Tensor full = like_base();
  copy_once(window_on(full, window, window.scalar_type()), value);
  at::Tensor mask = like_base();
  units(mask).zero_();
  units(window_on(mask, window, window.scalar_type())).fill_(1);
  full = units(full);
  mask = units(mask).to(at::kBool);
  const Shards parts = cut_whole(full, base.layout);
  const Shards masks = cut_whole(mask, base.layout.with_sums_reduced());
  for (const int lane : base.layout.lanes().mine) {
    const at::Tensor shard = units(base.shards[lane].local());
    const at::Tensor here = masks[lane].local().to(shard.device());
    shard.masked_scatter_(
        here, parts[lane].local().to(shard.device()).masked_select(here));
  }
}

}  // namespace

Shards empty_window(const at::Tensor& window, const Layout& layout) {
  const Lanes& lanes = layout.lanes();
  Shards shards(lanes.num);
  for (const int lane : lanes.mine) {
    const int device = lanes.first_device[lane];
    const std::vector<int64_t> sizes =
        shard_sizes(layout, as_span(window.sizes()), device);
    shards[lane] = at::empty_strided(
        sizes,
        strides_in_order_of(sizes, as_span(window.strides())),
        at::TensorOptions(window.scalar_type())
            .device(torch_device(layout.mesh().devices()[device])));
  }
  return shards;
}

Shards take_window(
    const at::Tensor& window,
    const BaseValue& base,
    const Layout& layout) {
  const std::optional<Chain> taken =
      !base.layout.has_partial() && has_ranges(layout) ? chain_on(window, base)
                                                       : std::nullopt;
  if (!taken) {
    return take_from_whole(window, base, layout);
  }
  const Holding from = holding_of_window(
      base.layout,
      as_span(base.sizes),
      *taken,
      static_cast<size_t>(window.dim()));
  const Holding to = holding_of(layout, as_span(window.sizes()));
  Shards shards = empty_window(window, layout);
  run_copies(
      from,
      to,
      window,
      [&](const Box& box, int device) {
        return in_base(box, window, base, *taken, device);
      },
      [&](const Box& box, int device) {
        return in_value(box, shards, to, device);
      });
  return shards;
}

void copy_window(const at::Tensor& from, const at::Tensor& to) {
  struct Side {
    Side(const at::Tensor& window)
        : window(window),
          storage(*MeshStorage::of(window)),
          base(BaseValue::of(storage)),
          taken(*chain_on(window, base)),
          holding(holding_of_window(
              base.layout,
              as_span(base.sizes),
              taken,
              static_cast<size_t>(window.dim()))) {}
    Shard box(const Box& box, int device) const {
      return in_base(box, window, base, taken, device);
    }
    const at::Tensor& window;
    MeshStorage& storage;
    const BaseValue base;
    const Chain taken;
    const Holding holding;
  };
  const Side source(from);
  const Side target(to);
  run_copies(
      source.holding,
      target.holding,
      from,
      [&](const Box& box, int device) { return source.box(box, device); },
      [&](const Box& box, int device) { return target.box(box, device); });
  const std::lock_guard lock(target.storage.mutex);
  target.storage.write();
}

BaseValue write_window(
    const at::Tensor& window,
    MeshStorage& storage,
    const Layout& layout,
    const Shards& value) {
  finish_reduction(storage);
  const BaseValue base = BaseValue::of(storage);
  const std::optional<Chain> taken =
      has_ranges(layout) ? chain_on(window, base) : std::nullopt;
  const Layout wanted =
      taken ? layout.with_sums_reduced() : Layout::replicated(layout.mesh());
  const Shards there = run_redistribution(
      *redistribution_of(layout, wanted, window.sizes(), window.scalar_type()),
      value);
  if (taken) {
    write_boxes(window, base, *taken, wanted, there);
  } else {
    write_masked(window, base, there.any().local());
  }
  const std::lock_guard lock(storage.mutex);
  storage.write();
  return BaseValue::of_locked(storage);
}

}  // namespace torch_mesh
