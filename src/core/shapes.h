// shapes.h: how placements cut the length of one dim.

#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include <torch_mesh/layout.h>

namespace torch_mesh {

// Length of the i-th of n pieces of a dim of `length` that `placement` cuts.
int64_t cut_length(
    int64_t length,
    const Placement& placement,
    int64_t n,
    int64_t i);

// The distinct lengths of `dim` on the devices, in rising order, once the first
// axes of the mesh, those of `placements`, have cut it; none if a block does
// not fit.
//
// An axis shards one dim only. So for any length of one dim and any of another
// there is a device that has both, and the largest shard has the last of each.
std::vector<int64_t> shard_lengths(
    const Mesh& mesh,
    std::span<const Placement> placements,
    std::span<const int64_t> sizes,
    int64_t dim);

// The dim that a layout cuts, and that alone, in whole chunks. Its shards can
// be slices of one tensor. nullopt if several dims are cut, or inside blocks;
// -1 if none is.
std::optional<int64_t> cut_dim(const Layout& layout);

}  // namespace torch_mesh
