// by_exchange.h: collectives as pieces that devices read of each other.

#pragma once

#include "comm/communicator.h"

namespace torch_mesh {

// Of the devices of this process, and of others with which it is in a job.
Communicator& communicator_by_exchange();

}  // namespace torch_mesh
