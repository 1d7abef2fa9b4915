// state.cpp: the changes of a storage's memory, each with what it asks for.

#include "tensor/state.h"

#include <stdexcept>

namespace torch_mesh {

void StorageState::require(bool is_legal, const char* change) const {
  if (!is_legal) [[unlikely]] {
    throw std::logic_error(
        std::string("storage: ") + change + " while it is " + str());
  }
}

void StorageState::leave_blank() {
  require(is_unwritten(), "leave_blank");
  memory_ = Memory::kBlank;
}

void StorageState::get_memory() {
  require(is_unwritten(), "get_memory");
  memory_ = Memory::kHeld;
}

void StorageState::begin_reduction() {
  require(memory() == Memory::kHeld, "begin_reduction");
  memory_ = Memory::kReducing;
}

void StorageState::end_reduction() {
  require(memory() == Memory::kReducing, "end_reduction");
  memory_ = Memory::kHeld;
}

void StorageState::place(bool is_wish) {
  require(is_unwritten(), "place");
  is_placed_ = is_wish;
}

void StorageState::borrow() {
  require(memory() == Memory::kHeld, "borrow");
  is_borrowed_ = true;
}

void StorageState::replace_memory() {
  require(memory() == Memory::kHeld, "replace_memory");
  is_borrowed_ = false;
  ++memory_generation_;
}

void StorageState::form_sums() {
  require(!is_unwritten(), "form_sums");
  ++memory_generation_;
}

void StorageState::change_layout() {
  require(memory() != Memory::kReducing, "change_layout");
  is_placed_ = true;
  is_borrowed_ = false;
  ++layout_generation_;
  ++memory_generation_;
}

void StorageState::break_value() {
  is_broken_ = true;
  ++memory_generation_;
}

void StorageState::heal() {
  require(is_broken_, "heal");
  is_broken_ = false;
}

std::string StorageState::str() const {
  constexpr const char* kNames[] = {"unwritten", "blank", "held", "reducing"};
  std::string text = kNames[static_cast<int>(memory())];
  text += is_placed_ ? "" : ", not placed";
  text += is_borrowed_ ? ", borrowed" : "";
  text += is_broken_ ? ", broken" : "";
  return text + "; generations: memory " + std::to_string(memory_generation()) +
         ", layout " + std::to_string(layout_generation()) + ", value " +
         std::to_string(value_generation());
}

}  // namespace torch_mesh
