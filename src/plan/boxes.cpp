// boxes.cpp: intersections of boxes, device by device.

#include "plan/boxes.h"

#include <algorithm>

namespace torch_mesh {
namespace {

// The devices which between them hold all of the value and stand where `device`
// does on all other axes; `device` itself is one of them.
std::vector<int> holders(const Holding& holding, int device) {
  const Mesh& mesh = holding.mesh;
  std::vector<int> devices{device};
  for (int axis = 0; axis < mesh.num_axes(); ++axis) {
    if (holding.cut >> axis & 1) {
      std::vector<int> more;
      for (const int one : devices) {
        for (int64_t i = 0; i < mesh.axis(axis).size; ++i) {
          more.push_back(mesh.neighbour(one, axis, i));
        }
      }
      devices = std::move(more);
    }
  }
  return devices;
}

std::vector<BoxCopy> copies_for(
    const Holding& from,
    const Holding& to,
    int device) {
  const Box& wanted = to.boxes[device];
  if (is_empty(wanted)) {
    return {};
  }
  if (intersection(from.boxes[device], wanted) == wanted) {
    return {{device, device, wanted}};
  }
  std::vector<BoxCopy> copies;
  for (const int holder : holders(from, device)) {
    Box box = intersection(from.boxes[holder], wanted);
    if (!is_empty(box)) {
      copies.push_back({holder, device, std::move(box)});
    }
  }
  return copies;
}

int first_axis_between(const Mesh& mesh, int a, int b) {
  int axis = 0;
  while (mesh.coordinate(a, axis) == mesh.coordinate(b, axis)) {
    ++axis;
  }
  return axis;
}

}  // namespace

bool is_empty(const Box& box) {
  return std::ranges::any_of(
      box, [](const Range& range) { return range.length == 0; });
}

int64_t numel(const Box& box) {
  int64_t product = 1;
  for (const Range& range : box) {
    product *= range.length;
  }
  return product;
}

Box intersection(const Box& a, const Box& b) {
  Box both(a.size());
  for (size_t d = 0; d < a.size(); ++d) {
    const int64_t begin = std::max(a[d].begin, b[d].begin);
    const int64_t end =
        std::min(a[d].begin + a[d].length, b[d].begin + b[d].length);
    both[d] = {begin, std::max<int64_t>(end - begin, 0)};
  }
  return both;
}

Holding holding_of(const Layout& layout, std::span<const int64_t> sizes) {
  Holding holding{layout.mesh(), layout.sharded_axes(), {}};
  for (int device = 0; device < layout.mesh().size(); ++device) {
    Box box;
    for (size_t d = 0; d < sizes.size(); ++d) {
      box.push_back(
          shard_range(layout, sizes, static_cast<int64_t>(d), device));
    }
    if (sizes.empty()) {
      box.push_back({0, 1});
    }
    holding.boxes.push_back(std::move(box));
  }
  return holding;
}

Holding holding_of_window(
    const Layout& base,
    std::span<const int64_t> base_sizes,
    const Chain& taken,
    size_t num_dims) {
  Holding holding{base.mesh(), base.sharded_axes(), {}};
  for (int device = 0; device < base.mesh().size(); ++device) {
    Box box(std::max<size_t>(num_dims, 1), Range{0, 1});
    bool holds_any = true;
    for (size_t d = 0; d < taken.size(); ++d) {
      const Range mine = taken[d].within(
          shard_range(base, base_sizes, static_cast<int64_t>(d), device));
      holds_any &= mine.length != 0;
      if (taken[d].window_dim >= 0) {
        box[taken[d].window_dim] = mine;
      }
    }
    // A select of what lies elsewhere leaves nothing in any dim.
    for (Range& range : box) {
      range.length = holds_any ? range.length : 0;
    }
    holding.boxes.push_back(std::move(box));
  }
  return holding;
}

Layout layout_of_window(
    const Layout& base,
    const Chain& taken,
    std::span<const int64_t> sizes) {
  std::vector<Placement> placements = base.placements();
  for (Placement& placement : placements) {
    if (placement.is_shard()) {
      const int dim = taken[placement.dim].window_dim;
      placement = dim < 0 || sizes[dim] < 2 ? Placement::replicate()
                                            : Placement::shard(dim);
    }
  }
  return Layout(base.mesh(), placements);
}

BoxCopies plan_copies(
    const Holding& from,
    const Holding& to,
    int64_t itemsize) {
  const Mesh& mesh = from.mesh;
  BoxCopies plan;
  plan.received.resize(mesh.one_memory() ? 0 : mesh.size());
  const Lanes& lanes = mesh.lanes(to.cut);
  for (int device = 0; device < mesh.size(); ++device) {
    std::vector<BoxCopy> copies = copies_for(from, to, device);
    const bool is_first =
        lanes.first_device[lanes.lane_of_device[device]] == device;
    int64_t num_bytes = 0;
    for (BoxCopy& copy : copies) {
      const int64_t of_copy = numel(copy.box) * itemsize;
      if (copy.from != device) {
        num_bytes += of_copy;
        const int axis = first_axis_between(mesh, copy.from, device);
        plan.axis = plan.axis < 0 ? axis : std::min(plan.axis, axis);
      }
      if (is_first && mesh.memory(copy.from) != mesh.memory(device)) {
        plan.received[device] += of_copy;
      }
      if (is_first) {
        plan.copies.push_back(std::move(copy));
      }
    }
    plan.num_bytes = std::max(plan.num_bytes, num_bytes);
  }
  return plan;
}

std::string BoxCopies::str() const {
  std::string text;
  for (const BoxCopy& copy : copies) {
    text +=
        std::to_string(copy.to) + " <- " + std::to_string(copy.from) + ": [";
    for (size_t d = 0; d < copy.box.size(); ++d) {
      const Range& range = copy.box[d];
      text += (d ? ", " : "") + std::to_string(range.begin) + ":" +
              std::to_string(range.begin + range.length);
    }
    text += "]\n";
  }
  return text;
}

}  // namespace torch_mesh
