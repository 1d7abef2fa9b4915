// blocks.cpp: the functions of <torch_mesh/blocks.h>.
//
// A run of elements in row-major order is a few boxes: a part of a row, whole
// rows, a part of a row, and so on inwards. Each box meets the shard of a lane
// in a box again, which is one strided copy.

#include <torch_mesh/blocks.h>

#include <algorithm>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <torch_mesh/error.h>
#include <torch_mesh/tensor.h>

#include "plan/chain.h"
#include "shard/local_ops.h"
#include "shard/span.h"
#include "tensor/global_tensor.h"
#include "tensor/mapped_file.h"
#include "tensor/pending_sums.h"
#include "tensor/window.h"
#include "trace/counters.h"

namespace torch_mesh {
namespace {

// Indices begin[d] .. begin[d] + length[d] of each dim. In row-major order they
// are consecutive, and the first is number `offset` of the block.
struct Box {
  Sizes begin;
  Sizes length;
  int64_t offset = 0;
};

// Whether this process has all ranges of a value in the layout.
bool can_read_ranges(const Layout& layout) {
  return has_ranges(layout) && layout.mesh().is_all_mine();
}

int64_t product(c10::IntArrayRef sizes) {
  int64_t result = 1;
  for (int64_t size : sizes) {
    result *= size;
  }
  return result;
}

// Appends the boxes of elements [start, end) of dims `dim` and later; `box` has
// the indices of earlier dims.
void cut_in_boxes(
    c10::IntArrayRef sizes,
    size_t dim,
    int64_t start,
    int64_t end,
    Box& box,
    std::vector<Box>& boxes) {
  if (start == end) {
    return;
  }
  if (dim == sizes.size()) {
    boxes.push_back(box);
    return;
  }
  const int64_t row = product(sizes.slice(dim + 1));
  const auto inside = [&](int64_t index, int64_t from, int64_t to) {
    box.begin[dim] = index;
    box.length[dim] = 1;
    cut_in_boxes(sizes, dim + 1, from, to, box, boxes);
  };
  int64_t first = start / row;
  const int64_t last = end / row;
  if (first == last) {
    inside(first, start % row, end % row);
    return;
  }
  if (start % row != 0) {
    inside(first, start % row, row);
    ++first;
  }
  if (first < last) {
    box.begin[dim] = first;
    box.length[dim] = last - first;
    for (size_t d = dim + 1; d < sizes.size(); ++d) {
      box.begin[d] = 0;
      box.length[d] = sizes[d];
    }
    boxes.push_back(box);
  }
  if (end % row != 0) {
    inside(last, 0, end % row);
  }
}

std::vector<Box> boxes_of(c10::IntArrayRef sizes, int64_t start, int64_t end) {
  std::vector<Box> boxes;
  Box box{Sizes(sizes.size(), 0), Sizes(sizes.size(), 1)};
  cut_in_boxes(sizes, 0, start, end, box, boxes);
  int64_t offset = 0;
  for (Box& each : boxes) {
    each.offset = offset;
    offset += product(each.length);
  }
  return boxes;
}

// Calls move(part of the shard, part of the block) for all that both have.
//   every_copy  also for the replicas of a shard; else for one of them
template <typename Move>
void for_common_parts(
    c10::IntArrayRef sizes,
    const Layout& layout,
    const Shards& shards,
    const std::vector<Box>& boxes,
    const at::Tensor& block,
    bool every_copy,
    const Move& move) {
  const Mesh& mesh = layout.mesh();
  const Lanes& lanes = layout.lanes();
  const auto num_dims = static_cast<int64_t>(sizes.size());
  for (const int lane : lanes.mine) {
    const int device = lanes.first_device[lane];
    bool is_first = true;
    for (int axis = 0; axis < mesh.num_axes(); ++axis) {
      is_first &= layout[axis].is_shard() || mesh.coordinate(device, axis) == 0;
    }
    if (!is_first && !every_copy) {
      continue;
    }
    for (const Box& box : boxes) {
      at::Tensor held = shards[lane].local();
      at::Tensor given = block.narrow(0, box.offset, product(box.length))
                             .view(c10::IntArrayRef(box.length));
      for (int64_t d = 0; d < num_dims && held.defined(); ++d) {
        const Range range = shard_range(layout, as_span(sizes), d, device);
        const int64_t begin = std::max(range.begin, box.begin[d]);
        const int64_t end =
            std::min(range.begin + range.length, box.begin[d] + box.length[d]);
        if (begin >= end) {
          held = at::Tensor();
        } else {
          held = held.narrow(d, begin - range.begin, end - begin);
          given = given.narrow(d, begin - box.begin[d], end - begin);
        }
      }
      if (held.defined()) {
        move(held, given);
      }
    }
  }
}

void check_block(
    const char* name,
    const at::Tensor& tensor,
    int64_t start,
    int64_t count) {
  TORCH_CHECK_VALUE(
      is_global(tensor),
      name,
      ": the tensor is on ",
      tensor.device(),
      ", not on the mesh.\nHint: use distribute. [not-global]");
  TORCH_CHECK_VALUE(
      start >= 0 && count >= 0 && count <= tensor.numel() &&
          start <= tensor.numel() - count,
      name,
      ": elements ",
      start,
      " and ",
      count,
      " from there on, of a tensor that has ",
      tensor.numel(),
      ".\n  sizes  ",
      tensor.sizes(),
      "\nHint: count elements row-major, from 0. [block-range]");
}

}  // namespace

at::Tensor zeros(
    const Layout& layout,
    c10::IntArrayRef sizes,
    c10::ScalarType dtype) {
  register_device();
  return below_autograd("zeros", [&] {
    check_layout(layout, as_span(sizes));
    const Layout held = layout.with_sums_reduced();
    const Lanes& lanes = held.lanes();
    Shards shards(lanes.num);
    for (const int lane : lanes.mine) {
      const int device = lanes.first_device[lane];
      shards[lane] = at::zeros(
          shard_sizes(held, as_span(sizes), device),
          at::TensorOptions(dtype).device(
              torch_device(held.mesh().devices()[device])));
    }
    return make_global(
        held, sizes, contiguous_strides(as_span(sizes)), dtype, shards);
  });
}

at::Tensor read_block(const at::Tensor& tensor, int64_t start, int64_t count) {
  check_block("read_block", tensor, start, count);
  return below_autograd("read_block", [&] {
    reduce_pending(tensor, layout_of(tensor).partial_axes());
    const Layout layout = layout_of(tensor);
    if (meta_of(tensor).is_write_back || !can_read_ranges(layout)) {
      return host_value(tensor)
          .reshape({-1})
          .narrow(0, start, count)
          .to(at::kCPU, tensor.scalar_type(), false, /*copy=*/true);
    }
    const at::Tensor block = at::empty(
        {count}, at::TensorOptions(tensor.scalar_type()).device(at::kCPU));
    for_common_parts(
        tensor.sizes(),
        layout,
        read(tensor),
        boxes_of(tensor.sizes(), start, start + count),
        block,
        /*every_copy=*/false,
        [](const at::Tensor& held, const at::Tensor& given) {
          given.copy_(held);
        });
    return block;
  });
}

void write_block(
    const at::Tensor& tensor,
    int64_t start,
    const at::Tensor& values) {
  check_block("write_block", tensor, start, values.numel());
  const int64_t end = start + values.numel();
  below_autograd("write_block", [&] {
    const at::Tensor block = values.detach().contiguous().view({-1});
    reduce_pending(tensor, layout_of(tensor).partial_axes());
    const Layout layout = layout_of(tensor);
    if (meta_of(tensor).is_write_back || !has_ranges(layout)) {
      const at::Tensor value = full_value(tensor).contiguous().clone();
      value.view({-1}).narrow(0, start, end - start).copy_(block);
      write_value(tensor, value);
    } else {
      for_common_parts(
          tensor.sizes(),
          layout,
          begin_write(tensor),
          boxes_of(tensor.sizes(), start, end),
          block,
          /*every_copy=*/true,
          [](const at::Tensor& held, const at::Tensor& given) {
            held.copy_(given);
          });
      end_write(tensor);
    }
    if (!tensor.is_inference()) {
      tensor.unsafeGetTensorImpl()->bump_version();
    }
    return 0;
  });
}

bool copy_from_host(const at::Tensor& to, const at::Tensor& from) {
  constexpr size_t kLargeBytes = size_t{1} << 20;
  constexpr int64_t kBlockBytes = int64_t{16} << 20;
  if (!from.is_cpu() || from.layout() != at::kStrided ||
      from.nbytes() < kLargeBytes || !from.is_contiguous() || from.is_conj() ||
      from.is_neg() || from.sizes() != to.sizes() || is_unwritten(to) ||
      !to.is_non_overlapping_and_dense() || meta_of(to).is_write_back) {
    return false;
  }
  const Layout layout = layout_of(to);
  if (layout.has_partial() || !has_ranges(layout)) {
    return false;
  }
  const LocalOps local;
  const Shards shards = begin_write(to);
  const at::Tensor values = from.detach().view({-1});
  const bool is_mapped = is_of_a_file(values.const_data_ptr());
  const int64_t step = kBlockBytes / from.itemsize();
  for (int64_t start = 0; start < values.numel(); start += step) {
    const int64_t end = std::min(start + step, values.numel());
    const at::Tensor block = values.narrow(0, start, end - start);
    for_common_parts(
        to.sizes(),
        layout,
        shards,
        boxes_of(to.sizes(), start, end),
        block,
        /*every_copy=*/true,
        [](const at::Tensor& held, const at::Tensor& given) {
          held.copy_(given);
        });
    if (is_mapped) {
      give_back(block.const_data_ptr(), block.nbytes());
    }
  }
  end_write(to);
  return true;
}

bool read_bytes(const at::Tensor& to, const at::Tensor& source) {
  check_block("read_bytes", source, 0, to.numel());
  return below_autograd(
      "read_bytes", [&] { return copy_bytes_to_host(to, source); });
}

bool copy_bytes_to_host(const at::Tensor& to, const at::Tensor& from) {
  MeshStorage& storage = *MeshStorage::of(from);
  const auto itemsize = static_cast<int64_t>(c10::elementSize(storage.dtype()));
  const int64_t start = from.storage_offset() / itemsize;
  const int64_t end = (from.storage_offset() + from.numel()) / itemsize;
  const bool is_run_of_bytes = from.scalar_type() == c10::kByte &&
                               from.dim() == 1 && from.is_contiguous() &&
                               from.storage_offset() % itemsize == 0 &&
                               from.numel() % itemsize == 0;
  if (!is_run_of_bytes || !to.is_cpu() || to.scalar_type() != c10::kByte ||
      to.sizes() != from.sizes() || !to.is_contiguous() ||
      to.storage_offset() != 0 || storage.dtype() == c10::kByte ||
      start == end) {
    return false;
  }
  read_storage(storage);
  reduce_pending(from, ~AxisMask{0});
  const LocalOps local;
  std::lock_guard lock(storage.mutex);
  // The base is looked at once no other reader gives it another shape.
  if (storage.broken() || !can_read_ranges(storage.layout()) ||
      end > product(storage.base_sizes()) ||
      contiguous_strides(storage.base_sizes()) !=
          std::vector<int64_t>(
              storage.base_strides().begin(), storage.base_strides().end())) {
    return false;
  }
  for_common_parts(
      storage.base_sizes(),
      storage.layout(),
      storage.shards(),
      boxes_of(storage.base_sizes(), start, end),
      to.view(storage.dtype()),
      /*every_copy=*/false,
      [](const at::Tensor& held, const at::Tensor& given) {
        given.copy_(held);
      });
  return true;
}

}  // namespace torch_mesh
