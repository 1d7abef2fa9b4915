// list_executor.h: carries out the instructions of an op on lists.

#pragma once

#include "run/list_call.h"

namespace torch_mesh {

// Runs the op on all elements: what moves does so together, and elements that
// are cut along the same axes are one local op a lane. Results replace the
// arguments.
//
// Throws what the local op throws; elements that are done by then are written,
// and those on which some lanes have written are marked broken.
void run_list(ListCall call);

}  // namespace torch_mesh
