// bytes.cpp: what bytes mean.

#include "fuzz/bytes.h"

#include <algorithm>
#include <array>

#include <torch_mesh/error.h>

namespace torch_mesh::fuzz {
namespace {

bool is_valid(const Layout& layout, std::span<const int64_t> sizes) {
  try {
    check_layout(layout, sizes);
  } catch (const CoreError&) {
    return false;
  }
  return true;
}

}  // namespace

int64_t Bytes::below(int64_t end) {
  uint64_t number = 0;
  for (uint64_t most = static_cast<uint64_t>(end) - 1; most > 0; most >>= 8) {
    number = number << 8 | (data_.empty() ? 0 : data_.front());
    data_ = data_.subspan(data_.empty() ? 0 : 1);
  }
  return static_cast<int64_t>(number % static_cast<uint64_t>(end));
}

std::string Bytes::rest() { return text(static_cast<int64_t>(data_.size())); }

std::string Bytes::text(int64_t length) {
  const size_t taken = std::min(static_cast<size_t>(length), data_.size());
  const std::string result(data_.begin(), data_.begin() + taken);
  data_ = data_.subspan(taken);
  return result;
}

Mesh Bytes::mesh(int max_axes, int64_t max_devices) {
  std::vector<Mesh::Axis> axes;
  const int64_t num_axes = below(max_axes + 1);
  for (int64_t a = 0; a < num_axes; ++a) {
    const int64_t size =
        1 + below(std::min<int64_t>(std::max<int64_t>(max_devices, 1), 5));
    max_devices /= size;
    axes.push_back({std::string(1, static_cast<char>('a' + a)), size});
  }
  // A replica of the state of one device may stand for that of several.
  separate_cpu_memories(flip());
  const Mesh mesh(axes);
  separate_cpu_memories(false);
  return mesh;
}

int64_t Bytes::size() {
  static constexpr std::array<int64_t, 13> kSizes = {
      0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 16, 24};
  return pick(kSizes);
}

std::vector<int64_t> Bytes::sizes(int max_dims) {
  std::vector<int64_t> result(below(max_dims + 1));
  for (int64_t& size : result) {
    size = this->size();
  }
  return result;
}

Layout Bytes::layout(
    const Mesh& mesh,
    std::span<const int64_t> sizes,
    bool with_partial) {
  Layout layout = Layout::replicated(mesh);
  for (int a = 0; a < mesh.num_axes(); ++a) {
    const Layout next = layout.with(
        a,
        placement(
            mesh.axis(a).size,
            static_cast<int64_t>(sizes.size()),
            with_partial));
    if (is_valid(next, sizes)) {
      layout = next;
    }
  }
  return layout;
}

Placement Bytes::placement(int64_t n, int64_t num_dims, bool with_partial) {
  const int64_t kind = below(8);
  if (kind == 0 || num_dims == 0) {
    return with_partial && kind % 2 == 1 ? Placement::partial()
                                         : Placement::replicate();
  }
  if (kind == 1 && with_partial) {
    return Placement::partial();
  }
  const int64_t dim = below(num_dims);
  return Placement::shard(dim, kind < 4 ? n * (1 + below(4)) : 0);
}

}  // namespace torch_mesh::fuzz
