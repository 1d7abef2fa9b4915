// reduction.cpp: waiting for those who reduce.

#include "tensor/reduction.h"

#include <memory>

#include "job/background.h"

namespace torch_mesh {

void wait_for(Reduction& reduction) {
  finish_background();  // which looks for Ctrl-C; others do not take long
  reduction.done.wait();
}

void wait_for_begun(MeshStorage& storage) {
  if (is_in_background() || num_held_locks != 0) {
    return;
  }
  {
    const std::lock_guard lock(storage.mutex);
    if (!storage.reduction()) {
      return;
    }
  }
  finish_background();
}

std::unique_lock<CountedMutex> lock_for_write(MeshStorage& storage) {
  std::unique_lock lock(storage.mutex);
  while (const std::shared_ptr<Reduction> reduction = storage.reduction()) {
    lock.unlock();
    check_no_lock_is_held("a write");
    wait_for(*reduction);
    lock.lock();
  }
  return lock;
}

void finish_reduction(MeshStorage& storage) { lock_for_write(storage); }

}  // namespace torch_mesh
