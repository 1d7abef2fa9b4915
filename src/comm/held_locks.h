// held_locks.h: locks under which nobody may communicate.
//
// A collective waits for others, and they may wait for a lock: so none is held
// while the communicator works. Each thread counts those that it holds.

#pragma once

#include <mutex>

namespace torch_mesh {

// Of this thread.
extern constinit thread_local int num_held_locks;

// A mutex that is counted while it is held.
class CountedMutex {
 public:
  void lock() {
    mutex_.lock();
    ++num_held_locks;
  }
  bool try_lock() {
    const bool is_locked = mutex_.try_lock();
    num_held_locks += is_locked ? 1 : 0;
    return is_locked;
  }
  void unlock() {
    --num_held_locks;
    mutex_.unlock();
  }

 private:
  std::mutex mutex_;
};

// Throws, as a bug of ours, if this thread holds one. `what` is about to wait
// for others.
void check_no_lock_is_held(const char* what);

}  // namespace torch_mesh
