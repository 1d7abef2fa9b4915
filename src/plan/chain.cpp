// chain.cpp: the largest stride first, as a number's digits are found.

#include "plan/chain.h"

#include <algorithm>
#include <numeric>

namespace torch_mesh {

bool has_ranges(const Layout& layout) {
  return std::ranges::none_of(
      layout.placements(), [](const Placement& placement) {
        return placement.is_shard() && placement.block != 0;
      });
}

Range Taken::within(const Range& part) const {
  // The first number at or behind a place of the dim.
  auto first_from = [&](int64_t place) {
    const int64_t ahead = std::max<int64_t>(place - start, 0);
    return std::min((ahead + step - 1) / step, length);
  };
  const int64_t begin = first_from(part.begin);
  return {begin, first_from(part.begin + part.length) - begin};
}

std::optional<Chain> chain_of(
    std::span<const int64_t> base_sizes,
    std::span<const int64_t> base_strides,
    std::span<const int64_t> sizes,
    std::span<const int64_t> strides,
    int64_t offset) {
  Chain taken(base_sizes.size());
  std::vector<size_t> order(base_sizes.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return base_strides[a] > base_strides[b];
  });
  for (size_t d : order) {
    if (base_sizes[d] > 1) {
      taken[d].start = offset / base_strides[d];
      offset -= taken[d].start * base_strides[d];
      if (taken[d].start >= base_sizes[d]) {
        return std::nullopt;
      }
    }
  }
  if (offset != 0) {
    return std::nullopt;
  }
  for (size_t w = 0; w < sizes.size(); ++w) {
    if (sizes[w] == 1) {
      continue;
    }
    const auto found = std::find_if(order.begin(), order.end(), [&](size_t d) {
      return base_sizes[d] > 1 && taken[d].window_dim < 0 && strides[w] != 0 &&
             strides[w] % base_strides[d] == 0 &&
             taken[d].start + (sizes[w] - 1) * (strides[w] / base_strides[d]) <
                 base_sizes[d];
    });
    if (found == order.end()) {
      return std::nullopt;
    }
    taken[*found].step = strides[w] / base_strides[*found];
    taken[*found].length = sizes[w];
    taken[*found].window_dim = static_cast<int>(w);
  }
  return taken;
}

}  // namespace torch_mesh
