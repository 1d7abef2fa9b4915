// own_draws.h: random numbers of tensors of which other processes hold parts:
// what this process does not hold it does not draw.

#pragma once

#include <ATen/core/Tensor.h>

#include <torch_mesh/layout.h>

#include "random/parts.h"
#include "shard/shard.h"

namespace torch_mesh {

// Whether fill_own can fill shards of a value of these sizes in this layout,
// and saves something: other processes hold a part, and what this one holds of
// a row is long enough to draw it by itself.
// Requires: drawing.numel is that of the value.
bool draws_own(
    const Drawing& drawing,
    const Layout& layout,
    c10::IntArrayRef sizes);

// Fills this process's shards with the numbers that a plain
// tensor would have there, and leaves the generator as that would.
// Requires: draws_own.
void fill_own(
    const Drawing& drawing,
    const Layout& layout,
    c10::IntArrayRef sizes,
    const Shards& shards);

// As a new tensor.
at::Tensor own_numbers(
    const Drawing& drawing,
    const Layout& layout,
    c10::IntArrayRef sizes);

}  // namespace torch_mesh
