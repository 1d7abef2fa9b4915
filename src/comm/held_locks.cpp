// held_locks.cpp: the count, and who asks for it.

#include "comm/held_locks.h"

#include <torch_mesh/error.h>

namespace torch_mesh {

constinit thread_local int num_held_locks = 0;

void check_no_lock_is_held(const char* what) {
  TORCH_MESH_ASSERT(
      num_held_locks == 0,
      what,
      ": the thread holds ",
      num_held_locks,
      " locks of storages.");
}

}  // namespace torch_mesh
