// null.h: of a mesh that nobody has but its first device.

#pragma once

#include "comm/communicator.h"

namespace torch_mesh {

// Moves nothing: what would come from other devices is zero, of the right
// sizes. So plans, counts and the memory of the first device, which has the
// largest chunks, are those of a real mesh, and values are not.
Communicator& null_communicator();

}  // namespace torch_mesh
