// pieces.h: patterns that are matched without an engine.
//
// A sequence of characters, classes, repeats of one class and `.*`, in which it
// is plain where each repeat ends, is matched in one walk without going back:
// "stage_\d+/.*kernel" is the pieces "stage_\d+/" and "kernel" with anything in
// between.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "layout_map/char_set.h"

namespace torch_mesh {

constexpr uint32_t kForever = UINT32_MAX;

// One place of a sequence: `least` to `most` characters of a set.
struct Item {
  CharSet set;  // empty: something else, which only an engine reads
  uint32_t least = 1;
  uint32_t most = 1;

  bool is_one() const { return least == 1 && most == 1 && set.any(); }
  bool is_char() const { return is_one() && set.count() == 1; }
  char character() const;  // requires is_char()
  bool is_anything() const {
    return least == 0 && most == kForever && set == all_chars();
  }
};

// Immutable. Threads: safe.
class Pieces {
 public:
  // No value for what needs an engine.
  static std::optional<Pieces> of(const std::vector<Item>& items);

  // As re.fullmatch. Requires is_plain(text).
  bool matches_all_of(std::string_view text) const;

 private:
  // A literal, then as many characters of a set as there are.
  struct Step {
    std::string literal;
    CharSet set;
    uint32_t least = 0;
    uint32_t most = 0;
  };
  using Piece = std::vector<Step>;

  static size_t end_of(const Piece& piece, std::string_view text, size_t start);
  static Piece piece_of(const std::vector<Item>& items);

  std::vector<Piece> pieces_;  // with anything in between
};

}  // namespace torch_mesh
