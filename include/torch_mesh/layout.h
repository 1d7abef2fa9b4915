// layout.h: a mesh, and one placement for each of its axes.

#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <torch_mesh/mesh.h>
#include <torch_mesh/placement.h>

namespace torch_mesh {

// A layout is a value: cheap to copy, compared by content (equal layouts are
// one object inside the process, with a small number as its id).
//
// If several axes shard one dim they are applied in the order of the mesh: the
// earlier axis is the major one, and later axes cut what it leaves.
class Layout {
 public:
  // Replicated on the mesh without axes.
  Layout();
  // Throws [layout-axes] if there is not one placement for each axis.
  Layout(const Mesh& mesh, std::span<const Placement> placements);
  static Layout replicated(const Mesh& mesh);
  // Parses "(S0, R)" or "{data: S0, model: R}" (axes left out are R).
  // Throws [layout-text], [placement-text], [layout-axes] or [unknown-axis].
  static Layout parse(const Mesh& mesh, std::string_view text);

  const Mesh& mesh() const;
  const std::vector<Placement>& placements() const;
  const Placement& operator[](int axis) const { return placements()[axis]; }
  // This layout with another placement on one axis.
  Layout with(int axis, Placement placement) const;
  // This layout with R in place of P+, on all axes or on these.
  Layout with_sums_reduced(AxisMask axes = ~AxisMask{0}) const;

  AxisMask sharded_axes() const;
  AxisMask partial_axes() const;
  bool is_replicated() const { return !(sharded_axes() | partial_axes()); }
  bool has_partial() const { return partial_axes() != 0; }
  // Whether any axis shards `dim`.
  bool shards_dim(int64_t dim) const;
  // Lanes of a tensor in this layout: those of its sharded axes. Partial axes
  // take none of their own: devices in one memory fold their parts of a sum
  // into one buffer, which stands at the first of them; the rest hold -0.0.
  const Lanes& lanes() const;
  // Small, dense, stable inside the process.
  uint32_t id() const;

  // "(S0, R)"; "()" without axes.
  std::string str() const;
  bool operator==(const Layout& other) const { return data_ == other.data_; }

 private:
  struct Data;
  friend struct std::hash<Layout>;
  explicit Layout(const Data* data) : data_(data) {}
  const Data* data_;
};

// Throws [layout-dim] if a placement shards a dim that the tensor does not
// have, [layout-block] if a block does not divide its dim, or an axis does not
// divide the block.
void check_layout(const Layout& layout, std::span<const int64_t> sizes);

// Sizes of the shard of a tensor of `sizes` on `device` (a number, row-major).
// Requires: a layout that check_layout lets pass, a device of its mesh.
std::vector<int64_t> shard_sizes(
    const Layout& layout,
    std::span<const int64_t> sizes,
    int device);

// First index and length of what `device` holds of `dim`. Only where no
// placement cuts the dim in blocks.
struct Range {
  int64_t begin;
  int64_t length;
  bool operator==(const Range&) const = default;
};
Range shard_range(
    const Layout& layout,
    std::span<const int64_t> sizes,
    int64_t dim,
    int device);

// The i-th of n chunks of a dim of `size`, as torch.chunk cuts.
Range chunk(int64_t size, int64_t n, int64_t i);

// Row-major strides, as torch gives them: a dim of size 0 counts as 1.
std::vector<int64_t> contiguous_strides(std::span<const int64_t> sizes);

// Strides of a dense tensor of `sizes` whose dims lie in memory in the order
// in which `strides` has them (of a tensor with as many dims), as torch makes
// them for empty_like: dense strides stay as they are, of two equal strides the
// smaller dim lies inside, and a stride of 0 says nothing.
std::vector<int64_t> strides_in_order_of(
    std::span<const int64_t> sizes,
    std::span<const int64_t> strides);

}  // namespace torch_mesh

template <>
struct std::hash<torch_mesh::Layout> {
  size_t operator()(const torch_mesh::Layout& layout) const noexcept {
    return layout.id();
  }
};
