// autocast.h: mixed precision above the mesh.

#pragma once

#include <string>
#include <vector>

namespace torch_mesh {

// Gives the mesh the autocast lists of the CPU, under the key of its own device
// type. Once, at registration.
void register_autocast();

// The ops of which it is known where they stand in those lists.
std::vector<std::string> autocast_names();

}  // namespace torch_mesh
