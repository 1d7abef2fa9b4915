// layout_properties.cpp: texts, shapes of shards, lanes and strides.

#include <algorithm>
#include <numeric>
#include <set>

#include <torch_mesh/error.h>

#include "core/shapes.h"
#include "fuzz/properties.h"

namespace torch_mesh::fuzz {
namespace {

using Sizes = std::vector<int64_t>;

int64_t product(std::span<const int64_t> sizes) {
  return std::accumulate(
      sizes.begin(), sizes.end(), int64_t{1}, std::multiplies<>());
}

// Runs `read`, which may throw one of `codes`.
template <typename Read>
void reads_or_says_why(
    const std::string& text,
    const std::set<std::string>& codes,
    const Read& read) {
  try {
    read();
  } catch (const CoreError& error) {
    require(
        error.kind == ErrorKind::kValue && codes.count(error.code) == 1,
        "\"",
        text,
        "\" throws ",
        error.what());
  }
}

void check_texts(Bytes& bytes) {
  static const std::vector<std::string> kPieces = {
      "S0",        "S1/4",
      "R",         "P+",
      "P",         "(",
      ")",         "{",
      "}",         ",",
      ":",         " ",
      "a",         "b",
      "S",         "/",
      "0",         "-1",
      "+",         "",
      "cpu",       "gpu",
      "cuda:",     "tpu:3",
      "data",      "999999999999999999999999",
      "2147483648"};
  std::string text;
  if (bytes.flip()) {
    text = bytes.text(24);
  } else {
    for (int64_t i = bytes.below(12); i > 0; --i) {
      text += bytes.pick(kPieces);
    }
  }
  const Mesh mesh({{"a", 2}, {"b", 3}});
  reads_or_says_why(text, {"placement-text"}, [&] {
    const Placement placement = Placement::parse(text);
    require(Placement::parse(placement.str()) == placement, text);
  });
  reads_or_says_why(
      text,
      {"layout-text", "placement-text", "layout-axes", "unknown-axis"},
      [&] {
        const Layout layout = Layout::parse(mesh, text);
        require(Layout::parse(mesh, layout.str()) == layout, text);
      });
  reads_or_says_why(text, {"device-name"}, [&] {
    const Device device = Device::parse(text);
    require(Device::parse(device.str()) == device, text);
  });
  reads_or_says_why(text, {"unknown-axis"}, [&] {
    require(mesh.axis(mesh.axis_index(text)).name == text, text);
  });
  reads_or_says_why(text, {"mesh-axes"}, [&] {
    const Mesh named({{text, 1 + bytes.below(3)}, {"z", 2}});
    require(named.axis_index(text) == 0, text);
    // A name can be told apart in the text of a layout.
    const Layout layout = Layout::parse(named, "{" + text + ": S0, z: S1/2}");
    require(layout.str() == "(S0, S1/2)", text);
  });
}

void check_shards(const Layout& layout, const Sizes& sizes) {
  const Mesh& mesh = layout.mesh();
  const std::string facts = layout.str() + " on " + mesh.str();
  int64_t together = 0;
  for (int device = 0; device < mesh.size(); ++device) {
    const Sizes shard = shard_sizes(layout, sizes, device);
    require(shard.size() == sizes.size(), facts);
    bool counts = true;
    bool has_blocks = false;
    for (int axis = 0; axis < mesh.num_axes(); ++axis) {
      counts &= layout[axis].is_shard() || mesh.coordinate(device, axis) == 0;
      has_blocks |= layout[axis].block != 0;
    }
    together += counts ? product(shard) : 0;
    for (size_t d = 0; d < sizes.size(); ++d) {
      const auto dim = static_cast<int64_t>(d);
      require(shard[d] >= 0 && shard[d] <= sizes[d], facts);
      require(layout.shards_dim(dim) || shard[d] == sizes[d], facts);
      const Sizes lengths =
          shard_lengths(mesh, layout.placements(), sizes, dim);
      require(std::ranges::binary_search(lengths, shard[d]), facts);
      if (!has_blocks) {
        const Range range = shard_range(layout, sizes, dim, device);
        require(
            range.length == shard[d] && range.begin >= 0 &&
                range.begin + range.length <= sizes[d],
            facts);
      }
    }
  }
  require(
      together == product(sizes), "the shards of ", facts, " do not add up");
}

void check_lanes(const Layout& layout) {
  const Mesh& mesh = layout.mesh();
  const Lanes& lanes = layout.lanes();
  const std::string facts = layout.str() + " on " + mesh.str();
  require(&lanes == &mesh.lanes(layout.sharded_axes()), facts);
  require(lanes.num == static_cast<int>(lanes.first_device.size()), facts);
  require(static_cast<int>(lanes.lane_of_device.size()) == mesh.size(), facts);
  for (int a = 0; a < mesh.size(); ++a) {
    const int lane = lanes.lane_of_device[a];
    require(lane >= 0 && lane < lanes.num, facts);
    require(lanes.first_device[lane] <= a, facts);
    for (int b = 0; b < mesh.size(); ++b) {
      bool one_value = mesh.memory(a) == mesh.memory(b);
      for (int axis = 0; axis < mesh.num_axes(); ++axis) {
        one_value &= !layout[axis].is_shard() ||
                     mesh.coordinate(a, axis) == mesh.coordinate(b, axis);
      }
      require(one_value == (lane == lanes.lane_of_device[b]), facts);
    }
  }
}

// Dense, and in the order that was asked for.
void check_strides(const Sizes& sizes, const Sizes& wish) {
  const Sizes strides = strides_in_order_of(sizes, wish);
  std::vector<std::pair<int64_t, int64_t>> dims;  // stride, size
  for (size_t d = 0; d < sizes.size(); ++d) {
    if (sizes[d] > 1) {
      dims.emplace_back(strides[d], sizes[d]);
    }
  }
  if (product(sizes) == 0) {
    return;
  }
  std::ranges::sort(dims);
  int64_t expected = 1;
  for (const auto& [stride, size] : dims) {
    require(stride == expected, "strides_in_order_of leaves a hole");
    expected *= size;
  }
  require(
      strides_in_order_of(sizes, strides) == strides,
      "strides_in_order_of changes what is in order");
}

}  // namespace

void check_layout_algebra(Bytes& bytes) {
  if (bytes.below(3) == 0) {
    check_texts(bytes);
    return;
  }
  const Mesh mesh = bytes.mesh(/*max_axes=*/5, /*max_devices=*/48);
  const Sizes sizes = bytes.sizes(/*max_dims=*/4);
  const Layout layout = bytes.layout(mesh, sizes);
  require(Layout::parse(mesh, layout.str()) == layout, layout.str());
  require(Layout(mesh, layout.placements()).id() == layout.id(), layout.str());
  require((layout.sharded_axes() & layout.partial_axes()) == 0, layout.str());
  check_shards(layout, sizes);
  check_lanes(layout);
  Sizes wish;
  for (size_t d = 0; d < sizes.size(); ++d) {
    wish.push_back(bytes.below(30));
  }
  check_strides(sizes, wish);
  check_strides(sizes, contiguous_strides(sizes));
}

}  // namespace torch_mesh::fuzz
