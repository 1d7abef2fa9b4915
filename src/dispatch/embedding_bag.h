// embedding_bag.h: sums, means and maxima of bags of rows of a table.

#pragma once

#include "dispatch/rewrites.h"

namespace torch_mesh {

// The program of `_embedding_bag` and its gradient, by columns of the table;
// nullptr for other ops.
Rewrite rewrite_of_embedding_bag(const Op& op);

}  // namespace torch_mesh
