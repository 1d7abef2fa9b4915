// pattern.cpp: patterns on std::regex, where they need an engine at all.
//
// Most need none (pieces.h): that takes 30 ns and nothing to build
// (docs/design/0002-layout-maps.md).

#include "layout_map/pattern.h"

#include <regex>
#include <utility>

namespace torch_mesh {

struct Pattern::Engine {
  explicit Engine(const std::string& expression) {
    try {
      regex.assign(expression, std::regex::ECMAScript | std::regex::optimize);
    } catch (const std::regex_error& error) {
      problem_ = error.what();
    }
  }

  const std::string& problem() const { return problem_; }
  bool matches(std::string_view text) const {
    return std::regex_match(text.begin(), text.end(), regex);
  }

  std::regex regex;
  std::string problem_;
};

Pattern::Pattern(std::string text)
    : text_(std::move(text)), read_(read_pattern(text_)) {
  if (!read_.problem.empty() || read_.pieces) {
    return;
  }
  auto engine = std::make_unique<const Engine>(read_.expression);
  if (const std::string problem = engine->problem(); !problem.empty()) {
    read_ = {};
    read_.problem = problem;
    return;
  }
  engine_ = std::move(engine);
}

Pattern::~Pattern() = default;

bool Pattern::matches_all_of(std::string_view text) const {
  return engine_ ? engine_->matches(text) : read_.pieces->matches_all_of(text);
}

}  // namespace torch_mesh
