// plan_cache.h: plans found again by the key of a call.
//
// A key is a row of numbers that says everything a plan depends on (law 9): no
// pointers, no data. The cache is bounded: when it is full it is emptied, which
// costs the plans of one step, not memory.
//
// Guarantees: find() returns what insert() last stored for an equal key, or
// nothing. Threads: all members may be called from any thread; an entry stays
// valid as long as its shared_ptr lives, also when the cache is emptied.

#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

namespace torch_mesh {

using KeyWords = std::span<const uint64_t>;

inline uint64_t hash_of(KeyWords words) {
  uint64_t hash = 0x9e3779b97f4a7c15ull ^ words.size();
  for (uint64_t word : words) {
    hash = (hash ^ word) * 0xff51afd7ed558ccdull;
    hash ^= hash >> 32;
  }
  return hash;
}

template <typename Value>
class PlanCache {
 public:
  // max_entries   Most entries kept, >= 1.
  explicit PlanCache(size_t max_entries = 2048) : max_entries_(max_entries) {}

  std::shared_ptr<const Value> find(KeyWords key, uint64_t hash) const {
    std::lock_guard lock(mutex_);
    if (slots_.empty()) {
      return nullptr;
    }
    for (size_t i = hash & (slots_.size() - 1);;
         i = (i + 1) & (slots_.size() - 1)) {
      const Entry& entry = slots_[i];
      if (!entry.value) {
        return nullptr;
      }
      if (entry.hash == hash &&
          std::equal(
              key.begin(), key.end(), entry.key.begin(), entry.key.end())) {
        return entry.value;
      }
    }
  }

  void insert(KeyWords key, uint64_t hash, std::shared_ptr<const Value> value) {
    std::lock_guard lock(mutex_);
    if (size_ >= max_entries_) {
      slots_.clear();
      size_ = 0;
    }
    if (size_ * 2 >= slots_.size()) {
      grow();
    }
    put({hash, {key.begin(), key.end()}, std::move(value)});
  }

  size_t size() const {
    std::lock_guard lock(mutex_);
    return size_;
  }

  void clear() {
    std::lock_guard lock(mutex_);
    slots_.clear();
    size_ = 0;
  }

 private:
  struct Entry {
    uint64_t hash = 0;
    std::vector<uint64_t> key;
    std::shared_ptr<const Value> value;
  };

  void grow() {
    std::vector<Entry> old = std::move(slots_);
    slots_ = std::vector<Entry>(std::max<size_t>(8, old.size() * 2));
    size_ = 0;
    for (Entry& entry : old) {
      if (entry.value) {
        put(std::move(entry));
      }
    }
  }

  void put(Entry entry) {
    size_t i = entry.hash & (slots_.size() - 1);
    while (slots_[i].value &&
           !(slots_[i].hash == entry.hash && slots_[i].key == entry.key)) {
      i = (i + 1) & (slots_.size() - 1);
    }
    size_ += slots_[i].value == nullptr;
    slots_[i] = std::move(entry);
  }

  const size_t max_entries_;
  mutable std::mutex mutex_;  // guards slots_ and size_; a leaf of the order
  std::vector<Entry> slots_;  // open addressing; size a power of two
  size_t size_ = 0;
};

}  // namespace torch_mesh
