// held.h: what one storage has told the byte counters.

#pragma once

#include <atomic>
#include <memory>

#include <torch_mesh/layout.h>

#include "shard/shard.h"

namespace torch_mesh {

// Number of CountingMemory objects that live.
extern std::atomic<int> num_memory_counters;

// Tells the counters of the shards of its storage, and at its end that they
// are gone. One load while nobody counts.
class HeldShards {
 public:
  HeldShards() = default;
  ~HeldShards() {
    if (told_) [[unlikely]] {
      take_back();
    }
  }
  HeldShards(const HeldShards&) = delete;
  HeldShards& operator=(const HeldShards&) = delete;

  // The storage's shards are these from now on, one for each lane of `layout`.
  void are(const Layout& layout, const Shards& shards) {
    if (told_ || num_memory_counters.load(std::memory_order_relaxed) != 0)
        [[unlikely]] {
      tell(layout, shards);
    }
  }

 private:
  struct Told;
  void tell(const Layout& layout, const Shards& shards);
  void take_back();

  Told* told_ = nullptr;
};

}  // namespace torch_mesh
