// chain.h: a window as slices, selects and permutes of its base. No torch.

#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include <torch_mesh/layout.h>

namespace torch_mesh {

// Whether what a device holds of each dim is a range of it.
bool has_ranges(const Layout& layout);

// What a window takes of one dim of the base.
struct Taken {
  int64_t start = 0;
  int64_t step = 1;
  int64_t length = 1;
  int window_dim = -1;  // -1: a select

  // The numbers, among 0 .. length, of those that lie in a part of the dim;
  // none: a length of 0.
  Range within(const Range& part) const;
};
using Chain = std::vector<Taken>;  // [dims of the base]

// Finds for each dim of a dense base what the window takes of it; nullopt if
// the window is no such chain.
//   offset   of the window, in elements
std::optional<Chain> chain_of(
    std::span<const int64_t> base_sizes,
    std::span<const int64_t> base_strides,
    std::span<const int64_t> sizes,
    std::span<const int64_t> strides,
    int64_t offset);

}  // namespace torch_mesh
