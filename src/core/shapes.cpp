// shapes.cpp: sizes, ranges and strides of shards.

#include "core/shapes.h"

#include <algorithm>
#include <numeric>

#include <torch_mesh/error.h>

namespace torch_mesh {

Range chunk(int64_t size, int64_t n, int64_t i) {
  const int64_t most = (size + n - 1) / n;
  const int64_t begin = std::min(size, i * most);
  return {begin, std::min(size - begin, most)};
}

int64_t cut_length(
    int64_t length,
    const Placement& placement,
    int64_t n,
    int64_t i) {
  return placement.block == 0
             ? chunk(length, n, i).length
             : length / placement.block * (placement.block / n);
}

namespace {

bool block_fits(int64_t length, const Placement& placement, int64_t n) {
  return placement.block == 0 ||
         (placement.block > 0 && length % placement.block == 0 &&
          placement.block % n == 0);
}

std::string sizes_text(std::span<const int64_t> sizes) {
  std::string text;
  for (int64_t size : sizes) {
    text += (text.empty() ? "" : ", ") + std::to_string(size);
  }
  return "[" + text + "]";
}

// The facts below a message.
std::string facts(const Layout& layout, std::span<const int64_t> sizes) {
  return "\n  tensor  " + sizes_text(sizes) + " " + layout.str() +
         "\n  mesh    " + layout.mesh().str();
}

void check_dim(
    const Layout& layout,
    std::span<const int64_t> sizes,
    const Placement& placement) {
  TORCH_MESH_CHECK_VALUE(
      placement.dim >= 0 && placement.dim < static_cast<int64_t>(sizes.size()),
      "layout-dim",
      "Layout: ",
      placement.str(),
      " shards dim ",
      placement.dim,
      ", and the tensor has ",
      sizes.size(),
      sizes.size() == 1 ? " dim." : " dims.",
      facts(layout, sizes),
      "\nHint: dims count from 0; R leaves an axis without a dim to shard.");
}

void check_block(
    const Layout& layout,
    std::span<const int64_t> sizes,
    int axis) {
  const Placement& placement = layout[axis];
  const int64_t n = layout.mesh().axis(axis).size;
  const std::span<const Placement> earlier(layout.placements().data(), axis);
  for (int64_t length :
       shard_lengths(layout.mesh(), earlier, sizes, placement.dim)) {
    TORCH_MESH_CHECK_VALUE(
        block_fits(length, placement, n),
        "layout-block",
        "Layout: ",
        placement.str(),
        " does not cut a dim of ",
        length,
        " in whole blocks with ",
        n,
        " equal parts each.",
        facts(layout, sizes),
        "\nHint: choose a block that divides the dim as earlier axes leave it, "
        "and that the size of the axis divides.");
  }
}

}  // namespace

std::vector<int64_t> shard_lengths(
    const Mesh& mesh,
    std::span<const Placement> placements,
    std::span<const int64_t> sizes,
    int64_t dim) {
  std::vector<int64_t> lengths = {sizes[dim]};
  for (size_t a = 0; a < placements.size(); ++a) {
    const Placement& placement = placements[a];
    if (!placement.is_shard(dim)) {
      continue;
    }
    const int64_t n = mesh.axis(static_cast<int>(a)).size;
    std::vector<int64_t> pieces;
    for (int64_t length : lengths) {
      if (!block_fits(length, placement, n)) {
        return {};
      }
      for (int64_t i = 0; i < n; ++i) {
        pieces.push_back(cut_length(length, placement, n, i));
      }
    }
    std::ranges::sort(pieces);
    pieces.erase(std::unique(pieces.begin(), pieces.end()), pieces.end());
    lengths = std::move(pieces);
  }
  return lengths;
}

void check_layout(const Layout& layout, std::span<const int64_t> sizes) {
  for (const Placement& placement : layout.placements()) {
    if (placement.is_shard()) {
      check_dim(layout, sizes, placement);
    }
  }
  for (int a = 0; a < layout.mesh().num_axes(); ++a) {
    if (layout[a].is_shard() && layout[a].block != 0) {
      check_block(layout, sizes, a);
    }
  }
}

std::vector<int64_t> shard_sizes(
    const Layout& layout,
    std::span<const int64_t> sizes,
    int device) {
  std::vector<int64_t> result(sizes.begin(), sizes.end());
  const Mesh& mesh = layout.mesh();
  for (int a = 0; a < mesh.num_axes(); ++a) {
    const Placement& placement = layout[a];
    if (placement.is_shard()) {
      int64_t& size = result[placement.dim];
      size = cut_length(
          size, placement, mesh.axis(a).size, mesh.coordinate(device, a));
    }
  }
  return result;
}

Range shard_range(
    const Layout& layout,
    std::span<const int64_t> sizes,
    int64_t dim,
    int device) {
  const Mesh& mesh = layout.mesh();
  Range range = {0, sizes[dim]};
  for (int a = 0; a < mesh.num_axes(); ++a) {
    if (!layout[a].is_shard(dim)) {
      continue;
    }
    TORCH_MESH_ASSERT(
        layout[a].block == 0,
        "shard_range: ",
        layout.str(),
        " cuts dim ",
        dim,
        " in blocks, which are no range.");
    const Range inner =
        chunk(range.length, mesh.axis(a).size, mesh.coordinate(device, a));
    range = {range.begin + inner.begin, inner.length};
  }
  return range;
}

// --- strides -----------------------------------------------------------------

std::vector<int64_t> contiguous_strides(std::span<const int64_t> sizes) {
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  for (size_t d = sizes.size(); d-- > 0;) {
    strides[d] = stride;
    stride *= std::max<int64_t>(sizes[d], 1);
  }
  return strides;
}

namespace {

bool is_row_major(
    std::span<const int64_t> sizes,
    std::span<const int64_t> strides) {
  int64_t expected = 1;
  for (size_t d = sizes.size(); d-- > 0;) {
    if (sizes[d] != 1 && strides[d] != expected) {
      return false;
    }
    expected *= sizes[d];
  }
  return true;
}

// Whether elements of these strides fill their memory without holes. A dim of
// size 1 may have any stride, and so may all dims of no elements.
bool is_dense(
    std::span<const int64_t> sizes,
    std::span<const int64_t> strides) {
  if (is_row_major(sizes, strides)) {
    return true;
  }
  std::vector<std::pair<int64_t, int64_t>> dims;  // stride, size
  for (size_t d = 0; d < sizes.size(); ++d) {
    if (sizes[d] == 0) {
      return true;
    }
    if (sizes[d] > 1) {
      dims.emplace_back(strides[d], sizes[d]);
    }
  }
  std::ranges::sort(dims);
  int64_t expected = 1;
  return std::ranges::all_of(dims, [&expected](const auto& dim) {
    const bool follows = dim.first == expected;
    expected *= dim.second;
    return follows;
  });
}

}  // namespace

std::vector<int64_t> strides_in_order_of(
    std::span<const int64_t> sizes,
    std::span<const int64_t> strides) {
  TORCH_MESH_ASSERT(
      sizes.size() == strides.size(),
      "strides_in_order_of: ",
      sizes.size(),
      " sizes, and ",
      strides.size(),
      " strides.");
  if (is_dense(sizes, strides)) {
    return {strides.begin(), strides.end()};
  }
  // Whether dim a lies outside of dim b (1), inside (-1), or either would do
  // (0). As in torch, a stride of 0 says nothing, and of two equal strides that
  // of the larger dim is the outer one.
  auto compare = [&](size_t a, size_t b) {
    if (strides[a] == 0 || strides[b] == 0) {
      return 0;
    }
    if (strides[a] != strides[b]) {
      return strides[a] > strides[b] ? 1 : -1;
    }
    return sizes[a] > sizes[b] ? 1 : 0;
  };
  // An insertion sort, because `compare` is no order: the outcome for dims of
  // stride 0 is that of torch's, which sorts by insertion.
  std::vector<size_t> inner_first(sizes.size());
  std::iota(inner_first.rbegin(), inner_first.rend(), 0);
  for (size_t i = 1; i < inner_first.size(); ++i) {
    size_t place = i;
    for (size_t j = i; j-- > 0;) {
      const int order = compare(inner_first[j], inner_first[place]);
      if (order < 0) {
        break;
      }
      if (order > 0) {
        std::swap(inner_first[j], inner_first[place]);
        place = j;
      }
    }
  }
  std::vector<int64_t> result(sizes.size());
  int64_t stride = 1;
  for (size_t d : inner_first) {
    result[d] = stride;
    stride *= std::max<int64_t>(sizes[d], 1);
  }
  return result;
}

std::optional<int64_t> cut_dim(const Layout& layout) {
  int64_t dim = -1;
  for (const Placement& placement : layout.placements()) {
    if (!placement.is_shard()) {
      continue;
    }
    if (placement.block != 0 || (dim >= 0 && placement.dim != dim)) {
      return std::nullopt;
    }
    dim = placement.dim;
  }
  return dim;
}

}  // namespace torch_mesh
