// own_draws.cpp: the rows of which the shards of this process are made.

#include "random/own_draws.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <ATen/ops/empty.h>
#include <c10/util/strides.h>

#include "plan/boxes.h"
#include "shard/slice.h"
#include "shard/span.h"
#include "tensor/global_tensor.h"

namespace torch_mesh {
namespace {

// The first dim from which on a box has all of the value: what it has of dim
// before that lies in one run.
size_t first_whole_dim(const Box& box, c10::IntArrayRef sizes) {
  size_t dim = box.size();
  while (dim > 0 && box[dim - 1].length == sizes[dim - 1]) {
    --dim;
  }
  return dim;
}

int64_t length_of_run(const Box& box, c10::IntArrayRef sizes, size_t whole) {
  int64_t length = whole == 0 ? 1 : box[whole - 1].length;
  for (size_t d = whole; d < box.size(); ++d) {
    length *= sizes[d];
  }
  return length;
}

// The runs of a box of the value: numbers of its elements in row-major order,
// and where they stand in the shard.
void append_parts(
    const Box& box,
    c10::IntArrayRef sizes,
    const at::Tensor& shard,
    std::vector<Part>& parts) {
  const size_t whole = first_whole_dim(box, sizes);
  const int64_t length = length_of_run(box, sizes, whole);
  const at::Tensor flat = shard.view({-1});
  const c10::DimVector strides = c10::contiguous_strides(sizes);
  int64_t begin = 0;
  for (size_t d = 0; d < box.size(); ++d) {
    begin += box[d].begin * strides[d];
  }
  // Dims before that of the run are counted through.
  const size_t num_outer = whole == 0 ? 0 : whole - 1;
  std::vector<int64_t> index(num_outer, 0);
  for (int64_t at = 0; at < flat.numel(); at += length) {
    parts.push_back({begin, slice_of(flat, 0, at, length)});
    for (size_t d = num_outer; d-- > 0;) {
      begin += strides[d];
      if (++index[d] < box[d].length) {
        break;
      }
      begin -= index[d] * strides[d];
      index[d] = 0;
    }
  }
}

std::vector<Box> boxes_of(const Layout& layout, c10::IntArrayRef sizes) {
  return holding_of(layout, as_span(sizes)).boxes;
}

}  // namespace

bool draws_own(
    const Drawing& drawing,
    const Layout& layout,
    c10::IntArrayRef sizes) {
  // A call of torch's kernel costs as much as a few hundred numbers.
  const int64_t least = drawing.kind == Drawing::Kind::kBernoulli ? 128 : 1024;
  const bool is_on_cpu = std::ranges::all_of(
      layout.mesh().devices(),
      [](const Device& device) { return device.kind == DeviceKind::kCpu; });
  if (!is_on_cpu || layout.mesh().is_all_mine() || layout.sharded_axes() == 0 ||
      layout.has_partial() || !has_ranges(layout) || !can_draw_parts(drawing)) {
    return false;
  }
  return std::ranges::all_of(boxes_of(layout, sizes), [&](const Box& box) {
    return is_empty(box) ||
           length_of_run(box, sizes, first_whole_dim(box, sizes)) >= least;
  });
}

void fill_own(
    const Drawing& drawing,
    const Layout& layout,
    c10::IntArrayRef sizes,
    const Shards& shards) {
  const std::vector<Box> boxes = boxes_of(layout, sizes);
  const Lanes& lanes = layout.lanes();
  std::vector<Part> parts;
  std::vector<std::pair<int, int>> copies;  // lane, of lane
  std::vector<int> drawn;
  // A shard that lies otherwise is drawn beside it.
  std::vector<std::pair<at::Tensor, at::Tensor>> beside;
  for (const int lane : lanes.mine) {
    const Box& box = boxes[lanes.first_device[lane]];
    const auto same = std::ranges::find_if(drawn, [&](int other) {
      return boxes[lanes.first_device[other]] == box;
    });
    if (same != drawn.end()) {
      copies.emplace_back(lane, *same);
      continue;
    }
    drawn.push_back(lane);
    if (is_empty(box)) {
      continue;
    }
    at::Tensor numbers = shards[lane].local();
    if (!numbers.is_contiguous()) {
      numbers = at::empty(numbers.sizes(), numbers.options());
      beside.emplace_back(shards[lane].local(), numbers);
    }
    append_parts(box, sizes, numbers, parts);
  }
  draw_parts(drawing, std::move(parts));
  for (const auto& [shard, numbers] : beside) {
    shard.copy_(numbers);
  }
  for (const auto& [lane, of] : copies) {
    shards[lane].local().copy_(shards[of].local());
  }
}

at::Tensor own_numbers(
    const Drawing& drawing,
    const Layout& layout,
    c10::IntArrayRef sizes) {
  Shards shards(layout.lanes().num);
  for (const int lane : layout.lanes().mine) {
    shards[lane] = at::empty(
        shard_sizes(layout, as_span(sizes), layout.lanes().first_device[lane]),
        drawing.dtype);
  }
  fill_own(drawing, layout, sizes, shards);
  return make_global(
      layout,
      sizes,
      c10::contiguous_strides(sizes),
      drawing.dtype,
      std::move(shards));
}

}  // namespace torch_mesh
