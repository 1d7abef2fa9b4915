// grouped_mm.h: products of groups of rows with a matrix each.

#pragma once

#include "dispatch/rewrites.h"

namespace torch_mesh {

// The program of `_grouped_mm`, where groups end at places of the whole tensor
// (layers with experts); nullptr for other ops.
Rewrite rewrite_of_grouped_mm(const Op& op);

}  // namespace torch_mesh
