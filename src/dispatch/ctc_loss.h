// ctc_loss.h: the loss of sequences without an alignment, for a sharded batch.

#pragma once

#include "dispatch/rewrites.h"

namespace torch_mesh {

// The program of `_ctc_loss` and its gradient: lengths become tensors, targets
// rows of equal length, so that every device can be given those of its part of
// the batch. nullptr for other ops.
Rewrite rewrite_of_ctc_loss(const Op& op);

}  // namespace torch_mesh
