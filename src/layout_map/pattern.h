// pattern.h: one pattern of a layout map, compiled.

#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "layout_map/pattern_text.h"

namespace torch_mesh {

// Immutable. Threads: safe.
class Pattern {
 public:
  // Never throws for what is in `text`: ask problem().
  explicit Pattern(std::string text);
  ~Pattern();
  Pattern(const Pattern&) = delete;
  Pattern& operator=(const Pattern&) = delete;

  const std::string& text() const { return text_; }
  // Why matches_all_of cannot be asked; "" if it can.
  const std::string& problem() const { return read_.problem; }
  // Texts that occur in all that the pattern matches.
  const std::vector<std::string>& literals() const { return read_.literals; }

  // As re.fullmatch. Requires is_plain(text), and no problem().
  bool matches_all_of(std::string_view text) const;

 private:
  struct Engine;  // std::regex

  std::string text_;
  PatternText read_;
  std::unique_ptr<const Engine> engine_;  // null if pieces are all there is
};

}  // namespace torch_mesh
