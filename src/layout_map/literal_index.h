// literal_index.h: which patterns a text may match at all, in one pass.
//
// A pattern is a candidate if its literals occur in the text. An automaton
// after Aho and Corasick (CACM 18:6, 1975) finds those of all patterns at once:
// a step for each character, however many patterns there are.

#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace torch_mesh {

// Immutable. Threads: safe.
class LiteralIndex {
 public:
  // literals[i]   of pattern i; one without any is always a candidate
  explicit LiteralIndex(const std::vector<std::vector<std::string>>& literals);

  // Ascending, in place of what is in `found`. A "\n" in the text separates
  // parts: no literal reaches over it.
  void candidates(std::string_view text, std::vector<int>& found) const;

 private:
  struct State {
    int literal = -1;  // that ends here
    int suffix = 0;    // the longest end of this text that is also a state
    int next_end = 0;  // the nearest suffix at which a literal ends; 0 for none
  };

  int step(int state, char c) const {
    const int column = columns_[static_cast<unsigned char>(c)];
    return steps_[static_cast<size_t>(state * num_columns_ + column)];
  }
  void add_state();
  int add_literal(const std::string& literal);
  void link_suffixes();

  // Characters that are in no literal share column 0, which leads to state 0.
  std::array<uint8_t, 256> columns_{};
  int num_columns_ = 1;
  std::vector<State> states_;
  std::vector<int> steps_;               // state x column
  std::vector<std::vector<int>> users_;  // of literal i
  std::vector<uint8_t> num_literals_;    // of pattern i
  std::vector<int> without_literals_;
};

}  // namespace torch_mesh
