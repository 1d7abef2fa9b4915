// pattern.cpp: patterns on RE2, or on std::regex where RE2 is missing.
//
// Most patterns need no engine (pieces.h): that takes 30 ns and nothing to
// build, where RE2 takes 100 ns and 50 us (docs/design/0002-layout-maps.md).

#include "layout_map/pattern.h"

#include <utility>

#ifdef TORCH_MESH_WITH_RE2
#include <re2/re2.h>
#else
#include <regex>
#endif

namespace torch_mesh {
#ifdef TORCH_MESH_WITH_RE2

struct Pattern::Engine {
  explicit Engine(const std::string& expression)
      : regex(expression, options()) {}

  static RE2::Options options() {
    RE2::Options options;
    options.set_encoding(RE2::Options::EncodingLatin1);  // texts are ASCII
    options.set_never_capture(true);
    options.set_log_errors(false);
    return options;
  }

  std::string problem() const { return regex.ok() ? "" : regex.error(); }
  bool matches(std::string_view text) const {
    return regex.Match(
        {text.data(), text.size()},
        0,
        text.size(),
        RE2::ANCHOR_BOTH,
        nullptr,
        0);
  }

  RE2 regex;
};

const char* pattern_engine() { return "RE2"; }

#else

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

const char* pattern_engine() { return "std::regex"; }

#endif

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
