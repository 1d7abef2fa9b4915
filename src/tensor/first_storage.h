// first_storage.h: told when a process begins to use the mesh.

#pragma once

#include <atomic>

namespace torch_mesh {

// Called once, before the first storage of a global tensor is there.
extern std::atomic<void (*)()> on_first_storage;

}  // namespace torch_mesh
