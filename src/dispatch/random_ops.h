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

// aten::dropout, as torch composes it on CPU: the input times noise of its
// dtype that is drawn for the whole of it (law 2). On other devices torch takes
// a fused kernel, whose mask of bools has to be converted at each use.
at::Tensor dropout(const at::Tensor& input, double p, bool train);

// Whether the op of this name fills its first argument with random numbers.
bool draws_in_place(const std::string& name);

}  // namespace torch_mesh
