// literal_index.cpp: builds and walks the automaton.

#include "layout_map/literal_index.h"

#include <algorithm>
#include <map>

namespace torch_mesh {
namespace {

// The rarest two say nearly all: with "stage_3" and "query" known to be there,
// that "kernel" is too removes few, and costs a step for each of its patterns.
constexpr size_t kMaxLiterals = 2;

}  // namespace

LiteralIndex::LiteralIndex(
    const std::vector<std::vector<std::string>>& literals) {
  std::map<std::string_view, int> num_users;
  for (const auto& of_pattern : literals) {
    for (const std::string& literal : of_pattern) {
      ++num_users[literal];
      for (const char c : literal) {
        uint8_t& column = columns_[static_cast<unsigned char>(c)];
        if (column == 0) {
          column = static_cast<uint8_t>(num_columns_++);
        }
      }
    }
  }
  add_state();
  for (size_t pattern = 0; pattern < literals.size(); ++pattern) {
    std::vector<std::string> chosen = literals[pattern];
    std::ranges::sort(chosen);
    chosen.erase(std::unique(chosen.begin(), chosen.end()), chosen.end());
    std::ranges::stable_sort(
        chosen, {}, [&](const std::string& text) { return num_users[text]; });
    chosen.resize(std::min(chosen.size(), kMaxLiterals));
    num_literals_.push_back(static_cast<uint8_t>(chosen.size()));
    for (const std::string& literal : chosen) {
      users_[static_cast<size_t>(add_literal(literal))].push_back(
          static_cast<int>(pattern));
    }
    if (chosen.empty()) {
      without_literals_.push_back(static_cast<int>(pattern));
    }
  }
  link_suffixes();
}

void LiteralIndex::add_state() {
  states_.emplace_back();
  steps_.resize(steps_.size() + static_cast<size_t>(num_columns_), 0);
}

int LiteralIndex::add_literal(const std::string& literal) {
  int state = 0;
  for (const char c : literal) {
    int next = step(state, c);
    if (next == 0) {
      next = static_cast<int>(states_.size());
      const int column = columns_[static_cast<unsigned char>(c)];
      steps_[static_cast<size_t>(state * num_columns_ + column)] = next;
      add_state();
    }
    state = next;
  }
  int& index = states_[static_cast<size_t>(state)].literal;
  if (index < 0) {
    index = static_cast<int>(users_.size());
    users_.emplace_back();
  }
  return index;
}

// Breadth first: the suffix of a state is complete before the state itself.
void LiteralIndex::link_suffixes() {
  std::vector<int> queue{0};
  for (size_t i = 0; i < queue.size(); ++i) {
    const int state = queue[i];
    const int suffix = states_[static_cast<size_t>(state)].suffix;
    const State& end = states_[static_cast<size_t>(suffix)];
    states_[static_cast<size_t>(state)].next_end =
        end.literal >= 0 ? suffix : end.next_end;
    for (int column = 1; column < num_columns_; ++column) {
      int& next = steps_[static_cast<size_t>(state * num_columns_ + column)];
      const int by_suffix =
          steps_[static_cast<size_t>(suffix * num_columns_ + column)];
      if (next == 0) {
        next = state == 0 ? 0 : by_suffix;
      } else {
        states_[static_cast<size_t>(next)].suffix = state == 0 ? 0 : by_suffix;
        queue.push_back(next);
      }
    }
  }
}

void LiteralIndex::candidates(std::string_view text, std::vector<int>& found)
    const {
  found = without_literals_;
  // A flag for each literal and a count for each pattern; most maps are small.
  const size_t num_bytes = users_.size() + num_literals_.size();
  std::array<uint8_t, 512> on_stack;
  std::vector<uint8_t> on_heap;
  uint8_t* is_met = on_stack.data();
  if (num_bytes > on_stack.size()) {
    on_heap.resize(num_bytes);
    is_met = on_heap.data();
  } else {
    std::fill_n(is_met, num_bytes, 0);
  }
  uint8_t* num_met = is_met + users_.size();
  int state = 0;
  for (const char c : text) {
    state = step(state, c);
    const State& here = states_[static_cast<size_t>(state)];
    int end = here.literal >= 0 ? state : here.next_end;
    for (; end != 0; end = states_[static_cast<size_t>(end)].next_end) {
      const auto literal =
          static_cast<size_t>(states_[static_cast<size_t>(end)].literal);
      if (is_met[literal]) {
        break;  // and so are those at its own suffixes
      }
      is_met[literal] = 1;
      for (const int pattern : users_[literal]) {
        const auto index = static_cast<size_t>(pattern);
        if (++num_met[index] == num_literals_[index]) {
          found.push_back(pattern);
        }
      }
    }
  }
  if (found.size() > 1) {
    std::ranges::sort(found);
  }
}

}  // namespace torch_mesh
