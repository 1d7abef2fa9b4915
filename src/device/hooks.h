// hooks.h: what torch asks of a device besides kernels.

#pragma once

namespace torch_mesh {

// Registers the device guard (one device, index 0), the allocator and storage
// factory, and the hooks (generators, pinned memory). Once per process.
void register_hooks();

}  // namespace torch_mesh
