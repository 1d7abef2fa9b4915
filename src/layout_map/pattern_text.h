// pattern_text.h: reads a pattern as Python's `re` reads it.
//
// Keras gives its patterns to `re.fullmatch`. The part of that language which
// is regular, and means the same in every engine once it is spelt out, is
// rewritten here: flags become classes, classes name their characters, groups
// capture nothing. What is left over is refused, with a reason: look-around,
// back-references, possessive repeats, and what `re` itself refuses. So an
// engine only ever sees text on which it agrees with `re`.
//
// That holds for texts of printable ASCII (is_plain). Beyond them `\w`, `$` and
// case mean different things to different engines.

#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "layout_map/pieces.h"

namespace torch_mesh {

struct PatternText {
  // The pattern for std::regex (ECMAScript); matches what re.fullmatch matches,
  // among plain texts.
  std::string expression;
  // Texts that occur in all that the pattern matches, two characters or more.
  std::vector<std::string> literals;
  // How it is matched without an engine, where that is possible.
  std::optional<Pieces> pieces;
  // Why the pattern is not read; "" if it is. Then all else is empty.
  std::string problem;
};

PatternText read_pattern(std::string_view text);

}  // namespace torch_mesh
