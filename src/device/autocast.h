// autocast.h: mixed precision above the mesh.

#pragma once

namespace torch_mesh {

// Gives the mesh the autocast lists of the CPU, under the key of its own device
// type. Once, at registration.
void register_autocast();

}  // namespace torch_mesh
