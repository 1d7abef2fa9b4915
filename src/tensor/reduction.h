// reduction.h: sums of storages that are in the making.
//
// Who reduces a pending sum claims its storage under the lock, and forms the
// sum without it. Until it is there the storage is as it was: its parts may be
// read, and nobody writes them or reduces them again.

#pragma once

#include <latch>
#include <mutex>

#include "comm/held_locks.h"
#include "job/background.h"
#include "tensor/storage.h"

namespace torch_mesh {

// What one thread forms at once, for all storages that it has claimed for it.
struct Reduction {
  std::latch done{1};
};

// Waits, without a lock, until it is done. Throws what Ctrl-C makes of it.
void wait_for(Reduction& reduction);

// Waits for a sum of the storage that was begun in the background. To be called
// before its state decides anything: whether the sum is there by now differs
// from process to process, and what is done with it may not.
void wait_for_begun(MeshStorage& storage);
inline void finish_begun(MeshStorage& storage) {
  if (background_is_busy()) [[unlikely]] {
    wait_for_begun(storage);
  }
}

// Waits, without a lock, until no sum of the storage is in the making. To be
// called before a write in place: one that comes between would be lost.
void finish_reduction(MeshStorage& storage);

// The same, and the lock is held before another reduction can begin.
std::unique_lock<CountedMutex> lock_for_write(MeshStorage& storage);

}  // namespace torch_mesh
