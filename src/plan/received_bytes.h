// received_bytes.h: what a step brings to each device, before it runs.

#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <torch_mesh/redistribute.h>

namespace torch_mesh {

// Elements that each lane holds of a tensor of `sizes`.
std::vector<int64_t> numel_of_lanes(
    const Layout& layout,
    std::span<const int64_t> sizes);

// Bytes that each device receives from other memories in one step; of the
// devices that share a lane the first receives.
//
//   before   the layout in which the step finds a tensor of `sizes`
//   result   [devices]; empty if all devices share one memory
std::vector<int64_t> received_bytes(
    const Step& step,
    const Layout& before,
    std::span<const int64_t> sizes,
    int64_t itemsize);

}  // namespace torch_mesh
