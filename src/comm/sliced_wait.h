// sliced_wait.h: waits for what gloo does, in slices of time.
//
// Of c10d.cpp alone: it includes headers of torch.distributed.

#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

#include <torch/csrc/distributed/c10d/Work.hpp>

#include "job/waiting.h"

namespace torch_mesh {

using WorkPtr = c10::intrusive_ptr<c10d::Work>;

// Waits for works of gloo in slices. A time limit given to such a wait closes
// all connections of the group when it is over; but another thread can end the
// wait, and the work goes on and can be waited for again. This is that thread.
//
// Other backends need another wait here. That of NCCL only orders streams: with
// it one asks isCompleted() now and then, or a stream's event.
class SlicedWait {
 public:
  ~SlicedWait() {
    {
      const std::lock_guard lock(mutex_);
      is_over_ = true;
    }
    changed_.notify_all();
    if (thread_.joinable()) {
      thread_.join();
    }
  }

  // False if a slice of time is over before the work is done. Throws what gloo
  // throws. One thread at a time.
  bool wait(const WorkPtr& work) {
    {
      const std::lock_guard lock(mutex_);
      current_ = work.get();
      ++number_;
      if (!thread_.joinable()) {
        thread_ = std::thread([this] { end_waits(); });
      } else if (is_asleep_) {
        changed_.notify_all();
      }
    }
    struct Ended {
      SlicedWait& self;
      ~Ended() {
        const std::lock_guard lock(self.mutex_);
        self.current_ = nullptr;
      }
    } ended{*this};
    // Without an own limit that of the group would hold.
    return work->wait(std::chrono::hours(24 * 365));
  }

 private:
  void end_waits() {
    // Then nobody waits, and the thread waits to be called.
    constexpr int kIdleSlices = 20;
    std::unique_lock lock(mutex_);
    uint64_t seen = 0;
    int idle = 0;
    while (!is_over_) {
      if (idle == kIdleSlices) {
        is_asleep_ = true;
        changed_.wait(lock, [&] { return is_over_ || current_; });
        is_asleep_ = false;
        idle = 0;
      }
      changed_.wait_for(lock, Wait::kSlice, [&] { return is_over_; });
      idle = current_ ? 0 : idle + 1;
      if (current_ && number_ == seen) {
        current_->abort();
      }
      seen = number_;
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  c10d::Work* current_ = nullptr;
  uint64_t number_ = 0;  // of waits
  bool is_asleep_ = false;
  bool is_over_ = false;
  std::thread thread_;
};

}  // namespace torch_mesh
