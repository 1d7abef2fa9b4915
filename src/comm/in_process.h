// in_process.h: of the devices of one process.

#pragma once

#include "comm/communicator.h"

namespace torch_mesh {

// Reads what a device lacks from the memories of the others, piece by piece.
Communicator& in_process_communicator();

}  // namespace torch_mesh
