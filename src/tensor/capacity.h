// capacity.h: memory that cannot be had, noticed before anybody writes to it.

#pragma once

#include <cstddef>

#include <c10/util/ArrayRef.h>

#include <torch_mesh/layout.h>

namespace torch_mesh {

// Throws [out-of-memory] if a memory of the mesh could not hold its shards of a
// tensor in this layout. Allocates nothing, and asks nobody where no shard is
// large. Only host memory is asked.
//   num_bytes    of the whole, as plain torch would allocate it
//   is_placed    false: the first write chooses the layout, so each memory may
//                get an equal part
void check_capacity(
    const Layout& layout,
    c10::IntArrayRef sizes,
    size_t num_bytes,
    bool is_placed);

}  // namespace torch_mesh
