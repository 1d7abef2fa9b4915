// random_ops.h: random numbers that do not depend on the layout (law 2).

#pragma once

#include <string>

#include "dispatch/op.h"

namespace torch_mesh {

// The kernel of a random op, or nullptr. Bits are drawn for the whole tensor in
// plain torch's memory order, once, from torch's default CPU generator (or the
// generator that was passed), and sliced: on CPU meshes they are bit for bit
// those of the plain program.
SpecialKernel random_kernel(const std::string& name);

// Whether the op of this name fills its first argument with random numbers.
bool draws_in_place(const std::string& name);

}  // namespace torch_mesh
