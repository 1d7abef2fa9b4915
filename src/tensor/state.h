// state.h: what the memory of a storage is, and how that may change.
//
//               leave_blank         get_memory        begin_reduction
//   unwritten --------------> blank ----------> held ----------------> reducing
//       |                                        ^ ^                      |
//       +----------------------------------------+ +----------------------+
//                       get_memory                      end_reduction
//
// A change that the drawing lacks throws std::logic_error and changes nothing.
// No torch.
//
// Threads: changes are made under the lock of the storage, but for `write`; any
// thread may read.

#pragma once

#include <atomic>
#include <cstdint>
#include <string>

namespace torch_mesh {

class StorageState {
 public:
  enum class Memory : uint8_t {
    kUnwritten,  // none yet (law 6)
    kBlank,      // none yet, and it reads as zeros
    kHeld,       // shards
    kReducing,   // shards, of which a sum is in the making
  };

  Memory memory() const { return memory_.load(std::memory_order_acquire); }
  bool is_unwritten() const { return memory() <= Memory::kBlank; }
  bool is_blank() const { return memory() == Memory::kBlank; }
  // Whether anyone asked for the layout: `empty_like` does, `empty` does not.
  bool is_placed() const { return is_placed_; }
  // Whether the shards lie in memory that another owner may write.
  bool is_borrowed() const { return is_borrowed_; }
  // Whether an error left the value half written.
  bool is_broken() const { return is_broken_; }

  // Counts replacements of the shards: local views of older ones are stale.
  uint32_t memory_generation() const {
    return memory_generation_.load(std::memory_order_acquire);
  }
  // Counts changes of the layout other than reduced sums: windows taken before
  // cannot be taken again in the same way.
  uint32_t layout_generation() const { return layout_generation_; }
  // Counts writes: copies of older values are stale.
  uint32_t value_generation() const {
    return value_generation_.load(std::memory_order_acquire);
  }

  void leave_blank();
  void get_memory();
  void begin_reduction();
  void end_reduction();

  // Of unwritten memory: whether its layout is somebody's wish.
  void place(bool is_wish);
  // Of held memory, until it is replaced: a sum in one memory lies where its
  // parts did.
  void borrow();
  // The shards are others, of the same value, in memory of its own.
  void replace_memory();
  // Sums are formed: replaces the shards, also of one that is reducing.
  void form_sums();
  // Also of unwritten memory, whose wish it is then.
  void change_layout();
  void write() { ++value_generation_; }
  // An error left the value half written; all look at the storage again.
  void break_value();
  void heal();

  // "held, borrowed; generations: memory 1, layout 0, value 3"
  std::string str() const;

 private:
  void require(bool is_legal, const char* change) const;

  std::atomic<Memory> memory_{Memory::kUnwritten};
  std::atomic<bool> is_placed_{true};
  std::atomic<bool> is_borrowed_{false};
  std::atomic<bool> is_broken_{false};
  std::atomic<uint32_t> layout_generation_{0};
  std::atomic<uint32_t> memory_generation_{0};
  std::atomic<uint32_t> value_generation_{0};
};

}  // namespace torch_mesh
