// picks.h: rows by number, where each device holds some of the rows.

#pragma once

#include "dispatch/rewrites.h"

namespace torch_mesh {

// The program of `embedding`, `index_select`, `gather` and `index`, for a
// picked dim that is sharded: every device picks the rows that it holds and
// gives zeros for the others; the results are parts of a sum. nullptr for other
// ops.
Rewrite rewrite_of_pick(const Op& op);

}  // namespace torch_mesh
